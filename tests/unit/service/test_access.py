"""Who may look at whose screen: the owner, staff whom the owner lets, and nobody else, by no way."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone

import pytest
from bs4 import BeautifulSoup
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect
from unit.service.desktops import PREFIX, a_desktop

from labspawner.model import LeaseId, Phase
from labspawner.service.desktop.house import Tickets
from labspawner.service.desktop.relay import End, Seat
from labspawner.service.desktop.rights import NOT_YOURS, Consents, Refused, Role, Viewer, role_of
from labspawner.testing.waiting import eventually

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
SOON = NOW + timedelta(minutes=1)
ALICE, TEACHER = Viewer(name="alice"), Viewer(name="teacher")
BOSS = Viewer(name="boss", admin=True)
SEAT = Seat(viewer="alice", role=Role.OWNER, lease_id=LeaseId("lease"))


def told(answer) -> dict:
    return json.loads(answer.body)


# -- the rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("viewer", "staff", "consent_until", "role"),
    [
        (ALICE, False, None, Role.OWNER),
        (ALICE, True, None, Role.OWNER),
        (TEACHER, True, SOON, Role.GUEST),
        (BOSS, True, SOON, Role.GUEST),
    ],
)
def test_the_owner_and_staff_with_consent_may_look(viewer, staff, consent_until, role):
    assert role_of(viewer, owner="alice", staff=staff, consent_until=consent_until, now=NOW) is role


@pytest.mark.parametrize(
    ("viewer", "staff", "consent_until", "askable"),
    [
        (TEACHER, True, None, True),
        (TEACHER, True, NOW, True),  # it ends at that instant
        (BOSS, True, None, True),
        (Viewer(name="bob"), False, SOON, False),  # consent is for staff
    ],
)
def test_anybody_else_may_not(viewer, staff, consent_until, askable):
    answer = role_of(viewer, owner="alice", staff=staff, consent_until=consent_until, now=NOW)

    assert isinstance(answer, Refused)
    assert answer.askable is askable


def test_consent_is_short_and_can_be_taken_back():
    consents, lease, other = Consents(), LeaseId("a"), LeaseId("b")

    until = consents.give(lease, NOW)

    assert until == NOW + timedelta(minutes=15)
    assert consents.until(lease, NOW) == until
    assert consents.until(lease, until) is None
    assert consents.until(other, NOW) is None
    assert consents.take_back(lease)
    assert consents.until(lease, NOW) is None
    assert not consents.take_back(lease)


def test_a_ticket_waits_for_its_own_browser_and_not_for_long():
    at = [100.0]
    tickets = Tickets(lambda: at[0])
    first, second, third = (tickets.put(f"ticket{number}", SEAT) for number in range(3))

    assert tickets.take(first, SEAT) == "ticket0"
    assert tickets.take(first, SEAT) is None
    assert tickets.take(second, Seat(viewer="bob", role=Role.GUEST, lease_id=SEAT.lease_id)) is None
    assert tickets.take(second, SEAT) is None
    at[0] += 9.0
    assert tickets.take(third, SEAT) is None


# -- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["bob", "other-teacher"])
@pytest.mark.parametrize("place", ["state", "open", "consent", "", "ws"])
async def test_another_student_gets_403_with_a_sentence_everywhere(desktop, who, place):
    await desktop.agree()
    post = {"method": "POST", "body": {"look": True}} if place in {"open", "consent"} else {}

    answer = await desktop.ask(who, f"{PREFIX}alice/{place}", **post)

    assert answer.code == 403
    assert str(NOT_YOURS).encode() in answer.body
    assert desktop.vms.asked == 0


@pytest.mark.parametrize("who", ["teacher", "boss"])
async def test_staff_and_administrators_need_the_owners_consent(desktop, who):
    before = await desktop.open(who)
    await desktop.agree()
    after = await desktop.open(who)

    assert before.code == 403
    assert told(before)["code"] == "ask"
    assert "has not agreed" in told(before)["message"]
    assert after.code == 200


async def test_an_administrator_of_a_hub_without_such_a_server_learns_nothing_of_it(desktop):
    answer = await desktop.ask("boss", f"{PREFIX}bob/")

    assert answer.code == 403


async def test_who_may_not_use_the_service_at_all_gets_403(desktop):
    answer = await desktop.ask("stranger", f"{PREFIX}stranger/state")

    assert answer.code == 403
    assert "may not use desktops" in told(answer)["message"]


async def test_nobody_who_is_not_logged_in_gets_anything(desktop):
    page = await desktop.ask(None, f"{PREFIX}alice/")
    state = await desktop.ask(None, f"{PREFIX}alice/state")
    unknown = await desktop.ask("nobody", f"{PREFIX}alice/state")

    assert page.code == 302
    assert "/hub/api/oauth2/authorize" in page.headers["Location"]
    assert (state.code, told(state)["code"]) == (401, "login")
    assert unknown.code == 401


async def test_only_the_owner_agrees(desktop):
    await desktop.agree()

    answer = await desktop.agree("teacher")

    assert answer.code == 403
    assert told(answer)["message"] == "Only alice can agree to that."


async def test_consent_that_is_taken_back_ends_what_the_guest_sees_at_once(desktop):
    await desktop.agree()
    guest = await desktop.look("teacher")
    assert await guest.read_message() == b"RFB 003.008\n"

    await desktop.agree(look=False)

    assert await asyncio.wait_for(guest.read_message(), 120) is None
    assert guest.close_code == End.WITHDRAWN.value
    assert (await desktop.open("teacher")).code == 403


async def test_consent_that_is_over_ends_what_the_guest_sees(tmp_path):
    async with a_desktop(tmp_path, watch_s=0.02) as desktop:
        await desktop.agree()
        guest = await desktop.look("teacher")
        await guest.read_message()

        desktop.clock.pass_by(minutes=15)

        assert await asyncio.wait_for(guest.read_message(), 120) is None
        assert guest.close_code == End.WITHDRAWN.value


async def test_the_owner_sees_who_looks_and_for_how_long_yet(desktop):
    await desktop.agree()
    desktop.clock.pass_by(minutes=5)
    await desktop.look("teacher")

    await eventually(lambda: len(desktop.house.relays) == 1)
    state = await desktop.state("alice")

    assert state["guests"] == ["teacher"]
    assert state["consent_s"] == 600


async def test_owner_and_guest_look_together_and_a_second_guest_does_not(desktop):
    await desktop.agree()
    await desktop.look("alice")
    await desktop.look("teacher")

    answer = await desktop.open("boss")

    assert answer.code == 409
    assert told(answer)["message"] == "teacher looks at this screen already. One person at a time can."


async def test_consent_ends_with_the_server(desktop):
    await desktop.agree()
    await desktop.store.update(desktop.lease.id, phase=Phase.STOPPING)
    await desktop.store.update(desktop.lease.id, phase=Phase.ENDED)
    new = desktop.lease.with_(id=LeaseId("another-lease"), handle=None)
    await desktop.store.add(new)

    answer = await desktop.open("teacher")

    assert answer.code == 403


async def test_a_server_that_is_stopped_ends_its_screen(tmp_path):
    async with a_desktop(tmp_path, watch_s=0.02) as desktop:
        socket = await desktop.look("alice")
        await socket.read_message()

        await desktop.store.update(desktop.lease.id, phase=Phase.STOPPING)

        assert await asyncio.wait_for(socket.read_message(), 120) is None
        assert socket.close_code == End.SERVER.value


async def test_somebody_who_logs_out_sees_nothing_more(tmp_path):
    async with a_desktop(tmp_path, watch_s=0.02) as desktop:
        socket = await desktop.look("alice")
        await socket.read_message()

        del desktop.hub.people["token-of-alice"]

        assert await asyncio.wait_for(socket.read_message(), 120) is None
        assert socket.close_code == End.LOGGED_OUT.value


async def test_a_hub_that_restarts_ends_no_picture_and_lets_nobody_in(tmp_path):
    async with a_desktop(tmp_path, watch_s=0.02) as desktop:
        socket = await desktop.look("alice")
        assert await socket.read_message() == b"RFB 003.008\n"

        desktop.hub.away = True
        answer = await desktop.ask("bob", f"{PREFIX}bob/state")
        await desktop.host.connections[0].write_message(b"more", binary=True)

        assert answer.code == 503
        assert told(answer)["code"] == "hub"
        assert await asyncio.wait_for(socket.read_message(), 120) == b"more"
        assert desktop.house.relays._all[0].ended is None


# -- a browser's requests ---------------------------------------------------------------------------------------------


class Browser:
    """As much of a browser as cookies are: logged in as alice, on our page."""

    def __init__(self, desktop) -> None:
        from tornado.web import create_signed_value

        self.desktop = desktop
        name = desktop.house.hub.auth.cookie_name
        value = create_signed_value(b"0" * 32, name, "token-of-alice").decode()
        self.cookies = {name: value}
        self.xsrf = ""

    def headers(self, **more: str) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()), **more}

    async def load(self) -> BeautifulSoup:
        answer = await self.desktop.ask(None, f"{PREFIX}alice/", **self.headers())
        assert answer.code == 200
        for line in answer.headers.get_list("Set-Cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        page = BeautifulSoup(answer.body, "html.parser")
        self.xsrf = page.select_one("#desk")["data-xsrf"]
        return page

    async def post(self, what: str, xsrf: str | None, body: dict | None = None):
        more = {"X-XSRFToken": xsrf} if xsrf is not None else {}
        return await self.desktop.ask(
            None, f"{PREFIX}alice/{what}", method="POST", body=body or {}, **self.headers(**more)
        )

    async def look(self, key: str, origin: str | None):
        url = f"{self.desktop.url}{PREFIX}alice/ws".replace("http:", "ws:")
        more = {"Origin": origin, "Sec-Fetch-Mode": "websocket"} if origin else {"Sec-Fetch-Mode": "websocket"}
        socket = await websocket_connect(
            HTTPRequest(url, headers=self.headers(**more), request_timeout=120),
            subprotocols=["binary", f"labspawner.{key}"],
        )
        self.desktop.sockets.append(socket)
        return socket


async def test_a_browser_on_our_page_sees_its_screen(desktop):
    browser = Browser(desktop)
    await browser.load()
    answer = await browser.post("open", browser.xsrf)

    socket = await browser.look(told(answer)["key"], desktop.url)

    assert await socket.read_message() == b"RFB 003.008\n"
    assert socket.selected_subprotocol == "binary"


async def test_a_script_of_our_page_reads_its_state_and_one_of_another_page_does_not(desktop):
    browser = Browser(desktop)
    await browser.load()
    script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}

    ours = await desktop.ask(None, f"{PREFIX}alice/state", **browser.headers(**script, **{"X-XSRFToken": browser.xsrf}))
    others = await desktop.ask(None, f"{PREFIX}alice/state", **browser.headers(**script))

    assert (ours.code, told(ours)["role"]) == (200, "owner")
    assert others.code == 401


@pytest.mark.parametrize("what", ["open", "consent"])
@pytest.mark.parametrize("xsrf", [None, "", "2|forged"])
async def test_a_forged_form_is_refused(desktop, what, xsrf):
    browser = Browser(desktop)
    await browser.load()

    answer = await browser.post(what, xsrf, {"look": True})

    assert (answer.code, told(answer)["code"]) == (403, "forged")
    assert desktop.house.consents.until(desktop.lease.id, desktop.clock()) is None
    assert desktop.vms.asked == 0


@pytest.mark.parametrize("origin", ["https://evil.example", "null", None])
async def test_a_websocket_of_another_site_is_refused(desktop, origin):
    browser = Browser(desktop)
    await browser.load()
    key = told(await browser.post("open", browser.xsrf))["key"]

    with pytest.raises(HTTPClientError) as refused:
        await browser.look(key, origin)

    assert refused.value.code == 403
    assert desktop.host.seen == []


async def test_a_page_of_the_hubs_public_name_is_ours(desktop):
    desktop.house.public_host = "hub.example"
    browser = Browser(desktop)
    await browser.load()
    key = told(await browser.post("open", browser.xsrf))["key"]

    socket = await browser.look(key, "https://hub.example")

    assert await socket.read_message() == b"RFB 003.008\n"


async def test_a_token_in_an_address_is_refused(desktop):
    key = told(await desktop.open("alice"))["key"]
    url = f"{desktop.url}{PREFIX}alice/ws?token=token-of-alice".replace("http:", "ws:")
    headers = {"Sec-Fetch-Mode": "websocket", "Origin": desktop.url}

    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(HTTPRequest(url, headers=headers), subprotocols=["binary", f"labspawner.{key}"])

    assert refused.value.code == 403
    assert desktop.host.seen == []


async def test_what_is_no_consent_is_400(desktop):
    for body in ([], {"see": True}, "yes"):
        answer = await desktop.ask("alice", f"{PREFIX}alice/consent", method="POST", body=body)

        assert answer.code == 400
