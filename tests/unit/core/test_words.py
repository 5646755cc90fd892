"""Names on hosts, sentences for people, errors for both."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labspawner import errors
from labspawner.errors import LabError, NeverFits, NoRoom, Permanent, Transient
from labspawner.naming import new_lease_id, safe_name
from labspawner.queueing import Wait, estimate, in_words
from labspawner.sentences import Sentence, plain

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)

# -- names


@settings(deadline=None)
@given(ANY_TEXT)
@example("")
@example("x" * 300)
@example("../../etc/passwd")
@example("张伟")
@example("\ud800")
def test_any_text_becomes_a_dns_label_of_at_most_42_characters(text: str):
    name = safe_name(text)

    assert LABEL.fullmatch(name)
    assert len(name) <= 42
    assert safe_name(text) == name


@settings(deadline=None)
@given(st.lists(st.one_of(ANY_TEXT, st.from_regex(r"[a-zA-Z-]{1,6}", fullmatch=True)), unique=True, max_size=50))
@example(["Ann", "ann", "ann ", "a-nn", "a--nn", safe_name("Ann")])
def test_different_texts_have_different_names(texts: list[str]):
    assert len({safe_name(text) for text in texts}) == len(texts)


def test_a_short_plain_name_stays_as_it_is():
    assert safe_name("student-1") == "student-1"


def test_a_name_that_was_made_here_is_not_taken_by_who_bears_it():
    assert safe_name(safe_name("Ann")) != safe_name("Ann")


def test_lease_ids_are_labels_and_differ():
    ids = {new_lease_id() for _ in range(2000)}

    assert len(ids) == 2000
    assert all(re.fullmatch(r"l[a-z2-9]{15}", id_) and LABEL.fullmatch(id_) for id_ in ids)


# -- sentences

VALUES = st.one_of(st.text(), st.integers(), st.booleans(), st.none())


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=4), st.text())
def test_a_sentence_survives_pickle_and_json(params: dict[str, object], inner: str):
    template = " ".join(f"{{{name}}}" for name in params) or "nothing"
    nested = Sentence("{a} and {b}", a=Sentence(template, **params), b=plain(inner))

    for copy in (pickle.loads(pickle.dumps(nested)), Sentence.from_json(json.loads(json.dumps(nested.to_json())))):
        assert copy == nested
        assert (copy.template, copy.params) == (nested.template, nested.params)
        assert isinstance(copy.params["a"], Sentence)
        assert copy.params["a"].params == params


@settings(deadline=None)
@given(st.text())
def test_a_hosts_own_words_are_never_a_format(text: str):
    assert plain(text) == text
    assert Sentence.from_json(plain(text).to_json()) == text


@pytest.mark.parametrize("data", ["text with {braces}", 5, None, {"template": 5}, {"other": 1}, []])
def test_what_is_no_sentence_becomes_one(data: object):
    assert Sentence.from_json(data) == str(data)


def test_a_sentence_without_parameters_may_hold_braces():
    assert Sentence("{json}") == "{json}"


def test_a_missing_parameter_is_an_error_at_once():
    with pytest.raises(KeyError):
        Sentence("{a} {b}", a=1)


# -- errors


def test_each_error_says_whether_to_try_again_and_with_which_status():
    classes = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, LabError)]

    for found in set(classes) - {LabError, Transient, Permanent}:
        assert issubclass(found, (Transient, Permanent))
        assert 400 <= found.status_code < 600
        assert found.reason != LabError.reason
        assert found.__name__ in (errors.__doc__ or "")


def test_the_student_reads_the_message_and_the_log_the_detail():
    error = NoRoom(Sentence("Full."), detail="host=pve3 full", log_tail="x", retry_after_s=9)

    assert (str(error), error.message, error.jupyterhub_message) == ("host=pve3 full", "Full.", "Full.")
    assert (error.retry_after_s, error.log_tail) == (9, "x")


def test_without_a_detail_the_log_has_the_message():
    assert str(Permanent(Sentence("No {a}.", a=1))) == "No 1."


@pytest.mark.parametrize("wanted", [0, 5])
def test_what_never_fits_for_another_reason_names_no_sizes(wanted: int):
    assert NeverFits(wanted, 5).message.startswith("No machine here can run this profile.")


# -- the line


def test_nothing_is_promised_where_nothing_is_known():
    assert estimate(3, [NOW], None, NOW) == estimate(3, [], timedelta(hours=1), NOW) == Wait(3)
    assert in_words(Wait(3)) == "Everything is in use. You are number 3 in line."


@pytest.mark.parametrize(
    ("place", "low", "high"), [(1, 10, 40), (2, 15, 60), (3, 40, 160)], ids=["first", "second", "after a round"]
)
def test_the_wait_is_half_to_twice_the_guess_in_steps_of_five_minutes(place: int, low: int, high: int):
    started = [NOW - timedelta(minutes=30), NOW - timedelta(minutes=40)]

    wait = estimate(place, started, timedelta(hours=1), NOW)

    assert (wait.low, wait.high) == (timedelta(minutes=low), timedelta(minutes=high))
    assert f"{low} to {high} minutes" in in_words(wait)


def test_a_server_that_runs_longer_than_usual_may_end_any_minute():
    wait = estimate(1, [NOW - timedelta(hours=9)], timedelta(hours=1), NOW)

    assert (wait.low, wait.high) == (timedelta(0), timedelta(minutes=5))


@settings(deadline=None)
@given(st.integers(1, 50), st.lists(st.integers(0, 600), max_size=9), st.integers(1, 600))
def test_who_stands_further_back_never_waits_less(place: int, ages: list[int], typical: int):
    started = [NOW - timedelta(minutes=age) for age in ages]

    here, behind = (estimate(p, started, timedelta(minutes=typical), NOW) for p in (place, place + 1))

    if here.high is not None and behind.high is not None:
        assert here.low is not None
        assert here.low <= here.high <= behind.high
