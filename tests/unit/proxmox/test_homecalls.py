"""Calls home: who is answered, once; who is refused, and what people are told of it."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from typing import Any

import pytest

from labspawner.guest.labspawner_guest import HINT as GUESTS_OWN
from labspawner.model import LeaseId
from labspawner.providers.contract import HomeAnswer, HomeCall
from labspawner.providers.proxmox import homecalls
from labspawner.providers.proxmox.homecalls import Expected, HomeCalls, digest, hint, new_nonce, place_of
from labspawner.providers.proxmox.job import Job
from labspawner.providers.proxmox.options import ProxmoxVariant
from labspawner.providers.proxmox.record import Record, record_of
from labspawner.testing.requests import launch_request

HERE = "10.20.0.50"
UUID = "6b2d53b7-4e35-4173-bd6c-21b71f07e3f8"


class Told:
    """Calls that wait, and what people were told."""

    def __init__(self, **changes: int) -> None:
        self.told: list[tuple[LeaseId, str]] = []
        self.calls = HomeCalls(now=lambda: 7.0, tell=self._tell, **changes)

    async def _tell(self, lease_id: LeaseId, wrong: str) -> None:
        self.told.append((lease_id, wrong))


def a_job(*, left_s: float = 600.0, address: str = HERE, uuid: str = UUID) -> Job:
    """A start whose VM was given a nonce. Only inside a loop."""
    job = Job(
        request=launch_request(),
        variant=ProxmoxVariant(template="t", handover="call-home"),
        provider="proxmox",
        deadline=asyncio.get_running_loop().time() + left_s,
    )
    job.nonce = new_nonce()
    job.record = Record(address=address, uuid=uuid, nonce=digest(job.nonce))
    return job


def call(job: Job, **changes: Any) -> HomeCall:
    values: dict[str, Any] = {"nonce": job.nonce, "address": HERE, "uuid": UUID}
    return HomeCall(**{**values, **changes})


async def answered(calls: HomeCalls, expected: Expected, said: HomeCall) -> HomeAnswer | None:
    """The answer of a call whose start gives it the environment `{}`."""
    asked = asyncio.ensure_future(calls.answer(said))
    await expected.called
    expected.give("{}")
    return await asked


def waiting(expected: Expected | None) -> Expected:
    assert expected is not None
    expected.answers = True
    return expected


# -- what a VM is given


def test_a_nonce_has_256_bits_and_no_two_are_alike() -> None:
    many = {new_nonce() for _ in range(100)}

    assert len(many) == 100
    assert all(len(base64.urlsafe_b64decode(nonce + "=")) == 32 for nonce in many)


def test_the_hint_is_taken_for_a_hash_by_pve_and_read_by_the_guest_and_no_password_fits_it() -> None:
    said = hint("n" * 43, "http://10.20.0.1:8081/hub/labspawner/guest")

    assert re.match(r"^\$(?:[156]|2[ay])(\$.+){2}", said)  # what PVE and cloud-init leave as it is
    assert not re.search(r"[\s:#'\"\\]", said)  # plain in YAML, and in /etc/shadow
    assert said.count("$") == 4  # crypt's own have three, and no fourth in what they come to
    found = GUESTS_OWN.search(f"#cloud-config\nuser: student\npassword: {said}\nchpasswd:\n  expire: False\n")
    assert found is not None
    assert (found[1], base64.urlsafe_b64decode(found[2] + "==")) == (
        "n" * 43,
        b"http://10.20.0.1:8081/hub/labspawner/guest",
    )


@pytest.mark.parametrize(
    ("api", "connect", "place"),
    [
        ("http://10.1.1.1:8081/hub/api", None, "http://10.1.1.1:8081/hub/labspawner/guest"),
        ("https://hub.example/base/hub/api", None, "https://hub.example/base/hub/labspawner/guest"),
        ("http://127.0.0.1:8081/hub/api", "http://10.20.0.1:8081/", "http://10.20.0.1:8081/hub/labspawner/guest"),
        ("http://127.0.0.1:8081/hub/api", None, None),
        ("http://localhost:8081/hub/api", None, None),
        ("http://0.0.0.0:8081/hub/api", None, None),
        ("http://[::1]:8081/hub/api", None, None),
        ("", None, None),
    ],
)
def test_a_vm_calls_the_hub_where_it_reaches_it_or_not_at_all(api: str, connect: str | None, place: str | None) -> None:
    assert place_of({"JUPYTERHUB_API_URL": api}, connect) == place


async def test_only_what_the_nonce_hashes_to_is_kept_and_a_job_does_not_show_it() -> None:
    job = a_job()
    handle = job.record.handle(job.request.lease_id, "proxmox")

    assert job.nonce not in str(handle.data)
    assert handle.data["nonce"] == digest(job.nonce)
    assert record_of(handle).nonce == digest(job.nonce)
    with Told().calls.expecting(job) as expected:
        assert job.nonce not in repr(job) + str(job) + repr(expected) + repr(call(job))


# -- the right call


async def test_the_right_call_is_answered_with_what_its_start_gives() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        answer = await answered(told.calls, waiting(expected), call(job, versions={"jupyterhub": "6.1.1"}))

    assert answer == HomeAnswer(body="{}")
    assert expected is not None
    assert expected.called.result().versions == {"jupyterhub": "6.1.1"}
    assert told.told == []
    assert "{}" not in repr(answer)


async def test_while_the_agent_is_tried_a_call_is_told_to_ask_again_and_is_not_used_up() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        assert expected is not None
        first = await told.calls.answer(call(job))
        assert (first, expected.heard_at) == (HomeAnswer(retry_after_s=homecalls.RETRY_AFTER_S), 7.0)

        assert await answered(told.calls, waiting(expected), call(job)) == HomeAnswer(body="{}")


async def test_a_vm_without_a_nonce_is_not_expected() -> None:
    told, job = Told(), a_job()
    job.nonce = ""
    with told.calls.expecting(job) as expected:
        assert expected is None
        assert await told.calls.answer(call(job, nonce="")) is None


async def test_an_address_that_is_ipv4_in_ipv6_is_the_same() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        assert await answered(told.calls, waiting(expected), call(job, address=f"::ffff:{HERE}")) is not None


async def test_a_start_that_refuses_its_own_caller_says_no_more_than_to_others() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        asked = asyncio.ensure_future(told.calls.answer(call(job)))
        await waiting(expected).called
        waiting(expected).give(None)

        assert await asked is None


# -- attacks


async def test_a_replay_is_refused_and_people_are_told_once() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        await answered(told.calls, waiting(expected), call(job))

        assert [await told.calls.answer(call(job)) for _ in range(3)] == [None, None, None]

    assert [(lease, "once more" in wrong) for lease, wrong in told.told] == [(job.request.lease_id, True)]


async def test_a_replay_after_the_start_is_refused_and_people_are_told() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        await answered(told.calls, waiting(expected), call(job))

    assert await told.calls.answer(call(job, address="10.20.0.99")) is None
    assert [lease for lease, _ in told.told] == [job.request.lease_id]


async def test_of_two_at_once_one_is_answered() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        waiting(expected)
        many = [asyncio.ensure_future(told.calls.answer(call(job))) for _ in range(5)]
        await asyncio.gather(*many[1:])
        waiting(expected).give("{}")
        answers = await asyncio.gather(*many)

    assert [answer is not None for answer in answers] == [True, False, False, False, False]
    assert len(told.told) == 1


async def test_a_wrong_address_is_refused_told_to_people_and_leaves_the_right_one_its_call() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        waiting(expected)
        assert await told.calls.answer(call(job, address="10.20.0.51")) is None
        assert await told.calls.answer(call(job, address="nowhere")) is None
        assert expected is not None
        assert expected.heard_at is None

        assert await answered(told.calls, expected, call(job)) is not None

    assert [wrong for _, wrong in told.told] == [
        "its nonce was shown from 10.20.0.51, and its address is 10.20.0.50",
        "its nonce was shown from nowhere, and its address is 10.20.0.50",
    ]


async def test_another_machine_at_the_right_address_is_refused_where_it_says_so_itself() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        waiting(expected)
        assert await told.calls.answer(call(job, uuid="11111111-4e35-4173-bd6c-21b71f07e3f8")) is None

    assert len(told.told) == 1


async def test_another_leases_nonce_opens_nothing_from_ones_own_address() -> None:
    told, mine, other = Told(), a_job(), a_job(address="10.20.0.51", uuid="")
    with told.calls.expecting(mine) as expected, told.calls.expecting(other) as theirs:
        waiting(expected)
        waiting(theirs)

        assert await told.calls.answer(call(mine, nonce=other.nonce)) is None

    assert [lease for lease, _ in told.told] == [other.request.lease_id]


async def test_a_guess_is_refused_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    told, job = Told(), a_job()
    with caplog.at_level(logging.DEBUG), told.calls.expecting(job) as expected:
        waiting(expected)
        for guess in (new_nonce(), "", "x" * 256, job.nonce[:-1], job.record.nonce, "\udcff"):
            assert await told.calls.answer(call(job, nonce=guess)) is None

    assert told.told == []
    assert caplog.text == ""


async def test_after_the_deadline_the_right_call_is_refused() -> None:
    told, job = Told(), a_job(left_s=-1.0)
    with told.calls.expecting(job) as expected:
        waiting(expected)
        assert await told.calls.answer(call(job)) is None


async def test_when_the_start_has_ended_its_nonce_opens_nothing_and_who_waits_is_refused() -> None:
    told, job = Told(), a_job()
    with told.calls.expecting(job) as expected:
        waiting(expected)
        asked = asyncio.ensure_future(told.calls.answer(call(job)))
        assert expected is not None
        await expected.called

    assert await asked is None
    unused = a_job()
    with told.calls.expecting(unused):
        pass
    assert await told.calls.answer(call(unused)) is None


async def test_no_nonce_is_logged_or_told(caplog: pytest.LogCaptureFixture) -> None:
    told, job = Told(), a_job()
    with caplog.at_level(logging.DEBUG), told.calls.expecting(job) as expected:
        await told.calls.answer(call(job, address="10.20.0.51"))
        await answered(told.calls, waiting(expected), call(job))
        await told.calls.answer(call(job))

    assert len(told.told) == 2
    assert job.nonce not in caplog.text + str(told.told)
    assert job.record.nonce not in caplog.text + str(told.told)
    assert str(job.request.lease_id) in caplog.text


async def test_what_is_remembered_of_calls_has_a_limit() -> None:
    told, jobs = Told(remembers=3), []
    for _ in range(5):
        jobs.append(job := a_job())
        with told.calls.expecting(job) as expected:
            await answered(told.calls, waiting(expected), call(job))

    for job in jobs:
        assert await told.calls.answer(call(job)) is None
    assert [lease for lease, _ in told.told] == [job.request.lease_id for job in jobs[2:]]
