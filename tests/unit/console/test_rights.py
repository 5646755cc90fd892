"""Who may do what: every verb, every standing, and every filter that is not this course's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.service.console.rights import (
    ACT,
    ACTS,
    ADMIN,
    ADMIN_UI,
    CONSOLE,
    READ,
    ROSTER,
    SELF,
    WRITE,
    Caller,
    Rules,
    Standing,
    Verb,
    holds,
    may,
    refusal,
    standing,
    usual_groups,
)

A, B = usual_groups("a"), usual_groups("b")
OF_COURSE = [verb for verb in Verb if verb not in {Verb.CREATE, Verb.ADMIN}]


def a_caller(*groups: str, scopes: tuple[str, ...] = (SELF,), service: bool = False) -> Caller:
    return Caller(name="somebody", groups=frozenset(groups), scopes=frozenset(scopes), service=service)


@pytest.mark.parametrize("verb", OF_COURSE)
def test_an_instructor_does_everything_in_their_own_course_and_nothing_in_another(verb):
    teacher = a_caller("course-a-instructors")

    assert may(teacher, verb, A)
    assert not may(teacher, verb, B)


def test_an_assistant_reads_starts_extends_and_sends_messages_and_nothing_else():
    helper = a_caller("course-a-assistants")

    assert {verb for verb in OF_COURSE if may(helper, verb, A)} == {Verb.READ, Verb.START, Verb.EXTEND, Verb.MESSAGE}
    assert not any(may(helper, verb, B) for verb in OF_COURSE)


@pytest.mark.parametrize("verb", list(Verb))
def test_a_student_may_nothing(verb):
    student = a_caller("course-a", "course-b")

    assert not may(student, verb, None if verb in {Verb.CREATE, Verb.ADMIN} else A)


@pytest.mark.parametrize("verb", OF_COURSE)
def test_a_token_without_the_base_scope_has_nothing_of_its_owners_groups(verb):
    narrowed = a_caller("course-a-instructors", "instructors", scopes=("read:users:name!user=somebody", "admin-ui"))

    assert not may(narrowed, verb, A)
    assert not may(narrowed, Verb.CREATE)
    assert not may(narrowed, Verb.ADMIN)


@pytest.mark.parametrize(
    ("scope", "verbs"),
    [
        (READ, {Verb.READ}),
        (WRITE, {Verb.WRITE}),
        (ROSTER, {Verb.ROSTER}),
        (ACT, set(ACTS)),
    ],
)
def test_a_scope_with_a_filter_is_for_that_course_and_for_what_it_names(scope, verbs):
    lms = a_caller(scopes=(f"{scope}!group=course-a",), service=True)

    assert {verb for verb in OF_COURSE if may(lms, verb, A)} == verbs
    assert not any(may(lms, verb, B) for verb in OF_COURSE)
    assert not may(lms, Verb.ADMIN)
    assert not may(lms, Verb.CREATE)


@pytest.mark.parametrize(
    "scope",
    [
        f"{WRITE}!group=course-b",
        f"{WRITE}!group=course-a-instructors",
        f"{WRITE}!group=course-a ",
        f"{WRITE}!group=",
        f"{WRITE}!group",
        f"{WRITE}!group=course-ab",
        f"{WRITE}!group=*",
        f"{WRITE}!user=somebody",
        f"{WRITE}!server=somebody/",
        f"{WRITE}!service=labspawner",
        f"{WRITE}!group=course-a!group=course-b",
        f"{WRITE.upper()}",
        "custom:labspawner",
        "custom:labspawner:profiles",
        "custom:*",
        CONSOLE,
        "admin:groups",
    ],
)
def test_no_other_filter_opens_a_course(scope):
    assert not may(a_caller(scopes=(scope,)), Verb.WRITE, A)


def test_without_a_filter_a_scope_is_for_all_courses():
    assert may(a_caller(scopes=(WRITE,), service=True), Verb.WRITE, A)
    assert may(a_caller(scopes=(WRITE,), service=True), Verb.WRITE, B)


def test_an_administrator_is_whoever_the_hub_shows_its_administration_to():
    assert a_caller(scopes=(SELF, ADMIN_UI)).admin
    assert a_caller(scopes=(ADMIN,), service=True).admin
    assert not a_caller(scopes=(ADMIN_UI,)).admin
    assert not a_caller(scopes=(SELF, ADMIN_UI), service=True).admin
    assert not a_caller(scopes=(f"{ADMIN}!group=course-a",)).admin


@pytest.mark.parametrize("verb", list(Verb))
def test_an_administrator_may_everything(verb):
    assert may(a_caller(scopes=(SELF, ADMIN_UI)), verb, None if verb in {Verb.CREATE, Verb.ADMIN} else A)


def test_only_members_of_the_named_groups_make_courses():
    rules = Rules(creators=frozenset({"lecturers"}))

    assert may(a_caller("lecturers"), Verb.CREATE, rules=rules)
    assert not may(a_caller("instructors"), Verb.CREATE, rules=rules)
    assert not may(a_caller("lecturers", scopes=(WRITE,)), Verb.CREATE, rules=rules)
    assert not may(a_caller("lecturers", service=True), Verb.CREATE, rules=rules)
    assert not may(a_caller("lecturers"), Verb.CREATE, rules=Rules(creators=frozenset()))


def test_who_may_not_is_told_why_and_what_to_do():
    assert "instructors" in str(refusal(a_caller(), Verb.WRITE, A))
    assert "Assistants may" in str(refusal(a_caller("course-a-assistants"), Verb.STOP, A))
    assert "custom:labspawner:roster!group=course-a" in str(refusal(a_caller(scopes=()), Verb.ROSTER, A))


def test_the_standing_is_of_groups_alone():
    assert standing(a_caller("course-a-instructors", "course-a-assistants"), A) is Standing.INSTRUCTOR
    assert standing(a_caller("course-a-assistants"), A) is Standing.ASSISTANT
    assert standing(a_caller(scopes=(SELF, WRITE)), A) is Standing.NONE
    assert standing(a_caller(scopes=(SELF, ADMIN_UI)), A) is Standing.ADMIN


@given(st.lists(st.text(max_size=60), max_size=5), st.sampled_from(OF_COURSE))
def test_no_text_is_a_right_but_the_two_that_are(scopes, verb):
    wanted = {READ: Verb.READ, WRITE: Verb.WRITE, ROSTER: Verb.ROSTER, ACT: None}
    found = [one for one in scopes if one.partition("!")[0] not in {*wanted, ADMIN}]

    assert not may(a_caller(scopes=tuple(found)), verb, A)
    assert not holds(found, WRITE, "course-a")
