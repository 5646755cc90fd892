"""The page of a screen: what stands on it, in which language, and what a browser may load with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from unit.service.desktops import PREFIX, a_desktop

from labspawner.model import LeaseId, Phase
from labspawner.service.desktop import novnc
from labspawner.service.desktop.page import STATIC_DIRS, address, policy

HERE = Path(novnc.__file__).parent


async def page_of(desktop, who: str = "alice", path: str = "alice/", **headers: str) -> BeautifulSoup:
    answer = await desktop.ask(who, f"{PREFIX}{path}", **headers)
    assert answer.code == 200, answer.body
    return BeautifulSoup(answer.body, "html.parser")


def words(page: BeautifulSoup) -> str:
    return " ".join(page.select_one("main").text.split())


async def test_the_page_has_all_tools_with_names_that_can_be_read_out(desktop):
    page = await page_of(desktop)

    assert page.select_one("html")["lang"] == "en"
    assert page.title.text == "Linux desktop · Desktop"
    names = {button["id"]: button.text.strip() for button in page.select("button")}
    assert names["keys"] == "Ctrl+Alt+Del"
    assert {"full", "clip-toggle", "clip-type", "clip-send", "share-give", "share-take", "ssh-copy"} <= set(names)
    assert all(names.values())
    assert page.select_one("#home")["href"] == "/hub/home"
    assert page.select_one("#start")["href"] == "/hub/spawn/alice"
    for label in page.select("label[for]"):
        assert page.select_one(f"#{label['for']}") is not None


async def test_the_page_is_chinese_for_who_reads_chinese(desktop):
    page = await page_of(desktop, **{"Accept-Language": "zh-CN,zh;q=0.9"})

    assert page.select_one("html")["lang"] == "zh-CN"
    assert page.select_one("h1").text.strip() == "Linux 桌面"
    assert "全屏" in words(page)
    assert page.select_one("#words")["data-again"] == "{seconds} 秒后重新连接"


async def test_the_language_switch_comes_back_to_this_page(desktop):
    page = await page_of(desktop)
    switch = page.select_one("a[hreflang]")

    chinese = await page_of(desktop, path=switch["href"].removeprefix(PREFIX))

    assert chinese.select_one("html")["lang"] == "zh-CN"
    assert chinese.select_one("a[hreflang]")["hreflang"] == "en"


async def test_the_ssh_line_stands_where_the_profile_has_ssh(desktop):
    page = await page_of(desktop)

    assert page.select_one("#ssh-line")["value"] == "ssh student@10.0.0.7"
    assert not page.select_one("#ssh").has_attr("hidden")


async def test_without_ssh_there_is_no_line(desktop):
    from labspawner.model import Handle

    await desktop.store.update(desktop.lease.id, handle=Handle(lease_id=desktop.lease.id, provider="vms"))

    page = await page_of(desktop)

    assert page.select_one("#ssh").has_attr("hidden")


async def test_a_guest_reads_whose_screen_it_is_and_cannot_share_it_on(desktop):
    await desktop.agree()

    page = await page_of(desktop, "teacher")

    assert "of alice" in words(page)
    assert page.select_one("#share") is None
    assert page.select_one("#start") is None


async def test_a_refused_page_says_why_and_leads_back(desktop):
    answer = await desktop.ask("teacher", f"{PREFIX}alice/")
    page = BeautifulSoup(answer.body, "html.parser")

    assert answer.code == 403
    assert "Ask alice to open this page" in words(page)
    assert [link["href"] for link in page.select("a")] == ["", "/hub/home"]


async def test_a_server_name_reaches_the_page_as_it_is(desktop):
    name = "my vm/é <b>"
    await desktop.store.add(desktop.lease.with_(id=LeaseId("named"), server_name=name, handle=None))

    path = address("", "alice", name)
    page = await page_of(desktop, path=path)

    assert page.select_one("#desk")["data-action"] == PREFIX + path
    assert page.select_one("#start")["href"] == "/hub/spawn/alice/my%20vm%2F%C3%A9%20%3Cb%3E"


async def test_without_a_name_the_page_is_ones_own(desktop):
    answer = await desktop.ask("alice", PREFIX)

    assert answer.code == 302
    assert answer.headers["Location"] == f"{PREFIX}alice/"


async def test_a_machine_that_is_off_can_be_started_from_the_page(desktop):
    await desktop.store.update(desktop.lease.id, phase=Phase.STOPPING)
    await desktop.store.update(desktop.lease.id, phase=Phase.ENDED)

    page = await page_of(desktop)

    assert page.select_one("#desk")["data-state"] == "off"
    assert "The machine is off: start it." in words(page)


async def test_a_server_of_another_provider_has_no_desktop(desktop):
    from labspawner.model import Handle

    handle = Handle(lease_id=LeaseId("pod"), provider="kubernetes")
    await desktop.store.add(
        desktop.lease.with_(id=handle.lease_id, server_name="pod", provider="kubernetes", handle=handle)
    )

    state = await desktop.state("alice", "alice/pod/")

    assert (state["state"], state["can_open"], state["ssh"]) == ("none", False, None)


async def test_without_the_viewer_the_page_says_what_to_install_and_ssh_still_works(tmp_path):
    async with a_desktop(tmp_path, novnc=False) as desktop:
        page = await page_of(desktop)
        answer = await desktop.open("alice")

        assert "apt-get install novnc" in words(page)
        assert page.select_one("#ssh-line")["value"] == "ssh student@10.0.0.7"
        assert answer.code == 503
        assert json.loads(answer.body)["code"] == "viewer"
        assert desktop.vms.asked == 0


async def test_nothing_in_the_page_runs_that_is_not_a_file_of_ours(desktop):
    answer = await desktop.ask("alice", f"{PREFIX}alice/")
    page = BeautifulSoup(answer.body, "html.parser")

    rules = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in rules
    assert "unsafe" not in rules
    assert all(script.get("src", "").startswith(PREFIX) and not script.text.strip() for script in page.select("script"))
    assert not page.select("style, [style], [onclick], [onload]")


async def test_every_file_of_the_page_is_served(desktop):
    page = await page_of(desktop)
    files = [link["href"] for link in page.select("link")] + [script["src"] for script in page.select("script")]
    files.append(page.select_one("#desk")["data-novnc"])

    for path in files:
        answer = await desktop.ask(None, path)
        assert answer.code == 200, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["-/own/../app.py", "-/novnc/../../leases.sqlite", "-/own/%2e%2e/app.py", "-/own/"])
async def test_no_other_file_is(desktop, path):
    answer = await desktop.ask("alice", PREFIX + path)

    assert answer.code in {403, 404}


@pytest.mark.parametrize("path", [f"{PREFIX}alice/vm/more/", "/somewhere", f"{PREFIX}alice/vm/"])
async def test_what_is_not_there_is_a_page_or_an_empty_screen(desktop, path):
    answer = await desktop.ask("alice", path)

    assert answer.code == (200 if path.endswith("alice/vm/") else 404)
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("host", ["a b", "x;script-src *", "evil.example'", ""])
def test_a_made_up_host_changes_no_rule(host):
    assert "ws:" not in policy(host)


# -- a server that is a desktop and nothing else -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/user/alice/", f"{PREFIX}alice/"),
        ("/user/alice/lab/tree", f"{PREFIX}alice/"),
        ("/user/alice/vm/lab", f"{PREFIX}alice/vm/"),
        ("/user/alice", f"{PREFIX}alice/"),
    ],
)
async def test_the_address_of_such_a_server_leads_to_its_page(desktop, path, target):
    await desktop.store.add(desktop.lease.with_(id=LeaseId("named"), server_name="vm", handle=None))

    answer = await desktop.ask(None, path)

    assert answer.code == 302
    assert answer.headers["Location"] == target


@pytest.mark.parametrize("path", ["/user/alice/api", "/user/alice/vm/api", "/user/alice/api/"])
async def test_the_hub_finds_such_a_server_up(desktop, path):
    answer = await desktop.ask(None, path)

    assert answer.code == 200
    assert answer.headers["X-JupyterHub-Version"]


# -- where the viewer is ------------------------------------------------------------------------------------------------


def a_viewer(folder: Path) -> Path:
    (folder / "core").mkdir(parents=True)
    (folder / "core" / "rfb.js").write_text("")
    (folder / "vendor" / "pako").mkdir(parents=True)
    return folder


def test_the_configured_viewer_is_taken_or_none(tmp_path):
    there = a_viewer(tmp_path / "here")

    assert novnc.find(str(there), folders=[]) == there
    assert novnc.find(str(tmp_path / "missing"), folders=[there]) is None


def test_the_first_folder_with_modules_is_taken(tmp_path):
    (tmp_path / "old" / "lib").mkdir(parents=True)
    (tmp_path / "old" / "lib" / "rfb.js").write_text("exports.default = 1")
    there = a_viewer(tmp_path / "new")

    assert novnc.find(folders=[tmp_path / "none", tmp_path / "old", there]) == there
    assert novnc.find(folders=[tmp_path / "none"]) is None


def test_the_viewer_is_not_in_our_package():
    assert not list(HERE.rglob("rfb.js"))
    assert {"own", "lab", "hub"} == set(STATIC_DIRS)
