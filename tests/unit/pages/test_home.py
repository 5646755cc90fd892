"""The home page as the hub renders it: what is said of each server, and what can be done."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from builders import a_lease
from unit.courses.course_files import INTERFACE, a_course, a_profile, a_snapshot
from unit.pages.rendering import (
    EVIL,
    NOW,
    FullDesk,
    a_running_user,
    a_spawner,
    a_user,
    home,
    pinned,
    text_of,
)

from labspawner.lifecycle.usages import Use
from labspawner.model import Activity, Evidence, LeaseId, Phase, Usage, Work, WorkKind
from labspawner.pages.home.facts import Extension
from labspawner.pages.lab import Lab
from labspawner.sentences import Sentence

GIB = 2**30
LONG_AGO = datetime(2026, 1, 1)  # noqa: DTZ001 - as JupyterHub has it
LEASE = LeaseId("aaaaaaaaaaaaaaaa")


def a_ready_lease(**changes):
    values = {
        "id": LEASE,
        "phase": Phase.READY,
        "created_at": NOW - timedelta(hours=2),
        "phase_at": NOW - timedelta(hours=2),
        "ready_at": NOW - timedelta(hours=2),
        "pinned": pinned(after_s=1200, max_age_s=4 * 3600),
    }
    return a_lease(**{**values, **changes})


def busy_for(hours: float, **changes) -> Evidence:
    work = (Work(kind=WorkKind.KERNEL, what="train.ipynb", since=NOW - timedelta(hours=hours)),)
    report = {"busy": True, "work": work, "work_count": 1, "clients": 0, "unsaved": 2, **changes}
    return Evidence(expected=True, report=Activity(taken_at=NOW, valid_until=NOW + timedelta(minutes=3), **report))


@pytest.mark.parametrize(
    ("changes", "word", "button"),
    [
        ({}, "Not running", "#start"),
        ({"active": True, "ready": True}, "Running", "#lab-stop"),
        ({"active": True, "pending": "spawn", "_generate_progress": None}, "Starting", "#lab-stop"),
        ({"active": True, "pending": "stop"}, "Stopping", "noscript meta[http-equiv=refresh]"),
    ],
)
def test_the_home_page_says_what_runs(changes, word, button):
    user = a_user(engine=FullDesk(notice=""))
    user.spawner.__dict__.update(changes)
    user.spawner._generate_progress = no_stages
    user.spawner.orm_spawner.last_activity = None

    html = home(user)

    assert html.select_one(".lab-state").text.strip().startswith(word)
    assert html.select_one(button) is not None
    assert ("Python notebook" in html.select_one("section h2").text) == bool(changes)
    assert (html.select_one(".lab-notice") is None) == (word != "Not running")


async def no_stages():
    for stage in ():
        yield stage


def test_a_running_server_shows_its_profile_and_course_and_since_when_it_runs():
    html = home(a_running_user(FullDesk(a_ready_lease())))

    assert html.select_one("h2").text == "Python notebook"
    assert "Python Basics" in html.select_one(".lab-of").text
    assert "for 2 h, since" in html.select_one(".lab-since").text
    assert html.select_one(".lab-since time")["datetime"] == (NOW - timedelta(hours=2)).isoformat()


def test_the_nearer_end_stands_first_and_each_says_its_reason():
    html = home(a_running_user(FullDesk(a_ready_lease())))

    idle, age = (line.text for line in html.select(".lab-end p"))
    assert idle == "Stops in 12 min unless used: idle for 8 min."
    assert age.startswith("Ends at ")
    assert age.endswith(", used or not: its limit is 4 h, 2 h are left.")


def test_a_page_in_chinese_is_chinese_throughout():
    desk = FullDesk(
        a_ready_lease(),
        known={LEASE: busy_for(3)},
        extension=Extension(step_s=1800, left_today=3),
        uses={LEASE: Use(Usage(taken_at=NOW, memory_bytes=GIB, memory_limit_bytes=4 * GIB, cpu_limit=2.0), 0.4)},
    )

    text = text_of(home(a_running_user(desk), "zh"))

    for said in (
        "Python 笔记本",
        "运行中",
        "0.4 / 2 核",
        "1.0 / 4 GiB",
        "延长 30 分钟",
        "今天还可延长 3 次",
        "2 个未保存的文档",
    ):
        assert said in text
    assert "Stop" not in text


def test_memory_and_processor_are_bars_with_numbers_and_a_name_for_screen_readers():
    usage = Usage(taken_at=NOW, memory_bytes=3 * GIB // 2, memory_limit_bytes=4 * GIB, cpu_limit=2.0)

    html = home(a_running_user(FullDesk(a_ready_lease(), uses={LEASE: Use(usage, 0.43)})))

    memory, cpu = html.select("[role=meter]")
    assert (memory["aria-label"], memory["aria-valuenow"], memory["aria-valuetext"]) == ("Memory", "38", "1.5 of 4 GiB")
    assert (cpu["aria-label"], cpu["aria-valuetext"]) == ("CPU", "0.4 of 2 cores")
    assert "1.5 of 4 GiB" in text_of(html)


def test_a_processor_that_was_seen_once_is_being_measured_and_the_page_looks_again_soon():
    html = home(
        a_running_user(FullDesk(a_ready_lease(), uses={LEASE: Use(Usage(taken_at=NOW, cpu_s=9, cpu_limit=2.0))}))
    )

    assert html.select_one("[data-measuring]").text.split() == ["CPU", "being", "measured;", "its", "limit", "is", "2"]


def test_without_a_limit_there_are_numbers_and_no_bar():
    html = home(
        a_running_user(FullDesk(a_ready_lease(), uses={LEASE: Use(Usage(taken_at=NOW, memory_bytes=GIB), 0.0)}))
    )

    assert html.select("[role=meter]") == []
    assert "1 GiB, no limit" in text_of(html)
    assert "0.0 cores, no limit" in text_of(html)


def test_what_a_server_does_is_one_line_and_keeps_it_from_being_idle():
    html = home(a_running_user(FullDesk(a_ready_lease(), known={LEASE: busy_for(3)})))

    kernel, unsaved = (item.text for item in html.select(".lab-evidence li"))
    assert kernel.startswith("1 busy kernel since ")
    assert unsaved == "2 unsaved documents"
    assert "Not stopped as idle now" in html.select_one(".lab-end").text


def test_a_stop_that_would_end_work_asks_once_and_says_what_ends():
    html = home(a_running_user(FullDesk(a_ready_lease(), known={LEASE: busy_for(3)})))

    box = html.select_one("details.lab-confirm")
    assert [line.text for line in box.select("p")] == [
        "A kernel has been busy for 3 h; its work ends.",
        "2 documents are not saved.",
    ]
    assert box.select_one("form")["action"] == "/hub/labspawner/stop/student1"
    assert box.select_one("#lab-stop").text.strip() == "Stop anyway"
    assert len(html.select("form[action*=stop]")) == 1


def test_a_stop_that_ends_nothing_does_not_ask():
    html = home(a_running_user(FullDesk(a_ready_lease())))

    assert html.select_one("details.lab-confirm") is None
    assert html.select_one("#lab-stop").text.strip() == "Stop"


def test_extend_says_how_often_it_can_still_be_clicked():
    html = home(a_running_user(FullDesk(a_ready_lease(), extension=Extension(step_s=1800, left_today=3))))

    assert html.select_one("#lab-extend").text == "Extend by 30 min"
    assert not html.select_one("#lab-extend").has_attr("disabled")
    assert html.select_one(".lab-extend-hint").text == "3 left today"
    assert html.select_one("form[action*=extend] input[name=_xsrf]")["value"] == "token"


@pytest.mark.parametrize(
    ("extension", "why"),
    [
        (Extension(step_s=1800, left_today=0), "You have used all extensions for today."),
        (Extension(step_s=1800, left_today=2, refused=Sentence("closed now")), "closed now"),
    ],
)
def test_extend_is_disabled_with_the_reason_where_it_would_be_refused(extension, why):
    html = home(a_running_user(FullDesk(a_ready_lease(), extension=extension)))

    button = html.select_one("#lab-extend")
    assert button.has_attr("disabled")
    assert html.find(id=button["aria-describedby"]).text == why


def test_a_profile_without_extensions_has_no_button():
    assert home(a_running_user(FullDesk(a_ready_lease()))).select_one("#lab-extend") is None


def test_open_leads_to_a_new_tab_and_says_so():
    link = home(a_running_user(FullDesk(a_ready_lease()))).select_one("#start")

    assert (link["target"], link["href"]) == ("_blank", "/user/student1/")
    assert "(in a new tab)" in link.text


def test_a_server_that_died_is_being_cleaned_up_although_the_hub_has_not_noticed():
    lease = a_ready_lease(phase=Phase.STOPPING, phase_at=NOW - timedelta(seconds=20))

    html = home(a_running_user(FullDesk(lease)))

    assert "Stopping" in html.select_one(".lab-state").text
    assert html.select_one("#lab-stop") is None


def test_why_the_last_server_ended_who_ended_it_when_and_that_files_are_kept():
    html = home(a_user(engine=FullDesk(notice="")))

    notice = html.select_one(".lab-notice")
    assert notice.select_one(".lab-notice-title").text == f"Your last server has ended: Python {EVIL}"
    lines = [line.text for line in notice.select("p")[1:]]
    assert lines[0] == "idle for 46 min; this profile's limit is 45 min"
    assert lines[1].startswith("Stopped by the rules of its profile, 7 min ago, at ")
    assert lines[2] == "Your files are kept."


def test_one_click_starts_the_last_profile_again_with_its_options():
    profile = a_profile(options={"interface": INTERFACE})
    user = a_user(engine=FullDesk(snapshot=a_snapshot(a_course("py101", profile))))
    user.admin = True
    user.spawner.user_options = {"profile": f"py101/{profile['slug']}", "options": {"interface": "doc"}}

    html = home(user)

    form = html.select_one("form[action='/hub/spawn/student1']")
    fields = {field["name"]: field["value"] for field in form.select("input")}
    assert fields.pop("_xsrf") == "token"
    assert fields == {
        "profile": f"py101/{profile['slug']}",
        f"option--py101--{profile['slug']}--interface": "doc",
    }
    assert html.select_one("#start").text.strip() == "Choose a profile"


def test_starting_again_keeps_a_place_first_for_the_one_who_clicks_alone():
    profile = a_profile()
    user = a_user(engine=FullDesk(snapshot=a_snapshot(a_course("py101", profile))))
    user.admin = True
    user.spawner.user_options = {"profile": f"py101/{profile['slug']}"}

    assert home(user).select_one("form[action='/hub/spawn/student1']")["data-lab-place"] == "/hub/labspawner/place"
    assert not Lab(a_user(name="boss")).holds({"base_url": "/hub/"}, user, "")
    assert not Lab(None).holds({"base_url": "/hub/"}, user, "")
    named = Lab(user).holds({"base_url": "/hub/"}, user, 'a "b&c')
    assert str(named) == ' data-lab-place="/hub/labspawner/place?server=a+%22b%26c"'


def test_a_last_profile_that_is_closed_now_says_why_and_offers_the_others():
    user = a_user(engine=FullDesk())

    html = home(user)

    assert html.select_one("form[action='/hub/spawn/student1']") is None
    assert "Python notebook cannot be started now." in text_of(html)
    assert html.select_one("#start")["href"] == "/hub/spawn/student1"


def test_a_profile_that_is_gone_is_not_offered_again():
    user = a_user(engine=FullDesk())
    user.spawner.user_options = {"profile": "gone/gone"}

    assert "cannot be started" not in text_of(home(user))


def test_who_never_started_anything_gets_one_clear_button():
    user = a_user(engine=FullDesk())
    user.spawner.user_options = {}

    html = home(user)

    assert [link.text.strip() for link in html.select(".lab-actions a, .lab-actions button")] == ["Choose a profile"]


def test_a_parked_server_says_how_long_it_is_kept_and_can_be_resumed():
    profile = a_profile()
    parked = a_ready_lease(
        phase=Phase.PARKED,
        phase_at=NOW - timedelta(days=1),
        pinned=pinned(retain_s=14 * 86400) | {"options": {}},
        profile=f"py101/{profile['slug']}",
    )
    user = a_user(engine=FullDesk(parked, snapshot=a_snapshot(a_course("py101", profile))))
    user.admin = True

    html = home(user)

    assert "Parked" in html.select_one(".lab-state").text
    assert html.select_one(".lab-end time")["datetime"] == (parked.phase_at + timedelta(days=14)).isoformat()
    assert html.select_one("form[action='/hub/spawn/student1'] button").text == "Resume"
    assert html.select_one(".lab-actions a[href='/hub/spawn/student1']").text.strip() == "Choose a profile"
    assert len(html.select("section.lab-server")) == 1


def test_beside_a_parked_server_another_profile_may_run():
    parked = a_ready_lease(id=LeaseId("bbbbbbbbbbbbbbbb"), phase=Phase.PARKED)

    html = home(a_running_user(FullDesk(a_ready_lease(), parked)))

    assert [panel["data-state"] for panel in html.select("section.lab-server")] == ["running", "parked"]
    assert len({element["id"] for element in html.select("[id]")}) == len(html.select("[id]"))
    assert "Choose a profile" not in text_of(html)
    assert "It is kept until you resume or delete it." in text_of(html)


def test_named_servers_that_run_have_a_panel_and_the_table_lists_all():
    user = a_user(engine=FullDesk(a_ready_lease(server_name="two")))
    two = a_spawner(user, name="two", display_name=EVIL, ready=True, active=True, last_activity=LONG_AGO)
    two.orm_spawner.last_activity = None
    three = SimpleNamespace(
        name="three",
        display_name="",
        ready=False,
        active=False,
        pending=None,
        last_activity=LONG_AGO,
        user=user,
        user_options=None,
    )
    user.spawners["two"] = two
    user.all_spawners = lambda include_default: [two, three]

    html = home(user, allow_named_servers=True, invalid_server_names=["A B"])

    assert [panel["id"] for panel in html.select("section.lab-server")] == ["server", "server-two"]
    assert html.select_one("#lab-stop-two") is not None
    assert html.select_one("#server-two .lab-of").text.endswith(f"Named server: {EVIL}")
    assert html.select_one("#start-three")["href"] == "/hub/spawn/student1/three"
    assert "A B" in html.select_one(".alert").text
    assert len({element["id"] for element in html.select("[id]")}) == len(html.select("[id]"))


def test_a_hub_without_our_engine_still_shows_its_servers():
    html = home(a_running_user(None))

    assert "Running" in html.select_one(".lab-state").text
    assert html.select_one("#lab-stop") is not None
