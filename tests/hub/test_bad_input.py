"""Whatever is sent, through REST or the form: 400 or 403 with a sentence, and nothing is left behind."""

from __future__ import annotations

import json

import pytest

from labspawner.testing.hub import major_version

BAD = {
    "unknown profile": ({"profile": "py101/no-such"}, 403),
    "unknown course": ({"profile": "nope/base"}, 403),
    "somebody else's course": ({"profile": "dl101/base"}, 403),
    "no profile, where several could be meant": ({}, 400),
    "empty profile": ({"profile": ""}, 400),
    "unknown option": ({"profile": "py101/base", "options": {"gpu": "all"}}, 400),
    "unknown choice": ({"profile": "py101/choosy", "options": {"interface": "emacs"}}, 400),
    "options that are a list": ({"profile": "py101/base", "options": [1, 2]}, 400),
    "options that are text": ({"profile": "py101/base", "options": "lab"}, 400),
    "a choice that is a number": ({"profile": "py101/choosy", "options": {"interface": 7}}, 400),
    "a choice that is an object": (
        {"profile": "py101/choosy", "options": {"interface": {"set": {"cmd": ["sh"]}}}},
        400,
    ),
    "a profile that is a number": ({"profile": 7}, 400),
    "a profile that is a list": ({"profile": ["py101/base"]}, 400),
    "a profile that is an object": ({"profile": {"slug": "base", "variants": []}}, 400),
    "nested junk": ({"profile": "py101/base", "options": {"a": {"b": [{"c": None}] * 50}}}, 400),
    "keys beside the shape": ({"profile": "py101/base", "options": {}, "cmd": ["sh", "-c", "true"]}, 400),
    "somebody's attempt at a path": ({"profile": "../../etc/passwd"}, 403),
    "slashes": ({"profile": "py101/base/../../dl101/base"}, 403),
    "unicode": ({"profile": "py101/📓 程序"}, 403),
    "a NUL": ({"profile": "py101/base\0"}, 403),
    "a NUL in an option": ({"profile": "py101/choosy", "options": {"interface": "lab\0"}}, 400),
    "markup": ({"profile": "<script>alert(1)</script>"}, 403),
    "a long profile": ({"profile": "py101/" + "x" * 100_000}, 403),
    "a megabyte": ({"profile": "py101/base", "options": {f"o{i}": "x" * 1000 for i in range(1000)}}, 400),
}


@pytest.mark.parametrize(("options", "status"), BAD.values(), ids=BAD)
def test_bad_input_through_rest_is_a_sentence_and_leaves_nothing(hub, student, options, status):
    answer = hub.ask(student, options)

    assert answer.status == status, answer.text[:1000]
    assert is_sentence(answer.message), answer.message
    assert hub.servers(student) == {}
    assert hub.leases(student) == []
    assert hub.processes(student) == []


NOT_JSON = {
    "not JSON": b"{profile:",
    "a list": b'["py101/base"]',
    "a number": b"7",
    "text": b'"py101/base"',
    "deeply nested": b"[" * 100_000 + b"]" * 100_000,
    "not UTF-8": b'{"profile": "\xff\xfe"}',
    "half a character": json.dumps({"profile": "py101/\ud800"}).encode(),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_a_body_that_is_no_object_is_refused_and_leaves_nothing(hub, student, body):
    answer = hub.ask(student, body)

    # JupyterHub 5 answers 500 by itself to what is not UTF-8.
    known = {500} if major_version() < 6 and body.startswith(b'{"profile": "\xff') else set()
    assert answer.status in {400, 403} | known, answer.text[:1000]
    assert hub.leases(student) == []
    assert hub.servers(student) == {}
    hub.start_server(student, "py101/sim")


FORMS = {
    "unknown profile": ({"profile": "py101/no-such"}, "You have no profile"),
    "somebody else's course": ({"profile": "dl101/base"}, "You have no profile"),
    "nothing picked": ({}, "Pick a profile first."),
    "unknown choice": (
        {"profile": "py101/choosy", "option--py101--choosy--interface": "emacs"},
        "is not a choice for",
    ),
    "unknown option": ({"profile": "py101/base", "option--py101--base--gpu": "all"}, "has no option"),
    "unicode": ({"profile": "py101/程序"}, "You have no profile"),
    "slashes": ({"profile": "../../../etc"}, "You have no profile"),
    "a NUL": ({"profile": "py101/base\0"}, "You have no profile"),
    "markup": ({"profile": "py101/<script>alert(1)</script>"}, "You have no profile"),
    "a megabyte": ({"profile": "py101/base", "option--py101--base--x": "x" * 1_000_000}, "has no option"),
}


@pytest.mark.parametrize(("fields", "sentence"), FORMS.values(), ids=FORMS)
def test_bad_input_through_the_form_is_a_page_with_a_sentence_and_leaves_nothing(hub, student, fields, sentence):
    browser = hub.login(student)
    browser.get("/hub/spawn")

    answer = browser.post_form(f"/hub/spawn/{student}", fields)

    assert answer.status in {200, 400, 403}, answer.text[:1000]
    assert sentence in answer.text
    assert "<script>alert" not in answer.text
    assert "Traceback" not in answer.text
    assert hub.leases(student) == []
    assert hub.servers(student) == {}


def test_a_form_of_another_kind_of_content_is_refused(hub, student):
    browser = hub.login(student)
    browser.get("/hub/spawn")

    answer = browser.post_form(f"/hub/spawn/{student}", b"\xff\xfe" * 1000)

    assert answer.status in {200, 400, 403}, answer.text[:1000]
    assert hub.leases(student) == []


def test_a_start_through_the_form_leads_to_the_server(hub, student):
    browser = hub.login(student)
    browser.get("/hub/spawn")

    answer = browser.post_form(
        f"/hub/spawn/{student}", {"profile": "py101/choosy", "option--py101--choosy--interface": "classic"}
    )

    assert answer.status == 302, answer.text[:1000]
    hub.wait_ready(student)
    lease = hub.lease(student)
    assert lease.profile == "py101/choosy"
    assert lease.pinned["options"] == {"interface": "classic"}


@pytest.mark.parametrize(
    "options",
    [{"profile": "choosy", "interface": "classic"}, {"profile": "py101/choosy", "interface": "classic"}],
    ids=["slug", "course and slug"],
)
def test_the_flat_shape_of_kubespawner_starts_a_server(hub, student, options):
    answer = hub.ask(student, options)

    assert answer.status in {201, 202}, answer.text
    hub.wait_ready(student)
    assert hub.lease(student).profile == "py101/choosy"
    assert hub.lease(student).pinned["options"] == {"interface": "classic"}


def test_who_has_one_profile_only_need_not_name_it(hub):
    hub.add_user("only-one", "course-lonely")

    hub.ask("only-one")

    hub.wait_ready("only-one")
    assert hub.lease("only-one").profile == "lonely/only"
    hub.stop_server("only-one")


def test_who_is_in_no_course_reads_what_to_do(hub):
    hub.add_user("nobody-yet")

    answer = hub.ask("nobody-yet")
    page = hub.login("nobody-yet").get("/hub/spawn")

    assert answer.status == 400
    assert answer.message == "You are not in any course yet. Ask your instructor to add you."
    assert page.status == 200
    assert hub.leases("nobody-yet") == []


@pytest.mark.parametrize(
    "junk",
    [
        {"profile": 7},
        {"profile": ["x"], "options": 3},
        {"profile": "py101/choosy", "options": {"interface": ["lab"]}},
        {"profile": "py101/gone", "options": {"x": None}},
        {"options": {"profile": {}}},
        {"a": {"b": {"c": [1, 2, {"d": None}]}}},
    ],
    ids=str,
)
def test_saved_junk_does_not_break_the_spawn_page_nor_the_next_start(hub, student, junk):
    assert hub.ask(student, junk).status in {400, 403}

    page = hub.login(student).get(f"/hub/spawn/{student}")
    home = hub.login(student).get("/hub/home")

    assert page.status == 200, page.text[:1000]
    assert "py101/base" in page.text
    assert home.status == 200
    hub.start_server(student, "py101/sim")


NAMES = {
    "300 characters": "n" * 300,
    "unicode": "学生-ü",
    "spaces and quotes": 'o\'brien "x" <b>',
    "percent": "100%25",
    "mail": "Ann.Lee+lab@example.org",
}


@pytest.mark.parametrize("profile", ["base", "sim", "adapter"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_user_of_any_name_that_jupyterhub_takes_can_start_a_server(hub, name, profile):
    user = name.lower()  # JupyterHub's own rule
    hub.add_user(user, "course-py101")

    hub.start_server(user, f"py101/{profile}")

    assert hub.lease(user).profile == f"py101/{profile}"
    hub.stop_server(user)


@pytest.mark.parametrize("name", ["a/b", " "])
def test_a_user_name_that_is_a_path_is_refused_by_jupyterhub(hub, name):
    answer = hub.api.call("POST", "/hub/api/users", {"usernames": [name]})

    assert answer.status == 400, answer.text


def is_sentence(text):
    return len(text) > 10 and not text[0].isspace() and text[-1] == "." and len(text) < 1000
