"""What runs comes first; who waits or failed is offered another way; what staff wrote is read. As the hub renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import a_lease
from unit.courses.course_files import a_course, a_profile, a_snapshot
from unit.pages.rendering import EVIL, NOW, FullDesk, Handler, a_running_user, a_spawner, a_user, home, pinned, rendered

from labspawner.model import Lease, Phase
from labspawner.pages.home.facts import Said
from labspawner.pages.views import Offered, Texts
from labspawner.sentences import Sentence

OFFER = Offered(variant=2, text=Sentence("Start on {what} now", what=Sentence("{title}", title=Texts({"en": EVIL}))))
SNAPSHOT = a_snapshot(a_course("py101", a_profile("base", variants=[{"provider": "a"}, {"provider": "b"}])))


class Desk(FullDesk):
    """A desk with something to offer, a pace, and messages."""

    def __init__(self, *leases: Lease, offers: Sequence[Offered] = (OFFER,), said: Sequence[Said] = ()) -> None:
        super().__init__(*leases, snapshot=SNAPSHOT)
        self.offers, self.said = offers, said

    async def instead(self, user_name: str, server_name: str) -> Sequence[Offered]:
        return self.offers

    async def elsewhere(self, user: Any, server_name: str, options: Mapping[str, Any]) -> Sequence[Offered]:
        return self.offers

    def typical_start_s(self, profile: str, provider: str) -> float | None:
        return {"sim": 7.4, "slow": 184.0}.get(provider)

    def messages_of(self, lease: Lease, now: datetime) -> Sequence[Said]:
        return self.said


def a_lease_here(**changes: Any) -> Lease:
    values = {"pinned": pinned(after_s=3600.0), "phase": Phase.READY, "ready_at": NOW - timedelta(hours=2)}
    return a_lease(**{**values, **changes})


def pending(desk: Desk, language: str = "en") -> Any:
    async def no_stages() -> Any:
        return
        yield

    user = a_user(engine=desk)
    spawner = a_spawner(user, pending="spawn", _generate_progress=no_stages)
    return rendered("spawn_pending.html", Handler(accept=language), user=user, spawner=spawner, progress_url="/p")


def test_who_waits_is_offered_what_has_room_in_a_form_that_needs_no_script():
    html = pending(Desk())

    form = html.select_one("#lab-instead form")
    assert form["action"] == "/hub/labspawner/variant/student1"
    assert form.select_one("input[name=_xsrf]")["value"] == "token"
    (button,) = form.select("button[name=variant]")
    assert (button["value"], button.text) == ("2", f"Start on {EVIL} now")
    assert html.select("#lab-instead script") == []
    assert (html.select_one("#lab-instead").has_attr("hidden"), html.select_one("#lab-instead")["data-ask"]) == (
        False,
        "yes",
    )


def test_without_an_offer_nothing_of_it_is_seen():
    assert pending(Desk(offers=())).select_one("#lab-instead").has_attr("hidden")


@pytest.mark.parametrize(("provider", "words"), [("sim", "7 s"), ("slow", "3 min"), ("new", None)])
def test_the_usual_time_is_that_of_where_it_starts(provider: str, words: str | None):
    html = pending(Desk(a_lease_here(provider=provider, phase=Phase.LAUNCHING)))

    found = html.select_one("#lab-typical")
    assert (found.text if found else None) == (
        f"Once it has a place, a start usually takes about {words}." if words else None
    )


def test_who_failed_is_offered_what_has_room_with_the_same_choice():
    user = a_user(engine=Desk())

    html = rendered(
        "not_running.html", user=user, failed=True, failed_message="too large", server_name="", exception=None
    )

    form = html.select_one(".lab-instead form")
    assert form["action"] == "/hub/spawn/student1"
    assert form["data-lab-place"] == "/hub/labspawner/place"
    assert {field["name"]: field["value"] for field in form.select("input")} == {
        "_xsrf": "token",
        "profile": "py101/base",
    }
    assert form.select_one("button")["value"] == "py101/base:2"


def test_who_failed_with_a_profile_that_is_not_theirs_any_more_is_offered_nothing():
    user = a_user(engine=Desk())
    user.groups = []

    html = rendered("not_running.html", user=user, failed=True, failed_message="no", server_name="", exception=None)

    assert html.select(".lab-instead") == []


def test_what_staff_wrote_is_read_on_the_card_as_text():
    said = [Said(f"Save your work {EVIL}", "teacher", NOW - timedelta(minutes=5))]
    html = home(a_running_user(Desk(a_lease_here(), said=said)))

    (line,) = html.select(".lab-from-staff li")
    assert line.select_one(".lab-said-text").text == f"Save your work {EVIL}"
    assert "teacher" in line.text
    assert html.select(".lab-from-staff script") == []


def spawn_page(user: Any) -> Any:
    return rendered(
        "spawn.html",
        user=user,
        for_user=user,
        spawner=user.spawner,
        spawner_options_form="<p>cards</p>",
        url="/hub/spawn?profile=py101/base&_xsrf=2%7Cx&next=%2Fhub%2Fhome",
    )


def test_what_runs_comes_before_what_can_be_chosen():
    user = a_running_user(Desk(a_lease_here()))

    html = spawn_page(user)

    order = [found["id"] for found in html.select("#server, #spawn_form")]
    assert order == ["server", "spawn_form"]
    assert html.select_one("#lab-home")["data-url"] == "/hub/labspawner/home?only=running"


def test_where_nothing_runs_the_cards_come_first():
    assert spawn_page(a_user(engine=Desk())).select("#lab-home") == []


def test_the_form_posts_without_what_a_link_named():
    assert spawn_page(a_user(engine=Desk())).select_one("#spawn_form")["action"] == (
        "/hub/spawn?_xsrf=2%7Cx&next=%2Fhub%2Fhome"
    )


def test_a_page_that_is_made_for_somebody_else_does_not_listen_in_the_makers_name():
    user, other = a_user(engine=Desk()), a_user("admin", engine=Desk())

    html = rendered(
        "spawn.html",
        user=other,
        for_user=user,
        spawner=user.spawner,
        spawner_options_form="",
        url="/hub/spawn/student1",
    )

    assert html.select_one("#spawn_form")["data-own"] == "no"
    assert spawn_page(user).select_one("#spawn_form")["data-own"] == "yes"
