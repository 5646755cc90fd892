"""Where machines call home: one short refusal for everybody but the one, whatever is wrong, and nothing in the log."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from tornado import httpserver, netutil, web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from labspawner.errors import ProviderUnavailable
from labspawner.pages import hub
from labspawner.pages.callhome import CallHomeHandler, Rate, call_of
from labspawner.providers.contract import HomeAnswer, HomeCall
from labspawner.sentences import Sentence

PATH = "/hub/labspawner/guest/call-home"
CALL = {"protocol": 1, "nonce": "n-1", "uuid": "u-1", "versions": {"jupyterhub": "6.1.1"}}


class Welcomer:
    """A provider that answers each call as it is told to."""

    def __init__(self) -> None:
        self.answer: HomeAnswer | Exception | None = None
        self.heard: list[HomeCall] = []

    async def call_home(self, call: HomeCall) -> HomeAnswer | None:
        self.heard.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Hub:
    """A hub's HTTP server with this handler, and two providers: only one has machines that call."""

    def __init__(self, rate: Rate) -> None:
        self.provider = Welcomer()
        runtime = SimpleNamespace(providers={"local": object(), "proxmox": self.provider})
        users = SimpleNamespace(settings={"labspawner": runtime})
        self.application = web.Application(
            [(PATH, CallHomeHandler, {"rate": rate})], users=users, xsrf_cookies=True, cookie_secret="s"
        )
        self.server = httpserver.HTTPServer(self.application, xheaders=True)  # as JupyterHub has it
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.server.add_sockets(sockets)

    async def post(self, body: object = CALL, method: str = "POST", **headers: str) -> HTTPResponse:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}{PATH}", method, body=sent, headers=headers, allow_nonstandard_methods=True,
            request_timeout=60,
        )  # fmt: skip
        return await AsyncHTTPClient().fetch(request, raise_error=False)


@pytest_asyncio.fixture
async def site() -> Any:
    made = Hub(Rate(at_once=1000))
    yield made
    made.server.stop()
    await made.server.close_all_connections()


def test_every_hub_has_the_place() -> None:
    assert [kind for path, kind, _ in hub.extra_handlers() if path == PATH.removeprefix("/hub")] == [CallHomeHandler]


async def test_the_environment_is_the_whole_answer_and_nobody_keeps_it(site: Hub) -> None:
    site.provider.answer = HomeAnswer(body='{"protocol": 1}')

    answer = await site.post()

    assert (answer.code, answer.body) == (200, b'{"protocol": 1}')
    assert answer.headers["Cache-Control"] == "no-store"
    (heard,) = site.provider.heard
    assert (heard.nonce, heard.uuid, heard.versions) == ("n-1", "u-1", {"jupyterhub": "6.1.1"})


async def test_not_yet_is_a_202_with_seconds(site: Hub) -> None:
    site.provider.answer = HomeAnswer(retry_after_s=3.0)

    answer = await site.post()

    assert (answer.code, answer.headers["Retry-After"], answer.body) == (202, "3", b"")


async def test_the_address_is_the_connections_own_whatever_headers_say(site: Hub) -> None:
    site.provider.answer = HomeAnswer(body="{}")

    await site.post(**{"X-Forwarded-For": "10.20.0.50", "X-Real-Ip": "10.20.0.50"})

    assert [call.address for call in site.provider.heard] == ["127.0.0.1"]


async def test_every_refusal_is_the_same(site: Hub) -> None:
    nested = b"[" * 100_000
    wrong: list[object] = [
        CALL, {**CALL, "nonce": "x"}, {**CALL, "nonce": ""}, {**CALL, "nonce": 7}, {**CALL, "nonce": "x" * 300},
        {**CALL, "protocol": 2}, {**CALL, "protocol": True}, {}, [], "x", 1, None, b"", b"{", b"\xff\xfe", b"x" * 9000,
        nested[:8000],
    ]  # fmt: skip

    answers = [await site.post(body) for body in wrong]
    site.provider.answer = ProviderUnavailable(Sentence("The cluster does not answer."), detail="pve1 is away")
    answers.append(await site.post())
    answers += [await site.post(method=method) for method in ("PUT", "DELETE", "PATCH", "OPTIONS")]

    assert {(answer.code, answer.body) for answer in answers} == {
        (403, b'{"protocol": 1, "ok": false, "message": "refused"}')
    }
    assert {
        tuple(sorted(set(answer.headers) - {"Date", "Content-Length", "Connection"})) for answer in answers[:-4]
    } == {("Cache-Control", "Content-Type", "Server")}


async def test_a_hub_without_such_providers_or_that_has_only_just_started_refuses(site: Hub) -> None:
    site.application.settings["users"].settings["labspawner"] = SimpleNamespace(providers={"local": object()})
    first = await site.post()
    site.application.settings["users"].settings.clear()

    assert [first.code, (await site.post()).code] == [403, 403]
    assert site.provider.heard == []


async def test_nothing_of_a_call_is_logged(site: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await site.post()
        await site.post(b"{")
        site.provider.answer = HomeAnswer(body='{"environment": {"T": "secret"}}')
        await site.post()

    ours = [record for record in caplog.records if record.name.startswith(("labspawner", "tornado"))]
    assert ours == []


async def test_who_asks_too_often_is_refused_like_everybody_else_and_no_provider_is_asked() -> None:
    now = [0.0]
    site = Hub(Rate(at_once=3, every_s=10.0, clock=lambda: now[0]))
    site.provider.answer = HomeAnswer(body="{}")
    try:
        codes = [(await site.post()).code for _ in range(5)]
        now[0] = 10.0
        codes.append((await site.post()).code)
    finally:
        site.server.stop()
        await site.server.close_all_connections()

    assert codes == [200, 200, 200, 403, 403, 200]
    assert len(site.provider.heard) == 4


def test_one_address_does_not_use_up_anothers_tries_and_few_are_remembered() -> None:
    now = [0.0]
    rate = Rate(at_once=2, every_s=10.0, clock=lambda: now[0])

    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    assert rate.allows("b")
    for number in range(10_000):
        assert rate.allows(f"c{number}")
    assert len(rate._left) <= 4096


def test_a_refused_try_does_not_put_off_the_next_one_for_ever() -> None:
    now = [0.0]
    rate = Rate(at_once=1, every_s=1.0, clock=lambda: now[0])
    allowed = []
    for _ in range(8):
        allowed.append(rate.allows("a"))
        now[0] += 0.5

    assert allowed == [True, False] * 4


def test_what_a_caller_says_of_its_versions_is_cut_to_measure() -> None:
    said = {**CALL, "uuid": 3, "versions": {"jupyterhub": "6" * 1000, "python": None}}

    found = call_of(json.dumps(said).encode(), "10.0.0.5")

    assert found is not None
    assert (found.uuid, found.versions) == ("", {"jupyterhub": "6" * 64})
