"""In a real Jupyter server: what its use looks like to the hub, and what the lab may ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from hubdouble import NO_MORE, TOKEN, HubDouble
from jupyterserver import BASE, SECRET, JupyterServer
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from labspawner.testing.waiting import eventually, eventually_sync
from labspawner.testing.web import Client

API = BASE + "labspawner/"


async def seen(hub: HubDouble, check: Callable[[dict[str, Any]], object], deadline_s: float = 40) -> dict[str, Any]:
    """The first report from now on that passes `check`."""
    already = len(hub.reports())
    return await eventually(
        lambda: next((report for report in hub.reports()[already:] if check(report)), None),
        deadline_s,
        what=f"a report that fits; last: {hub.reports()[-1:]}",
    )


def kernel_in(report: dict[str, Any], kernel_id: str) -> dict[str, Any]:
    return next((kernel for kernel in report["kernels"] if kernel["id"] == kernel_id), {})


def instant(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


@pytest.fixture
def kernel(server: JupyterServer) -> Iterator[str]:
    """The kernel of an open notebook."""
    model = {"path": "work.ipynb", "name": "work.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    session = server.client().call("POST", f"{BASE}api/sessions", model).json()
    yield session["kernel"]["id"]
    server.client().call("DELETE", f"{BASE}api/sessions/{session['id']}")


async def socket(server: JupyterServer, path: str) -> WebSocketClientConnection:
    url = server.url.replace("http", "ws", 1) + BASE + path
    return await websocket_connect(
        HTTPRequest(url, headers={"Authorization": f"token {SECRET}"}, connect_timeout=240, request_timeout=240)
    )


async def hang_up(channel: WebSocketClientConnection) -> None:
    channel.close()
    while await channel.read_message() is not None:
        pass


async def run(channel: WebSocketClientConnection, code: str) -> None:
    await say(channel, "shell", "execute_request", {"code": code, "allow_stdin": True, "silent": False})


async def say(channel: WebSocketClientConnection, where: str, kind: str, content: dict[str, Any]) -> None:
    header = {"msg_id": uuid4().hex, "msg_type": kind, "username": "", "session": "tab", "version": "5.3", "date": ""}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": where}
    await channel.write_message(json.dumps(message))


async def test_a_silent_cell_is_busy_since_it_began_also_when_its_tab_is_closed(server, hub, kernel, tmp_path):
    go_on, before = tmp_path / "go-on", datetime.now(timezone.utc)
    channel = await socket(server, f"api/kernels/{kernel}/channels?session_id=tab")
    await run(channel, f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.05)")
    first = kernel_in(await seen(hub, lambda r: kernel_in(r, kernel).get("busy_since")), kernel)
    await hang_up(channel)

    later = kernel_in(await seen(hub, lambda r: kernel_in(r, kernel).get("busy_since")), kernel)
    go_on.touch()
    ended = kernel_in(await seen(hub, lambda r: kernel_in(r, kernel).get("busy_since") is None), kernel)

    assert before - timedelta(seconds=1) <= instant(first["busy_since"])
    assert later["busy_since"] == first["busy_since"]
    assert (first["name"], first["path"], first["waiting_for_input"]) == ("python3", "work.ipynb", False)
    assert instant(ended["last_execution"]) > instant(first["busy_since"])


async def test_a_cell_that_waits_for_an_answer_is_waiting_until_it_gets_one(server, hub, kernel):
    channel = await socket(server, f"api/kernels/{kernel}/channels?session_id=tab")
    await run(channel, "input('name? ')")
    await seen(hub, lambda r: kernel_in(r, kernel).get("waiting_for_input"))

    await say(channel, "stdin", "input_reply", {"value": "Ada"})

    await seen(hub, lambda r: kernel_in(r, kernel).get("waiting_for_input") is False)
    await hang_up(channel)


async def test_a_question_after_the_tab_was_closed_is_seen_too(server, hub, kernel, tmp_path):
    ask = tmp_path / "ask"
    channel = await socket(server, f"api/kernels/{kernel}/channels?session_id=tab")
    await run(channel, f"import os, time\nwhile not os.path.exists({str(ask)!r}): time.sleep(0.05)\ninput()")
    await seen(hub, lambda r: kernel_in(r, kernel).get("busy_since"))
    before = server.log().count("Starting buffering")
    await hang_up(channel)
    await eventually(
        lambda: server.log().count("Starting buffering") > before, what="the server notices the closed tab"
    )

    ask.touch()

    await seen(hub, lambda r: kernel_in(r, kernel).get("waiting_for_input"))


async def test_a_restarted_kernel_is_idle(server, hub, kernel):
    channel = await socket(server, f"api/kernels/{kernel}/channels?session_id=tab")
    await run(channel, "import time\nwhile True: time.sleep(0.1)")
    await seen(hub, lambda r: kernel_in(r, kernel).get("busy_since"))

    server.client().call("POST", f"{BASE}api/kernels/{kernel}/restart")

    await seen(hub, lambda r: kernel_in(r, kernel) and kernel_in(r, kernel)["busy_since"] is None)
    await run(channel, "import time\nwhile True: time.sleep(0.1)")
    await seen(hub, lambda r: kernel_in(r, kernel).get("busy_since"))
    await hang_up(channel)


async def test_a_kernel_that_is_gone_is_no_longer_reported(server, hub):
    kernel = server.client().call("POST", f"{BASE}api/kernels", {"name": "python3"}).json()["id"]
    await seen(hub, lambda r: kernel_in(r, kernel))

    server.client().call("DELETE", f"{BASE}api/kernels/{kernel}")

    await seen(hub, lambda r: not kernel_in(r, kernel))


@contextmanager
def a_terminal(server: JupyterServer) -> Iterator[str]:
    name = server.client().call("POST", f"{BASE}api/terminals", {}).json()["name"]
    try:
        yield name
    finally:
        server.client().call("DELETE", f"{BASE}api/terminals/{name}")


async def test_a_command_in_a_terminal_is_told_with_its_beginning_until_it_ends(server, hub):
    with a_terminal(server) as name:
        tty = await socket(server, f"terminals/websocket/{name}")
        await tty.write_message(json.dumps(["stdin", "sleep 600\r"]))
        at_work = await seen(
            hub, lambda r: [t for t in r["terminals"] if t["name"] == name and t["foreground"] == "sleep 600"]
        )
        await tty.write_message(json.dumps(["stdin", "\x03"]))
        idle = await seen(hub, lambda r: [t for t in r["terminals"] if t["name"] == name and not t["foreground"]])
        await hang_up(tty)

    [terminal] = at_work["terminals"]
    assert terminal["foreground"] == "sleep 600"
    assert abs(instant(terminal["since"]) - instant(at_work["at"])) < timedelta(minutes=1)
    assert instant(terminal["last_activity"]) <= instant(at_work["at"])
    assert idle["terminals"][0]["since"] is None


async def test_a_saved_file_is_use_and_a_file_that_was_only_read_is_not(server, hub):
    client = server.client()
    model = {"type": "file", "format": "text", "content": "x = 1"}
    before = datetime.now(timezone.utc)

    client.call("PUT", f"{BASE}api/contents/a.py", model)
    saved = await seen(hub, lambda r: r["last_activity"] and instant(r["last_activity"]) >= before)
    client.call("GET", f"{BASE}api/contents/a.py")
    later = await seen(hub, lambda r: instant(r["at"]) > instant(saved["at"]))

    assert later["last_activity"] == saved["last_activity"]


async def test_keys_in_a_browser_are_use_and_an_open_tab_is_not(server, hub):
    client, before = server.client(), datetime.now(timezone.utc)

    beat = {"id": "tab", "visible": True, "last_input_s_ago": 0.5, "unsaved": ["work.ipynb"]}
    assert client.call("POST", API + "client", beat).status == 204
    used = await seen(hub, lambda r: r["clients"]["connected"] == 1)
    client.call("POST", API + "client", {"id": "tab", "visible": False, "last_input_s_ago": None, "unsaved": []})
    left = await seen(hub, lambda r: r["clients"] and not r["clients"]["visible"])
    client.call("POST", API + "client", {"id": "tab", "closed": True})
    gone = await seen(hub, lambda r: r["clients"]["connected"] == 0)

    assert instant(used["last_activity"]) >= before - timedelta(seconds=1)
    assert used["unsaved"] == ["work.ipynb"]
    assert left["last_activity"] == used["last_activity"] == gone["last_activity"]


async def test_asking_for_the_status_is_no_use_of_the_server_for_jupyter_either(server):
    client = server.client()
    before = client.call("GET", f"{BASE}api/status").json()["last_activity"]

    def answered() -> Any:
        status = client.call("GET", API + "status").json()
        return status if status["answer"] else None

    answer = await eventually(answered, 40)

    assert answer["answer"]["verdict"] == "keep"
    assert answer["hub"] == "ok"
    assert answer["age_s"] >= 0
    assert client.call("GET", f"{BASE}api/status").json()["last_activity"] >= before


async def test_extend_and_hold_reach_the_hub_and_change_the_status_at_once(server, hub):
    client = server.client()

    extended = client.call("POST", API + "extend", {})
    held = client.call("POST", API + "hold", {"seconds": 3600})
    status = client.call("GET", API + "status").json()["answer"]
    client.call("POST", API + "hold", {"seconds": 0})

    assert extended.status == held.status == 200
    assert hub.all("hold") == [{"seconds": 3600}, {"seconds": 0}]
    assert status["hold"]["until"]
    assert status["ends_at"] == extended.json()["ends_at"]


async def test_what_the_hub_refuses_is_said_in_its_own_words(server, hub):
    hub.refuse = True
    answer = server.client().call("POST", API + "extend", {})
    hub.refuse = False

    assert answer.status == 409
    assert answer.json()["message"] == NO_MORE


async def test_a_hub_that_is_broken_is_said_so_and_found_again(server, hub):
    client, before = server.client(), server.log().count("the hub takes no report")
    hub.status = 500
    await eventually(lambda: client.call("GET", API + "status").json()["hub"] == "refuses", 40)
    answer = client.call("POST", API + "extend", {})
    hub.status = 200

    await eventually(lambda: client.call("GET", API + "status").json()["hub"] == "ok", 60)

    assert answer.status == 503
    assert "does not answer" in answer.json()["message"]["en"]
    assert server.log().count("the hub takes no report") == before + 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("client", [1]),
        ("client", {"last_input_s_ago": "now"}),
        ("client", {"last_input_s_ago": -1}),
        ("client", {"unsaved": "a"}),
        ("hold", {}),
        ("hold", {"seconds": True}),
        ("hold", {"seconds": -1}),
        ("hold", {"seconds": 1e300}),
        ("hold", b"{"),
    ],
)
def test_bad_input_is_a_400_and_reaches_nobody(server, hub, path, body):
    before = len(hub.all(path))

    answer = server.client().call("POST", API + path, body)

    assert answer.status == 400
    assert len(hub.all(path)) == before


@pytest.mark.parametrize("path", ["status", "client", "extend", "hold"])
def test_nobody_asks_without_logging_in(server, path):
    answer = Client(server.url).call("GET" if path == "status" else "POST", API + path)

    assert answer.status == 403


def test_a_page_of_somebody_else_cannot_extend_in_the_students_name(server, hub):
    browser, before = Client(server.url), len(hub.all("extend"))
    browser.get(f"{BASE}api/me?token={SECRET}", within=BASE)  # logs in: a cookie, and no token in later requests

    assert browser.call("GET", API + "status").status == 200
    assert browser.call("POST", API + "extend", {}).status == 403
    assert len(hub.all("extend")) == before


def test_the_token_is_sent_to_the_hub_and_nowhere_else(server, hub):
    eventually_sync(lambda: hub.tokens, 40, "the first report")

    assert hub.tokens == {f"token {TOKEN}"}
    assert TOKEN not in server.log()
