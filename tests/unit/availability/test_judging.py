"""What a viewer is told of a profile: why not, what else, and in which words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from builders import NOW

from labspawner.availability import Answer, Blocked
from labspawner.availability.judging import NOTHING, Standing, judge
from labspawner.availability.offers import Offer, an_offer
from labspawner.availability.wording import Go, availability, card_state, ordinal
from labspawner.availability.words import SENTENCES
from labspawner.courses import Loaded, parse_course
from labspawner.lifecycle.admission import Room
from labspawner.lifecycle.holds import Hold
from labspawner.model import Resources
from labspawner.pages import i18n
from labspawner.queueing import Wait

FULL = Room(free=0, total=6)
BOTH = "variants: [{provider: lab, memory: 1GiB}, {provider: spare, title: {en: the spare one, zh-CN: 备用机}}]"


def an_offered(*lines: str, staff: bool = False, providers: tuple[str, ...] = ("lab", "spare"), **more: Any) -> Offer:
    """A profile of one course; lines: keys of it."""
    own = [] if any(line.startswith("variants:") for line in lines) else ["variants: [{provider: lab}]"]
    body = "".join(f"    {line}\n" for line in ["title: T", *own, *lines])
    loaded = parse_course(f"course: c\ntitle: C\ntimezone: Asia/Shanghai\nprofiles:\n  - slug: p\n{body}")
    assert isinstance(loaded, Loaded), loaded
    course = loaded.course
    return an_offer(
        course, course.profiles[0], staff=staff, now=more.pop("now", NOW), answers={}, providers=providers, **more
    )


def told(offer: Offer, *rooms: Room | None, standing: Standing = NOTHING, **more: Any) -> Answer:
    """rooms: of the variants, in their order."""
    variants = sorted((*offer.variants, *offer.others), key=lambda variant: variant.index)
    known = {(one.provider, one.resources): room for one, room in zip(variants, rooms, strict=False)}
    return judge(offer, known, now=NOW, standing=standing, **more)


def words(answer: Answer, language: str = "en") -> str:
    return i18n.translate(availability(answer, NOW).text, language)


def a_hold(**changes: Any) -> Hold:
    values = {"id": "h", "user": "s", "profile": "c/p", "provider": "lab", "resources": Resources(), "until": NOW}
    return Hold(**{**values, **changes})


def test_with_room_it_starts_at_once():
    answer = told(an_offered(), Room(free=6, total=9), typical_s=4.0)

    assert (answer.free_now, answer.total, answer.free_for_you, answer.blocked_by) == (6, 9, 6, ())
    assert (answer.startable, answer.joinable, answer.typical_s) == (True, False, 4.0)
    assert (words(answer), card_state(answer, NOW).go) == ("6 free", Go.START)


def test_full_it_says_the_place_and_the_wait():
    wait = Wait(3, timedelta(minutes=20), timedelta(minutes=35))
    answer = told(an_offered(), Room(free=0, total=6, waiting=2, wait=wait))

    assert answer.blocked_by == (Blocked.FULL, Blocked.IN_LINE)
    assert (answer.waiting, answer.place, answer.free_for_you) == (2, 3, 0)
    assert words(answer) == "full: you would be 3rd in line, about 20 to 35 min"
    assert words(answer, "zh-CN") == "已满：您将排在第 3 位，约需 20 到 35 分钟"
    assert card_state(answer, NOW).go is Go.JOIN


def test_where_no_wait_is_known_the_next_end_is_said():
    answer = told(an_offered(), Room(free=0, total=6, next_free_at=NOW + timedelta(minutes=9)))

    assert answer.next_free_at == NOW + timedelta(minutes=9)
    assert words(answer).startswith("full: you would be 1st in line; the next place is free about ")
    assert "<time " in card_state(answer, NOW).to_json("en")["html"]


def test_a_place_that_somebody_holds_is_told_apart_from_one_that_is_used():
    answer = told(an_offered(), Room(free=0, total=6, held=1))

    assert answer.blocked_by == (Blocked.HELD_BY_OTHERS,)
    assert words(answer) == "full, the last place was just taken: you would be 1st in line"


def test_room_that_others_wait_for_is_not_the_viewers():
    answer = told(an_offered(), Room(free=2, total=6, waiting=1, wait=Wait(2)))

    assert (answer.free_now, answer.free_for_you, answer.blocked_by) == (2, 0, (Blocked.IN_LINE,))
    assert words(answer) == "others wait: you would be 2nd in line"


def test_who_holds_a_place_may_start_though_all_is_full():
    standing = Standing(hold=a_hold())

    answer = told(an_offered(), FULL, standing=standing)
    other = told(an_offered(), FULL, standing=Standing(hold=a_hold(profile="c/other")))

    assert (answer.startable, answer.free_now, answer.free_for_you) == (True, 0, 1)
    assert words(answer).startswith("a place is held for you until ")
    assert other.blocked_by == (Blocked.FULL,)


def test_a_course_without_a_line_is_full_and_not_to_be_waited_for():
    answer = told(an_offered("queue: fail"), FULL)

    assert (answer.joinable, words(answer), card_state(answer, NOW).go) == (False, "full now", Go.WAIT)


def test_without_a_limit_there_is_no_number():
    answer = told(an_offered(), Room(free=None, total=None))

    assert (answer.startable, answer.free_now, words(answer)) == (True, None, "free")


def test_a_silent_provider_is_said_to_be_silent_and_may_be_waited_for():
    answer = told(an_offered(), None)

    assert (answer.blocked_by, answer.joinable) == ((Blocked.PROVIDER_SILENT,), True)
    assert (answer.free_now, words(answer)) == (None, "its machines do not answer")


def test_what_no_machine_could_hold_is_not_to_be_waited_for():
    answer = told(an_offered(), Room(free=0, total=0, never=True))

    assert (answer.blocked_by, answer.joinable, answer.place) == ((Blocked.NEVER_FITS,), False, None)


def test_outside_its_hours_it_says_when_it_opens_but_not_to_staff():
    hours = 'hours: [{days: [tue], from: "09:45", to: "11:00"}]'
    closed = told(an_offered(hours), Room(free=6, total=6))
    soon = datetime(2026, 11, 3, 1, 0, tzinfo=timezone.utc)  # Tuesday, nine in Shanghai

    assert (closed.blocked_by, closed.startable, closed.joinable) == ((Blocked.CLOSED_HOURS,), False, False)
    today = str(availability(told(an_offered(hours, now=soon), FULL), soon).text)
    zone = " (Asia/Shanghai)"  # said where it is not this machine's
    assert words(closed).removesuffix(zone) == "closed, opens 2026-11-03 09:45"
    assert today.removesuffix(zone) == "closed, opens 09:45"
    assert told(an_offered(hours, staff=True), Room(free=6, total=6)).startable


def test_the_limit_per_user_counts_the_other_servers_only():
    offer = an_offered("limits: {per_user: 1}")
    here = Standing(servers={"c/p": frozenset({""})})
    there = Standing(servers={"c/p": frozenset({"second"})})

    assert told(offer, Room(free=6, total=6), standing=here).startable
    assert told(offer, Room(free=6, total=6), standing=there).blocked_by == (Blocked.PER_USER_LIMIT,)


def test_a_missing_provider_and_a_missing_gpu_are_told_apart():
    gpu = "variants: [{provider: lab, gpu: {memory: 1GiB}}]"

    assert told(an_offered(providers=())).blocked_by == (Blocked.PROVIDER_MISSING,)
    assert told(an_offered(gpu, cardless=("lab",))).blocked_by == (Blocked.NO_GPU_HERE,)


@pytest.mark.parametrize("first", [FULL, Room(free=0, total=0, never=True), None])
def test_where_the_course_asks_another_variant_with_room_is_offered(first):
    answer = told(an_offered(BOTH, "fallback: ask"), first, Room(free=1, total=1))

    (other,) = answer.elsewhere
    assert (other.variant, other.provider, other.free, answer.startable) == (2, "spare", 1, False)
    (said,) = card_state(answer, NOW).to_json("zh-CN")["elsewhere"]
    assert said == {"variant": 2, "text": "改用备用机，立即启动"}


@pytest.mark.parametrize(
    ("lines", "rooms"),
    [
        (("fallback: ask",), (Room(free=1, total=1), Room(free=1, total=1))),
        (("fallback: ask",), (FULL, FULL)),
        (("fallback: ask",), (FULL, Room(free=1, total=1, waiting=1))),
        (("fallback: never",), (FULL, Room(free=1, total=1))),
        (("fallback: ask", "limits: {per_user: 1}"), (FULL, Room(free=1, total=1))),
    ],
)
def test_nothing_is_offered_that_is_not_needed_not_free_or_not_allowed(lines, rooms):
    standing = Standing(servers={"c/p": frozenset({"second"})}) if len(lines) > 1 else NOTHING

    assert told(an_offered(BOTH, *lines), *rooms, standing=standing).elsewhere == ()


def test_where_the_next_is_taken_by_itself_its_places_are_the_profiles():
    offer = an_offered(BOTH, "fallback: auto")

    assert told(offer, FULL, Room(free=4, total=4)).free_now == 4
    assert told(offer, FULL, FULL).blocked_by == (Blocked.FULL,)
    assert told(offer, FULL, None).blocked_by == (Blocked.PROVIDER_SILENT,)
    assert told(offer, Room(free=0, total=0, never=True), Room(free=0, total=4, wait=Wait(2), waiting=1)).place == 2


def test_each_reason_has_a_sentence_in_every_language():
    assert set(SENTENCES) == set(Blocked)
    for reason in Blocked:
        assert i18n.translate(reason.sentence, "zh-CN") != str(reason.sentence)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
    ],
)
def test_places_are_counted_as_people_do(number, said):
    assert str(ordinal(number)) == said


def test_what_an_instructor_wrote_is_escaped_in_what_a_script_puts_into_the_page():
    evil = 'variants: [{provider: lab}, {provider: spare, title: "<img src=x onerror=alert(1)>"}]'
    state = card_state(told(an_offered(evil, "fallback: ask"), FULL, Room(free=1, total=1)), NOW).to_json("en")

    assert "<img" not in state["html"]
    assert state["elsewhere"][0]["text"] == "Start on <img src=x onerror=alert(1)> now"  # put in as text, never as HTML


def test_an_answer_is_plain_json():
    answer = told(an_offered(BOTH, "fallback: ask"), FULL, Room(free=1, total=1), standing=Standing(hold=a_hold()))
    json = answer.to_json()

    assert json["hold_until"] == NOW.isoformat()
    assert json["blocked_by"] == []
    assert told(an_offered(), FULL).to_json()["blocked_by"] == ["full"]
