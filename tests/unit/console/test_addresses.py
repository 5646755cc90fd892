"""Where the audit log says that a request came from: no header that a browser can send decides it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.console.standin import a_console

from labspawner.service.console.addresses import sender

PROXY, STUDENT = "127.0.0.1", "10.20.0.7"


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (STUDENT, STUDENT),
        (f"{STUDENT}, 127.0.0.1", STUDENT),
        (f"6.6.6.6, {STUDENT}", STUDENT),
        (f"6.6.6.6, {STUDENT}, 127.0.0.1, ::1", STUDENT),
        ("6.6.6.6, 2001:db8::7", "2001:db8::7"),
        ("6.6.6.6, not-an-address", PROXY),
        ("6.6.6.6, ", PROXY),
        ("", PROXY),
    ],
)
def test_it_is_the_last_address_that_a_proxy_of_ours_has_heard_from(forwarded, address):
    assert sender({"X-Forwarded-For": forwarded}, PROXY) == address


def test_who_comes_without_a_proxy_is_themselves():
    assert sender({}, STUDENT) == STUDENT
    assert sender({"X-Forwarded-For": "6.6.6.6"}, STUDENT) == STUDENT


def test_x_real_ip_is_never_believed():
    assert sender({"X-Real-Ip": "6.6.6.6", "X-Forwarded-For": STUDENT}, PROXY) == STUDENT


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_whatever_a_browser_sends_along_changes_nothing(text):
    assert sender({"X-Forwarded-For": f"{text}, {STUDENT}"}, PROXY) == STUDENT


async def test_the_audit_log_names_the_student_and_not_what_they_say(tmp_path):
    async with a_console(tmp_path, {"doctor": {"examination": None}}) as console:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        forged = {"X-Forwarded-For": f"6.6.6.6, {STUDENT}", "X-Real-Ip": "6.6.6.6", "X-Scheme": "https"}

        await console.ask("POST", "admin/doctor", "admin", {**kind, **forged}, "")

        (record,) = await console.house.store.audit.search(verb="doctor.run")
        assert record.entry.actor_ip == STUDENT
