"""`labspawner hold` and its twin without click."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from click.testing import CliRunner
from hubdouble import TOKEN, HubDouble, a_hub
from hypothesis import given
from hypothesis import strategies as st

from labspawner.cli.hold import hold as command
from labspawner.extension.hold import Unreadable, hold, seconds_in


@pytest.fixture
def inside(hub: HubDouble) -> dict[str, str]:
    """The environment of a terminal in a student's server."""
    hub.refuse, hub.status = False, 200
    return {
        "JUPYTERHUB_API_URL": hub.url,
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "LABSPAWNER_LEASE_ID": "lease-of-a-test",
        "LANG": "en_US.UTF-8",
        "http_proxy": "http://127.0.0.1:9",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1d", 86400), (" 45MIN ", 2700), ("10s", 10), ("1d2h3m4s", 93784)],
)
def test_a_length_of_time_has_units(text, seconds):
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "0h", "-2h", "2 hours", "1.5h", "30m1h", "٢h", "9" * 99 + "h"])
def test_what_is_no_length_of_time_is_refused(text):
    with pytest.raises(Unreadable):
        seconds_in(text)


@given(st.text(max_size=12))
def test_any_text_is_a_length_of_time_or_refused(text):
    with contextlib.suppress(Unreadable):
        assert seconds_in(text) > 0


def test_it_says_until_when_the_server_is_kept_and_what_is_left(hub, inside):
    before = datetime.now().astimezone()
    status, sentence = hold("2h", "training", inside)
    after = datetime.now().astimezone()

    assert status == 0
    assert any((now + timedelta(hours=2)).strftime("%H:") in sentence for now in (before, after))
    assert "4 h" in sentence
    assert hub.all("hold")[-1] == {"seconds": 7200, "reason": "training"}


def test_a_release_asks_for_nothing_more(hub, inside):
    status, sentence = hold(None, environment=inside)

    assert (status, hub.all("hold")[-1]) == (0, {"seconds": 0})
    assert sentence == "Your server is no longer held. You can hold it for another 6 h."


def test_it_speaks_chinese_where_the_terminal_does(inside):
    _, sentence = hold("2h", environment={**inside, "LANG": "zh_CN.UTF-8"})

    assert sentence.startswith("您的服务器将保留至")
    assert "4 小时" in sentence


def test_what_the_hub_refuses_is_said_in_its_words(hub, inside):
    hub.refuse = True

    assert hold("2h", environment=inside) == (1, "No more extensions today.")
    assert hold("2h", environment={**inside, "LANG": "zh_CN"}) == (1, "今天不能再延长了。")


@pytest.mark.parametrize("broken", [500, 403])
def test_a_hub_that_answers_nonsense_is_said_so(hub, inside, broken):
    hub.status = broken

    status, sentence = hold("2h", environment=inside)

    assert (status, "does not answer" in sentence) == (1, True)


def test_a_hub_that_is_away_is_said_so(inside):
    with a_hub() as gone:
        url = gone.url

    assert hold("2h", environment={**inside, "JUPYTERHUB_API_URL": url})[0] == 1


@pytest.mark.parametrize("missing", ["JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "LABSPAWNER_LEASE_ID"])
def test_outside_a_server_it_says_so(inside, missing):
    status, sentence = hold("2h", environment={**inside, missing: ""})

    assert (status, "terminal of your own server" in sentence) == (2, True)


def test_a_time_without_a_unit_is_not_sent(hub, inside):
    before = len(hub.all("hold"))

    assert hold("2", environment=inside)[0] == 2
    assert len(hub.all("hold")) == before


def test_the_command_asks_and_exits_with_the_hubs_answer(hub, inside):
    kept = CliRunner().invoke(command, ["2h", "long", "training"], env=inside)
    released = CliRunner().invoke(command, ["--release"], env=inside)
    hub.refuse = True
    refused = CliRunner().invoke(command, ["2h"], env=inside)

    assert (kept.exit_code, released.exit_code, refused.exit_code) == (0, 0, 1)
    assert "kept until" in kept.stdout
    assert "No more extensions" in refused.stderr
    assert hub.all("hold")[-3] == {"seconds": 7200, "reason": "long training"}


@pytest.mark.parametrize("arguments", [[], ["2h", "--release"]])
def test_the_command_wants_a_time_or_a_release(arguments):
    assert CliRunner().invoke(command, arguments).exit_code == 2


def run_module(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "labspawner.extension", *arguments]
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return subprocess.run(argv, env={**env, **measured}, capture_output=True, text=True, check=False)


def test_it_works_where_only_the_package_is(hub, inside):
    kept = run_module("hold", "2h", "training", env=inside)
    released = run_module("hold", "--release", env=inside)
    outside = run_module("hold", "2h", env={"LANG": "C"})
    wrong = run_module("keep", env=inside)

    assert [ran.returncode for ran in (kept, released, outside, wrong)] == [0, 0, 2, 2]
    assert "kept until" in kept.stdout
    assert "usage: hold" in wrong.stderr


def test_a_day_and_more_is_said_with_its_date(hub, inside):
    before = datetime.now().astimezone()
    _, sentence = hold("3d", environment=inside)
    after = datetime.now().astimezone()

    assert any((now + timedelta(days=3)).strftime("%Y-%m-%d ") in sentence for now in (before, after))


def test_with_internal_ssl_a_broken_certificate_is_no_traceback(inside, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    tls = {"JUPYTERHUB_API_URL": "https://127.0.0.1:1/hub/api", "JUPYTERHUB_SSL_CLIENT_CA": str(tmp_path / "ca.pem")}

    assert hold("2h", environment={**inside, **tls})[0] == 1
