"""The REST API: courses and their revisions, and what is answered where something does not fit."""

from __future__ import annotations

import json

import pytest
from unit.console.lab import a_lab, said, text_of

from labspawner.testing.waiting import eventually


@pytest.fixture
async def lab(tmp_path):
    async with a_lab(tmp_path) as running:
        yield running


def is_problem(answer, status: int, kind: str = "") -> dict:
    """The members of an error, which has all that RFC 9457 names."""
    assert answer.code == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = said(answer)
    assert found["status"] == status
    assert found["type"].endswith(f"/{kind}" if kind else "")
    assert found["title"]
    assert found["detail"]
    assert found["instance"].startswith("/services/labspawner/")
    return found


# -- courses -----------------------------------------------------------------------------------------------------------


async def test_a_course_is_made_with_its_groups_and_its_maker_teaches_it(lab):
    made = await lab.ask("POST", "courses", body={"slug": "dl", "text": text_of()})

    assert made.code == 201
    assert said(made)["state"] == "draft"
    assert made.headers["ETag"] == f'"{said(made)["etag"]}"'
    assert lab.hub.groups["course-dl-instructors"] == {"teacher"}
    assert lab.hub.groups["course-dl"] == lab.hub.groups["course-dl-assistants"] == set()
    assert lab.hub.refreshed == 1
    listed = said(await lab.ask("GET", "courses"))["courses"]
    assert [(one["slug"], one["origin"], one["standing"]) for one in listed] == [
        ("dl", "written", "instructor"),
        ("py101", "file", "instructor"),
    ]


async def test_a_course_is_read_saved_and_read_again_with_its_comments(lab):
    etag = await lab.a_course()
    text = text_of().replace("Deep Learning", "Deeper Learning")

    saved = await lab.ask("PUT", "courses/dl", body={"text": text, "comment": "deeper"}, match=etag)

    assert saved.code == 200
    assert said(saved)["etag"] != etag
    assert said(saved)["title"] == {"en": "Deeper Learning"}
    read = await lab.ask("GET", "courses/dl")
    assert said(read)["text"] == text
    assert read.headers["ETag"] == saved.headers["ETag"]
    assert [
        (one["revision"], one["comment"]) for one in said(await lab.ask("GET", "courses/dl/revisions"))["revisions"]
    ] == [
        (2, "deeper"),
        (1, ""),
    ]


async def test_a_change_without_if_match_is_428_and_a_stale_one_412_with_who_and_when(lab):
    etag = await lab.a_course()
    lab.hub.person("second", "course-dl-instructors")
    first = await lab.ask("PUT", "courses/dl", body={"text": text_of() + "# mine\n"}, match=etag)

    without = await lab.ask("PUT", "courses/dl", body={"text": text_of()})
    any_of_them = await lab.ask("PUT", "courses/dl", body={"text": text_of()}, headers={"If-Match": "*"})
    late = await lab.ask("PUT", "courses/dl", "second", {"text": text_of() + "# theirs\n"}, match=etag)

    assert first.code == 200
    is_problem(without, 428, "needs-if-match")
    is_problem(any_of_them, 428, "needs-if-match")
    told = is_problem(late, 412, "stale")
    assert (told["by"], told["etag"]) == ("teacher", said(first)["etag"])
    assert told["at"]
    assert said(await lab.ask("GET", "courses/dl"))["text"] == text_of() + "# mine\n"


async def test_a_text_that_cannot_be_is_refused_with_line_and_advice(lab):
    etag = await lab.a_course()

    refused = await lab.ask("PUT", "courses/dl", body={"text": text_of().replace("1GiB", "1")}, match=etag)

    told = is_problem(refused, 422, "invalid")
    assert told["problems"][0]["line"] == 7
    assert "GiB" in told["problems"][0]["message"]


async def test_publish_unpublish_and_archive(lab):
    etag = await lab.a_course()

    for state in ("published", "draft", "archived"):
        answer = await lab.ask("PATCH", "courses/dl", body={"state": state}, match=etag)
        assert answer.code == 200
        assert said(answer)["state"] == state
        etag = said(answer)["etag"]
    is_problem(await lab.ask("PATCH", "courses/dl", body={"state": "gone"}, match=etag), 422, "invalid")
    is_problem(await lab.ask("PATCH", "courses/dl", body={"state": "draft"}, match="old"), 412, "stale")


async def test_an_old_revision_comes_back_as_a_new_one_and_the_difference_is_told(lab):
    etag = await lab.a_course()
    saved = await lab.ask("PUT", "courses/dl", body={"text": text_of().replace("6GiB", "8GiB")}, match=etag)

    difference = said(await lab.ask("GET", "courses/dl/diff?old=1&new=2"))
    back = await lab.ask("POST", "courses/dl/rollback", body={"revision": 1}, match=said(saved)["etag"])

    assert [(change["before"], change["after"]) for change in difference["changes"]] == [("6GiB", "8GiB")]
    assert (said(back)["text"], said(back)["revision"]) == (text_of(), 3)
    assert said(await lab.ask("GET", "courses/dl/revisions/2"))["text"] == text_of().replace("6GiB", "8GiB")
    is_problem(await lab.ask("GET", "courses/dl/revisions/9"), 404)
    is_problem(await lab.ask("POST", "courses/dl/rollback", body={"revision": 9}, match=said(back)["etag"]), 404)


async def test_a_course_is_duplicated_without_its_people(lab):
    await lab.a_course()
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})

    copied = await lab.ask("POST", "courses/dl/duplicate", body={"slug": "dl-2"})

    assert copied.code == 201
    assert "course: dl-2" in said(copied)["text"]
    assert "# our course" in said(copied)["text"]
    assert lab.hub.groups["course-dl-2"] == set()


async def test_a_file_course_is_read_only(lab):
    read = said(await lab.ask("GET", "courses/py101"))

    assert (read["origin"], read["state"], read["etag"]) == ("file", "published", "")
    told = is_problem(await lab.ask("PUT", "courses/py101", body={"text": "x"}, match="x"), 409, "read-only")
    assert "py101.yaml" in told["detail"]
    is_problem(await lab.ask("PATCH", "courses/py101", body={"state": "archived"}, match="x"), 409, "read-only")
    is_problem(await lab.ask("POST", "courses", body={"slug": "py101", "text": text_of("py101")}), 422)


async def test_yaml_goes_out_as_a_file_and_comes_back(lab):
    etag = await lab.a_course()
    exported = await lab.ask("GET", "courses/dl/yaml")

    assert exported.body.decode() == text_of()
    assert exported.headers["Content-Disposition"] == 'attachment; filename="dl.yaml"'
    text = exported.body.decode().replace("Deep Learning", "深度学习")
    back = await lab.ask(
        "PUT", "courses/dl/yaml", body=text.encode(), match=etag, headers={"Content-Type": "application/yaml"}
    )
    assert said(back)["text"] == text


async def test_lint_says_how_many_seats_a_text_gives(lab):
    await lab.a_course()
    card = {
        "memory_total_bytes": 24564 * 2**20,
        "memory_free_bytes": 24564 * 2**20,
        "compute_free_pct": 100,
        "compute_total_pct": 100,
    }
    cards = [{"uuid": f"GPU-{number}", **card} for number in range(4)]
    lab.hub.capacity = [{"name": "sim", "hosts": [{"name": "h", "cards": cards}]}]

    told = said(await lab.ask("POST", "courses/dl/lint", body={"text": text_of(), "students": 24}))

    assert told["ok"]
    (seats,) = told["seats"]
    assert seats["places"] == 12
    assert "5.9" in seats["text"]
    broken = said(await lab.ask("POST", "courses/dl/lint", body={"text": "course: dl\n"}))
    assert not broken["ok"]
    assert broken["flaws"]
    assert said(await lab.ask("GET", "courses/dl"))["text"] == text_of()


async def test_a_profile_is_changed_by_its_form_and_comments_stay(lab):
    etag = await lab.a_course()
    read = said(await lab.ask("GET", "courses/dl/profiles/gpu"))
    form = {**read["form"], "title": {"en": "GPU slice"}}

    saved = await lab.ask("PUT", "courses/dl/profiles/gpu", body={"form": form}, match=etag)

    assert saved.code == 200, saved.body
    assert "# our course" in said(saved)["text"]
    assert "GPU slice" in said(saved)["text"]
    is_problem(await lab.ask("GET", "courses/dl/profiles/none"), 404)


async def test_a_profile_that_has_no_form_hides_none_of_the_others(lab):
    theirs = "  - {display_name: Old, slug: old, kubespawner_override: {mem_limit: 1G}}\n"
    file = lab.house.catalog.folder / "mixed.yaml"
    file.write_text(text_of("mixed") + theirs, encoding="utf-8")
    lab.hub.person("teacher", "course-mixed-instructors")
    lab.house.catalog.refresh()

    own, old = said(await lab.ask("GET", "courses/mixed/profiles"))["profiles"]

    assert (own["slug"], own["yaml_only"]) == ("gpu", None)
    assert own["form"]["variants"]
    assert (old["slug"], old["key"], old["title"], old["form"]) == ("old", "mixed/old", {"en": "Old"}, {})
    assert "KubeSpawner's words" in old["yaml_only"]
    is_problem(await lab.ask("GET", "courses/mixed/profiles/old"), 422)


async def test_a_course_in_which_no_profile_has_a_form_is_listed_too(lab):
    file = lab.house.catalog.folder / "old.yaml"
    file.write_text("course: old\ntitle: Old\nprofile_list: [{display_name: A B}]\n", encoding="utf-8")
    lab.hub.person("teacher", "course-old-instructors")
    lab.house.catalog.refresh()

    answer = await lab.ask("GET", "courses/old/profiles", headers={"Accept-Language": "zh-CN"})

    (one,) = said(answer)["profiles"]
    assert (one["slug"], one["form"]) == ("a-b", {})
    assert "KubeSpawner" in one["yaml_only"]


async def test_a_course_survives_a_console_that_starts_again(tmp_path):
    async with a_lab(tmp_path) as lab:
        etag = await lab.a_course()
    async with a_lab(tmp_path) as lab:
        lab.hub.person("teacher", "course-dl-instructors")

        assert said(await lab.ask("GET", "courses/dl"))["etag"] == etag


async def test_behind_a_base_url(tmp_path):
    async with a_lab(tmp_path, prefix="/lab/here/services/labspawner/") as lab:
        await lab.a_course()

        assert said(await lab.ask("GET", "openapi.json", None))["servers"] == [
            {"url": "/lab/here/services/labspawner/api/v1"}
        ]
        link = said(await lab.ask("GET", "courses/dl/links?profile=gpu"))["path"]
        assert link == "/lab/here/hub/spawn?profile=dl%2Fgpu"


# -- what does not fit -------------------------------------------------------------------------------------------------


BAD_BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"slug": NaN, "text": ""}', 422),
    (b"[" * 50_000, 400),
    (b"null", 422),
    (b"[]", 422),
    (b"{}", 422),
    (b'{"slug": "x", "text": 1}', 422),
    (b'{"slug": "X Y", "text": ""}', 422),
    (b'{"slug": "-x", "text": ""}', 422),
    (b'{"slug": "x", "text": "", "admin": true}', 422),
    (b'{"slug": "x", "text": "", "comment": null}', 422),
    (b'{"slug": "x\\n", "text": ""}', 422),
]


async def test_a_body_that_does_not_fit_is_refused_in_words(lab):
    for body, status in BAD_BODIES:
        is_problem(await lab.ask("POST", "courses", body=body), status)

    assert "course-x" not in lab.hub.groups


async def test_what_is_not_json_is_415(lab):
    sent = json.dumps({"slug": "dl", "text": text_of()})

    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        is_problem(await lab.ask("POST", "courses", body=sent, headers={"Content-Type": kind}), 415, "wrong-type")


async def test_an_unknown_address_or_method_is_a_problem_too(lab):
    is_problem(await lab.ask("GET", "nothing"), 404)
    is_problem(await lab.ask("DELETE", "courses"), 405, "method")
    is_problem(await lab.ask("GET", "courses/Not-A-Slug"), 404)
    is_problem(await lab.fetch("GET", "api", headers={"Authorization": "token token-of-teacher"}), 404)


async def test_errors_speak_the_readers_language(lab):
    answer = await lab.ask("GET", "courses/none", headers={"Accept-Language": "zh-CN"})

    assert said(answer)["title"] == "这里什么也没有"
    assert "none" in said(answer)["detail"]


async def test_while_the_hub_is_away_everything_says_so_and_nothing_changes(lab):
    etag = await lab.a_course()
    lab.hub.away = True
    lab.forget_who()

    is_problem(await lab.ask("GET", "courses"), 503, "away")
    is_problem(await lab.ask("PUT", "courses/dl", body={"text": "x"}, match=etag), 503, "away")

    lab.hub.away = False
    assert said(await lab.ask("GET", "courses/dl"))["etag"] == etag


async def test_a_hub_that_goes_away_in_the_middle_of_a_creation_leaves_a_course_that_is_mended_later(tmp_path):
    async with a_lab(tmp_path) as lab:
        real = lab.house.hub.make_group

        async def fails(name):
            lab.hub.away = True
            await real(name)

        lab.house.hub.make_group = fails
        is_problem(await lab.ask("POST", "courses", body={"slug": "dl", "text": text_of()}), 503)
        lab.house.hub.make_group = real
        lab.hub.away = False
        assert "course-dl-instructors" not in lab.hub.groups

        lab.beside.open()
        await eventually(lambda: lab.hub.groups.get("course-dl-instructors") == {"teacher"}, 20)


async def test_the_audit_log_says_who_did_what_from_where_and_only_to_administrators(lab):
    etag = await lab.a_course()
    await lab.ask("PUT", "courses/dl", body={"text": text_of() + "\n"}, match=etag)
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})

    entries = said(await lab.ask("GET", "audit?course=dl", "boss"))["entries"]

    assert [(entry["verb"], entry["actor"], entry["subject"]) for entry in entries] == [
        ("roster.add", "teacher", "student1"),
        ("course.save", "teacher", ""),
        ("course.create", "teacher", ""),
    ]
    assert {entry["actor_ip"] for entry in entries} == {"127.0.0.1"}
    is_problem(await lab.ask("GET", "audit"), 403, "refused")
    is_problem(await lab.ask("GET", "audit?since=yesterday", "boss"), 400)
    is_problem(await lab.ask("GET", "audit?limit=100000", "boss"), 400)


LINKS = [
    ("profile=base", 200),
    ("profile=base&repo=https://git.example/owner/notes&branch=main&path=week1/a.ipynb", 200),
    ("profile=base&repo=file:///etc/passwd", 422),
    ("profile=base&repo=javascript:alert(1)", 422),
    ("profile=base&repo=https://user:secret@git.example/x/y", 422),
    ("profile=base&repo=https://git.example/x/y&path=../../etc", 422),
    ("profile=base&repo=https://git.example/x/y&path=/etc", 422),
    ("profile=base&repo=https://git.example/x/y&branch=--upload-pack=x", 422),
    ("profile=base&repo=https://git.example:99999999/x/y", 422),
    ("repo=https://git.example/x/y", 400),
]


async def test_links_are_made_and_nothing_is_fetched(lab):
    asked = len(lab.hub.asked)

    for query, status in LINKS:
        answer = await lab.ask("GET", f"courses/py101/links?{query}")
        assert answer.code == status, query
        assert status != 200 or said(answer)["path"].startswith("/hub/spawn?profile=py101%2Fbase")

    of_hub = ("/hub/api/user", "/hub/api/labspawner/v1/courses/given")
    assert all(any(path in line for path in of_hub) for line in lab.hub.asked[asked:])
