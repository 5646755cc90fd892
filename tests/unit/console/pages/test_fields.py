"""The form of a profile: what it shows, what it changes, and that it leaves alone what it does not show."""

from __future__ import annotations

import pytest

from labspawner.courses import editing, parse_course
from labspawner.courses.loader import Loaded
from labspawner.service.console.pages import fields
from labspawner.service.console.pages.writing import with_form

TEXT = """# the course
course: dl101
title: {en: Deep Learning, zh-CN: 深度学习}
timezone: Asia/Shanghai
profiles:
  - slug: gpu   # the slice
    title: {en: GPU, zh-CN: 显卡}
    variants:
      - {provider: sim, cpu: 2, memory: 6GiB, gpu: {memory: 6GiB, cores: 25%}, settings: {start_s: 0.5}}
    options:
      size:
        title: Size
        choices: {small: {title: Small}, large: {title: Large, set: {memory: 8GiB}}}
    idle: {after: 45m, warn: [10m, 2m], action: stop}
    limits: {max_age: 4h}
    hours:
      - {days: [mon, wed], from: "10:00", to: "12:00"}
"""


def form_of(text: str = TEXT) -> dict[str, str]:
    return fields.to_fields(editing.profile_as_form(text, "gpu"), editing.course_as_form(text))


def data_of(text: str) -> dict:
    loaded = parse_course(text)
    assert isinstance(loaded, Loaded), loaded
    return loaded.tree.data["profiles"][0]


def test_the_form_shows_what_the_text_says():
    form = form_of()

    assert form["title.zh-CN"] == "显卡"
    assert form["variants.0.gpu.cores"] == "25%"
    assert form["variants.0.cpu"] == "2"
    assert form["idle.warn"] == "10m, 2m"
    assert form["hours.0.days"] == "mon,wed"
    assert form["timezone"] == "Asia/Shanghai"
    assert form["fallback"] == "ask"


def test_a_form_that_is_sent_as_it_is_changes_not_a_byte():
    assert with_form(TEXT, "gpu", form_of()) == TEXT


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("variants.0.gpu.memory", "5.9GiB", lambda profile: profile["variants"][0]["gpu"]["memory"] == "5.9GiB"),
        ("variants.0.cpu", "0.5", lambda profile: profile["variants"][0]["cpu"] == 0.5),
        ("idle.after", "1h", lambda profile: profile["idle"]["after"] == "1h"),
        ("idle.warn", "5m", lambda profile: profile["idle"]["warn"] == ["5m"]),
        ("idle.extend.step", "30m", lambda profile: profile["idle"]["extend"]["step"] == "30m"),
        ("limits.per_user", "1", lambda profile: profile["limits"]["per_user"] == 1),
        ("limits.max_age", "", lambda profile: "max_age" not in profile.get("limits", {})),
        ("queue", "fail", lambda profile: profile["queue"] == "fail"),
        ("title.en", "GPU slice", lambda profile: profile["title"]["en"] == "GPU slice"),
        ("summary.zh-CN", "每周练习", lambda profile: profile["summary"] == {"zh-CN": "每周练习"}),
        ("hours.0.days", "fri", lambda profile: profile["hours"][0]["days"] == ["fri"]),
    ],
)
def test_a_changed_field_is_in_the_text_and_nothing_else_is_lost(field, value, found):
    changed = with_form(TEXT, "gpu", {**form_of(), field: value})

    assert found(data_of(changed))
    assert "# the course" in changed
    assert "# the slice" in changed
    assert data_of(changed)["options"] == data_of(TEXT)["options"]
    assert data_of(changed)["variants"][0]["settings"] == {"start_s": 0.5}


def test_another_way_to_run_it_is_added_and_taken_out_again():
    more = {"variants.1.provider": "local", "variants.1.cpu": "1", "variants.1.memory": "2GiB"}

    added = with_form(TEXT, "gpu", {**form_of(), **more})

    assert [one["provider"] for one in data_of(added)["variants"]] == ["sim", "local"]
    assert fields.counts(form_of(added))["variants"] == 3
    removed = with_form(added, "gpu", {**form_of(added), "variants.1.provider": ""})
    assert [one["provider"] for one in data_of(removed)["variants"]] == ["sim"]


def test_emptied_hours_are_taken_out():
    changed = with_form(TEXT, "gpu", {**form_of(), "hours.0.days": ""})

    assert not data_of(changed).get("hours")


def test_the_empty_row_of_the_form_adds_nothing():
    form = {**form_of(), "variants.1.provider": "", "hours.1.days": "", "hours.1.from": "", "hours.1.to": ""}

    assert with_form(TEXT, "gpu", form) == TEXT


def test_the_time_zone_of_the_course_is_changed_with_the_profile():
    changed = with_form(TEXT, "gpu", {**form_of(), "timezone": "Europe/Berlin"})

    assert "timezone: Europe/Berlin" in changed


def test_a_gpu_that_is_emptied_is_gone():
    changed = with_form(TEXT, "gpu", {**form_of(), "variants.0.gpu.memory": "", "variants.0.gpu.cores": ""})

    assert "gpu" not in data_of(changed)["variants"][0]


@pytest.mark.parametrize("text", ["", "[", "course: x\nprofiles: 7\n", TEXT.replace("slug: gpu", "slug: cpu")])
def test_a_text_that_has_no_such_profile_is_said_and_not_changed(text):
    with pytest.raises(editing.NotEditable):
        with_form(text, "gpu", form_of())


def test_names_that_the_form_does_not_have_change_nothing():
    posted = {
        **form_of(),
        "variants.0.settings": "x",
        "access.everyone": "true",
        "variants.99.provider": "",
        "__proto__": "x",
    }

    assert with_form(TEXT, "gpu", posted) == TEXT


# -- questions on the card ---------------------------------------------------------------------------------------------

COMMENTED = TEXT.replace(
    "        choices: {small: {title: Small}, large: {title: Large, set: {memory: 8GiB}}}",
    """        choices:
          small: {title: Small}  # enough for most
          # for the last exercise
          large: {title: Large, set: {memory: 8GiB}}""",
)


def test_the_form_shows_questions_with_their_answers_and_room_for_one_more_of_each():
    form = form_of()

    assert form["options.0.name"] == "size"
    assert form["options.0.title.en"] == "Size"
    assert form["options.0.choices.1.name"] == "large"
    assert form["options.0.choices.1.set.memory"] == "8GiB"
    assert form["options.0.default"] == "0"
    assert fields.counts(form)["questions"] == [3, 2]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"options.0.title.zh-CN": "大小"}, {"title": {"en": "Size", "zh-CN": "大小"}}),
        ({"options.0.choices.1.set.memory": "10GiB"}, {"large": {"title": "Large", "set": {"memory": "10GiB"}}}),
        ({"options.0.choices.1.set.memory": ""}, {"large": {"title": "Large"}}),
        ({"options.0.choices.0.set.gpu.memory": "3GiB"}, {"small": {"title": "Small", "set": {"gpu": {"memory": "3GiB"}}}}),
        ({"options.0.default": "1"}, {"large": {"title": "Large", "set": {"memory": "8GiB"}, "default": True}}),
        (
            {"options.0.choices.2.name": "huge", "options.0.choices.2.title.en": "Huge", "options.0.choices.2.set.cpu": "8"},
            {"huge": {"title": {"en": "Huge"}, "set": {"cpu": 8}}},
        ),
        (
            {
                "options.0.unlisted_choice.enabled": "true",
                "options.0.unlisted_choice.validation_regex": "[0-9]+GiB",
            },
            {"unlisted_choice": {"enabled": True, "validation_regex": "[0-9]+GiB"}},
        ),
    ],
)  # fmt: skip
def test_a_question_is_changed_in_the_form_and_comments_stay(changes, found):
    changed = with_form(COMMENTED, "gpu", {**form_of(COMMENTED), **changes})

    question = data_of(changed)["options"]["size"]
    ((key, value),) = found.items()
    assert (question if key in question else question["choices"])[key] == value
    assert "# the slice" in changed
    assert "# for the last exercise" in changed


def test_a_new_question_is_made_of_the_empty_row():
    new = {
        "options.1.was": "", "options.1.name": "ui", "options.1.title.en": "Interface", "options.1.default": "1",
        "options.1.choices.0.name": "lab", "options.1.choices.0.title.en": "JupyterLab",
        "options.1.choices.1.name": "doc", "options.1.choices.1.title.en": "Notebook",
    }  # fmt: skip

    changed = with_form(TEXT, "gpu", {**form_of(), **new})

    assert data_of(changed)["options"] == {
        **data_of(TEXT)["options"],
        "ui": {
            "title": {"en": "Interface"},
            "choices": {"lab": {"title": {"en": "JupyterLab"}}, "doc": {"title": {"en": "Notebook"}, "default": True}},
        },
    }


def test_a_question_or_an_answer_whose_name_is_emptied_is_taken_out():
    without = with_form(TEXT, "gpu", {**form_of(), "options.0.choices.1.name": ""})
    none = with_form(TEXT, "gpu", {**form_of(), "options.0.name": " "})

    assert list(data_of(without)["options"]["size"]["choices"]) == ["small"]
    assert "options" not in data_of(none)


def test_a_renamed_answer_keeps_what_the_form_does_not_show():
    text = TEXT.replace("set: {memory: 8GiB}", "summary: More, set: {memory: 8GiB, disk: 9GiB}")

    changed = with_form(text, "gpu", {**form_of(text), "options.0.choices.1.name": "big"})

    answers = data_of(changed)["options"]["size"]["choices"]
    assert answers["big"] == {
        "title": {"en": "Large"},
        "summary": {"en": "More"},
        "set": {"memory": "8GiB", "disk": "9GiB"},
    }
    assert "large" not in answers


def test_of_two_answers_of_one_name_none_is_lost():
    changed = with_form(TEXT, "gpu", {**form_of(), "options.0.choices.1.name": "small"})

    assert list(data_of(changed)["options"]["size"]["choices"]) == ["small", "small-2"]


def test_the_first_answer_can_be_the_preselected_one_again():
    marked = with_form(TEXT, "gpu", {**form_of(), "options.0.default": "1"})

    back = with_form(marked, "gpu", {**form_of(marked), "options.0.default": "0"})

    assert data_of(back)["options"] == data_of(TEXT)["options"]


@pytest.mark.parametrize(
    "options", [{"size": {"choices": {"a": None, "b": {"title": "B"}}}}, [1, 2], "x", {"size": None}]
)
def test_questions_that_a_form_cannot_show_stay_as_they_are(options):
    before = {"slug": "gpu", "options": options}
    form = {name: value for name, value in fields.to_fields(before, {}).items() if value}

    merged = fields.merged(
        before, {**form, "title.en": "New", "options.0.name": "size", "options.0.choices.0.name": "b"}
    )

    assert merged["title"] == {"en": "New"}
    kept = merged["options"]
    assert kept == before["options"] or kept["size"]["choices"] == before["options"]["size"]["choices"]


def test_rows_and_numbers_that_somebody_makes_up_break_nothing():
    made_up = {
        "options.99.name": "x", "options.5.choices.999.name": "y", "options.5.name": "z", "options.0.default": "77",
        "options.0.was": "nobody", "options.١.name": "x", "options.-1.name": "x", "options.0.choices.x.name": "x",
    }  # fmt: skip

    merged = fields.merged(editing.profile_as_form(TEXT, "gpu"), {**form_of(), **made_up})

    assert {"size", "z", "x"} <= set(merged["options"])
