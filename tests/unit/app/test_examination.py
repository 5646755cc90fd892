"""An examination beside a hub that runs: one at a time, and whatever breaks in it is a finding."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from traitlets.config import Config

from labspawner.config import Labspawner, Settings
from labspawner.doctor import HUB, Examination, Examiner
from labspawner.doctor.examination import look_at
from labspawner.pages.i18n import CHINESE, translate
from labspawner.providers.findings import Finding, Level

Look = Callable[[Settings, str], Sequence[Finding]]
WAIT_S = 120.0


def an_examiner(tmp_path: Path, look: Look = look_at, **providers: dict[str, object]) -> Examiner:
    (tmp_path / "courses").mkdir()
    labspawner = {
        "data_dir": str(tmp_path / "data"),
        "courses_dir": str(tmp_path / "courses"),
        "providers": providers or {"sim": {}},
    }
    return Examiner(Labspawner(config=Config({"Labspawner": labspawner})).settings(), look=look)


def ended(examiner: Examiner) -> Examination:
    examiner.join(WAIT_S)
    assert examiner.last is not None
    assert examiner.last.ended_at is not None
    return examiner.last


def test_the_hub_and_every_provider_are_looked_at_in_their_order(tmp_path):
    examiner = an_examiner(tmp_path, sim={}, other={"kind": "sim"})

    examiner.begin()

    assert list(ended(examiner).found) == [HUB, "sim", "other"]


def test_before_anybody_asks_nothing_is_looked_at(tmp_path):
    assert an_examiner(tmp_path).last is None


def test_who_asks_while_one_runs_joins_it(tmp_path):
    go = threading.Event()

    def waiting(settings: Settings, place: str) -> Sequence[Finding]:
        assert go.wait(WAIT_S)
        return ()

    examiner = an_examiner(tmp_path, look=waiting)

    first, second = examiner.begin(), examiner.begin()
    go.set()

    assert first.began_at == second.began_at == ended(examiner).began_at


def test_a_later_examination_replaces_the_last_one(tmp_path):
    examiner = an_examiner(tmp_path)
    examiner.begin()
    before = ended(examiner)

    examiner.begin()

    assert ended(examiner).began_at > before.began_at


def test_a_provider_that_cannot_be_opened_is_a_finding_and_the_others_are_looked_at(tmp_path):
    examiner = an_examiner(tmp_path, nobody={"kind": "no-such-kind"}, sim={})

    examiner.begin()

    found = ended(examiner).found
    assert [finding.level for finding in found["nobody"]] == [Level.ERROR]
    assert found["sim"]


def test_a_look_that_breaks_is_a_finding_that_shows_nothing_of_the_cause(tmp_path):
    def broken(settings: Settings, place: str) -> Sequence[Finding]:
        raise RuntimeError("s3cret")

    examiner = an_examiner(tmp_path, look=broken)

    examiner.begin()

    (finding,) = ended(examiner).found["sim"]
    assert finding.level is Level.ERROR
    assert "s3cret" not in finding.detail + finding.advice


def test_an_examination_travels_as_json(tmp_path):
    examiner = an_examiner(tmp_path)
    examiner.begin()
    whole = ended(examiner)

    assert Examination.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_what_is_found_can_still_be_said_in_another_language_after_it_has_travelled(tmp_path):
    examiner = an_examiner(tmp_path)
    examiner.begin()

    whole = Examination.from_json(json.loads(json.dumps(ended(examiner).to_json())))

    own = [one for one in whole.found[HUB] if one.detail.template != "{text}"]
    assert len(own) > 5
    for one in own:
        for said in (one.what, one.detail):
            assert re.search("[\u4e00-\u9fff]", translate(said, CHINESE)), said
            assert translate(said, "en") == str(said)


def test_a_flaw_of_a_course_is_told_in_the_readers_language_with_its_place(tmp_path):
    examiner = an_examiner(tmp_path)
    (tmp_path / "courses" / "a.yaml").write_text("course: [\n", encoding="utf-8")
    examiner.begin()

    flaws = [one for one in ended(examiner).found[HUB] if one.what == "courses" and one.level is Level.ERROR]

    assert len(flaws) == 1
    assert f"{tmp_path / 'courses' / 'a.yaml'}:" in translate(flaws[0].detail, CHINESE)


def test_a_providers_own_words_travel_as_they_are(tmp_path):
    said = Finding(Level.NOTE, "cards", "one {card} of 24 GiB")
    examiner = an_examiner(tmp_path, look=lambda settings, place: (said,))
    examiner.begin()

    whole = Examination.from_json(json.loads(json.dumps(ended(examiner).to_json())))

    assert whole.found["sim"] == (said,)
    assert translate(whole.found["sim"][0].detail, CHINESE) == "one {card} of 24 GiB"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"began_at": "now", "ended_at": None, "places": [], "found": {}},
        {"began_at": "2026-11-02T10:00:00+00:00", "ended_at": None, "places": 1, "found": {}},
        {"began_at": "2026-11-02T10:00:00+00:00", "ended_at": None, "places": [], "found": []},
        {"began_at": "2026-11-02T10:00:00+00:00", "ended_at": None, "places": [], "found": {"hub": [{"level": "ok"}]}},
    ],
)
def test_anything_else_is_no_examination(data):
    with pytest.raises(ValueError, match=r".+"):
        Examination.from_json(data)
