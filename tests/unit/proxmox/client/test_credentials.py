"""Tokens, tickets, and credentials that are refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

import pytest
from unit.proxmox.client.scripted import TOKEN, Reply, refusal

from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.testing.waiting import eventually

LOGIN = {"token": "", "username": "labs@pve", "password": "the-password"}
NO = Reply(status=401, reason="Authentication failed!", raw=b"")


class Clock:
    """Time that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tickets(pve, *, refuse: Collection[str] = ()):
    """Give tickets T1, T2 ...; for those of `refuse` and for wrong passwords, and for requests with others, a 401."""
    given: list[str] = []

    def login(asked):
        if asked.form["password"][0] not in {"the-password", *given} - set(refuse):
            return refusal(401, "authentication failure")
        given.append(f"T{len(given) + 1}")
        return Reply({"ticket": given[-1], "CSRFPreventionToken": f"csrf-{given[-1]}", "username": "labs@pve"})

    def some(asked):
        good = {f"PVEAuthCookie={each}" for each in given if each not in refuse}
        return Reply("data") if asked.headers.get("cookie") in good else NO

    pve.routes["POST", "/access/ticket"] = login
    pve.routes["GET", "/x"] = pve.routes["POST", "/x"] = some


async def test_a_ticket_is_asked_for_once_and_goes_with_each_request(pve, a_client):
    tickets(pve)
    client = a_client(pve, **LOGIN)

    assert await asyncio.gather(*(client.get("/x") for _ in range(5))) == ["data"] * 5

    assert pve.count("/access/ticket") == 1
    assert "csrfpreventiontoken" not in pve.asked[-1].headers


async def test_what_changes_something_carries_the_second_half_of_a_ticket(pve, a_client):
    tickets(pve)

    await a_client(pve, **LOGIN).post("/x")

    assert pve.asked[-1].headers["csrfpreventiontoken"] == "csrf-T1"
    assert "authorization" not in pve.asked[-1].headers


async def test_a_ticket_is_renewed_with_itself_before_it_ends(pve, a_client, clock):
    tickets(pve)
    client = a_client(pve, client={"pace": clock}, **LOGIN)
    await client.get("/x")
    clock.at += 3700

    await client.get("/x")

    logins = [each.form["password"][0] for each in pve.asked if each.path == "/access/ticket"]
    assert logins == ["the-password", "T1"]


async def test_a_ticket_that_cannot_be_renewed_is_replaced_with_the_password(pve, a_client, clock):
    refused: set[str] = set()
    tickets(pve, refuse=refused)
    client = a_client(pve, client={"pace": clock}, **LOGIN)
    await client.get("/x")
    refused.add("T1")
    clock.at += 3700

    assert await client.get("/x") == "data"

    logins = [each.form["password"][0] for each in pve.asked if each.path == "/access/ticket"]
    assert logins == ["the-password", "T1", "the-password"]


async def test_a_ticket_that_is_refused_is_replaced_once_even_for_a_post(pve, a_client):
    tickets(pve, refuse={"T1"})

    assert await a_client(pve, **LOGIN).post("/x") == "data"

    assert pve.count("/x") == 2


async def test_a_wrong_password_is_tried_once_however_many_ask(pve, a_client):
    tickets(pve)
    client = a_client(pve, **{**LOGIN, "password": "wrong"})

    answers = await asyncio.gather(*(client.get("/x") for _ in range(5)), return_exceptions=True)

    assert all(isinstance(each, PveRefused) and each.fault is Fault.BAD_CREDENTIALS for each in answers)
    assert pve.count("/access/ticket") == 1


async def test_a_second_factor_is_said_to_need_a_token(pve, a_client):
    pve.on("POST", "/access/ticket", {"ticket": "x", "CSRFPreventionToken": "y", "NeedTFA": 1})

    with pytest.raises(PveRefused, match="use an API token"):
        await a_client(pve, **LOGIN).get("/x")


async def test_a_login_that_hangs_ends_at_the_deadline_of_who_asked(pve, a_client, held):
    pve.on("POST", "/access/ticket", Reply(hold=held))

    with pytest.raises(PveSilent) as caught:
        await a_client(pve, **LOGIN).post("/x", within_s=0.3)

    assert not caught.value.sent


async def test_refused_credentials_are_not_tried_again_for_a_growing_while(pve, a_client, clock):
    pve.on("GET", "/x", NO)
    client = a_client(pve, client={"pace": clock})
    pauses = []
    for _ in range(3):
        with pytest.raises(PveRefused) as first:
            await client.get("/x")
        with pytest.raises(PveRefused) as held_back:
            await client.get("/x")
        assert first.value.held_back_s is None
        pauses.append(held_back.value.held_back_s)
        clock.at += pauses[-1] + 1

    assert pauses == [10.0, 20.0, 40.0]
    assert pve.count("/x") == 3
    assert held_back.value.fault is Fault.BAD_CREDENTIALS
    assert "Authentication failed!" in str(held_back.value)


async def test_credentials_that_are_good_again_close_the_breaker(pve, a_client, clock):
    pve.on("GET", "/x", NO, "data")
    client = a_client(pve, client={"pace": clock})
    with pytest.raises(PveRefused):
        await client.get("/x")
    health = client.health()
    assert (health.credentials, health.why, health.again_in_s) == ("refused", "Authentication failed!", 10.0)
    clock.at += 11

    assert await client.get("/x") == "data"
    assert await client.get("/x") == "data"
    assert client.health().credentials == "ok"


async def test_only_one_request_tries_refused_credentials_again(pve, a_client, clock, held):
    pve.on("GET", "/x", NO, Reply("data", hold=held))
    client = a_client(pve, client={"pace": clock})
    with pytest.raises(PveRefused):
        await client.get("/x")
    clock.at += 11

    probe = asyncio.ensure_future(client.get("/x"))
    await eventually(lambda: pve.count("/x") == 2)
    with pytest.raises(PveRefused) as caught:
        await client.get("/x")
    held.set()

    assert caught.value.held_back_s is not None
    assert await probe == "data"


async def test_a_403_says_nothing_against_the_credentials(pve, a_client):
    pve.on("GET", "/x", refusal(403, "Permission check failed (/, Sys.Audit)"), "data")
    client = a_client(pve)
    with pytest.raises(PveRefused):
        await client.get("/x")

    assert await client.get("/x") == "data"


async def test_a_token_file_is_read_again_when_the_token_is_refused(pve, a_client, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    pve.routes["POST", "/x"] = lambda asked: Reply("data") if asked.headers["authorization"].endswith("newer") else NO
    client = a_client(pve, token="", token_file=file)
    await client.get("/version")
    file.write_text("labs@pve!hub=newer")

    assert await client.post("/x") == "data"


async def test_a_token_file_that_did_not_change_is_no_reason_to_ask_again(pve, a_client, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    pve.on("GET", "/x", NO)

    with pytest.raises(PveRefused):
        await a_client(pve, token="", token_file=file).get("/x")

    assert pve.count("/x") == 1


async def test_no_secret_reaches_a_log_or_an_error(pve, a_client, caplog):
    caplog.set_level(logging.DEBUG)
    tickets(pve)
    pve.on("PUT", "/y", refusal(500, "no"))
    pve.on("DELETE", "/y", Reply(drop=True))
    token, login = a_client(pve), a_client(pve, **LOGIN)

    for client in (token, login):
        await client.get("/version", vncticket="in-a-query")
        for ask, name in ((client.put, "cipassword"), (client.delete, "cipassword")):
            with pytest.raises((PveRefused, PveSilent)) as caught:
                await ask("/y", **{name: "in-a-body"})
            assert "in-a-body" not in str(caught.value)

    assert pve.count("/y") == 4
    for secret in ("the-secret", "the-password", "T1", "csrf-", "in-a-body", "in-a-query"):
        assert secret not in caplog.text
    for text in (repr(client._access), str(client._access)):
        assert "the-password" not in text
