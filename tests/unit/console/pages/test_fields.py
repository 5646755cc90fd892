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
