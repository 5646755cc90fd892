"""What must never work, tried: each test breaks one rule of the console, or fails to."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import quote, urlsplit

import pytest
from unit.console.lab import API, a_lab, said, text_of

from labspawner.service.console.api import ROUTES
from labspawner.service.console.house import Watching
from labspawner.service.console.rights import ACT, READ, ROSTER, WRITE
from labspawner.testing.waiting import eventually


@pytest.fixture
async def lab(tmp_path):
    async with a_lab(tmp_path) as running:
        yield running


def everything() -> list[tuple[str, str]]:
    """Every request of the API, for the course `dl`."""
    filled = {"slug": "dl", "profile": "gpu", "number": "1", "job": "j1"}
    return [
        (method, route.path.format(**filled))
        for route in ROUTES
        for method, operation in route.operations.items()
        if not operation.public
    ]


# -- somebody else's course --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["student1", "helper", "rival"])
async def test_nobody_but_its_staff_sees_or_touches_a_course(lab, who):
    await lab.a_course()
    await lab.ask("POST", "courses/dl/roster/add", body={"names": ["student1"]})
    lab.forget_who()

    for method, path in everything():
        if not path.startswith("courses/dl"):
            continue
        answer = await lab.ask(method.upper(), path, who, {"text": "x"} if method != "get" else None, match="x")
        assert answer.code == 404, (method, path, answer.code, answer.body)

    assert "dl" not in [one["slug"] for one in said(await lab.ask("GET", "courses", who))["courses"]]
    assert said(await lab.ask("GET", "courses/dl"))["revision"] == 1


async def test_a_course_of_somebody_else_and_none_at_all_are_told_in_the_same_words(lab):
    await lab.a_course()

    theirs = await lab.ask("GET", "courses/dl", "rival")
    none = await lab.ask("GET", "courses/xx", "rival")

    assert (theirs.code, theirs.body.replace(b"dl", b"xx")) == (none.code, none.body)


async def test_an_assistant_may_act_within_their_verbs_and_changes_nothing_else(lab):
    refused = [
        ("POST", "courses/py101/roster/add", {"names": ["student1"]}),
        ("POST", "courses/py101/roster/remove", {"names": ["student1"]}),
        ("POST", "courses/py101/roster/preview", {"text": "student1"}),
        ("POST", "courses/py101/jobs", {"verb": "stop", "users": ["student1"]}),
        ("POST", "courses/py101/jobs", {"verb": "reset", "users": ["student1"]}),
        ("POST", "courses", {"slug": "new", "text": text_of("new")}),
    ]

    for method, path, body in refused:
        assert (await lab.ask(method, path, "helper", body)).code == 403, path
    began = await lab.ask(
        "POST", "courses/py101/jobs", "helper", {"verb": "start", "users": ["student1"], "args": {"profile": "base"}}
    )
    assert began.code == 202
    assert (await lab.ask("GET", "courses/py101/wall", "helper")).code == 200


async def test_not_even_an_administrator_has_people_or_jobs_of_a_course_that_is_not_there(lab):
    for method, path in everything():
        if path.startswith("courses/dl"):
            body = {"names": ["student1"]} if method != "get" else None
            assert (await lab.ask(method.upper(), path, "boss", body, match="x")).code == 404, path

    assert (await lab.ask("POST", "courses/dl/roster/add", "boss", {"names": ["student1"]})).code == 404
    assert not [group for group in lab.hub.groups if group.startswith("course-dl")]


async def test_administrators_addresses_are_for_administrators(lab):
    for path in ("audit", "capacity", "state", "decisions"):
        assert (await lab.ask("GET", path, "teacher")).code == 403
        assert (await lab.ask("GET", path, "student1")).code == 403
        assert (await lab.ask("GET", path, "boss")).code == 200


# -- scopes that are only text -----------------------------------------------------------------------------------------


async def test_a_scope_in_a_body_a_header_or_an_address_means_nothing(lab):
    etag = await lab.a_course()
    forged = f"{WRITE}!group=course-dl"

    answers = [
        await lab.ask("PUT", f"courses/dl?scope={quote(forged)}", "rival", {"text": text_of()}, match=etag),
        await lab.ask("PUT", "courses/dl", "rival", {"text": text_of(), "scopes": [forged]}, match=etag),
        await lab.ask("PUT", "courses/dl", "rival", {"text": text_of()}, match=etag, headers={"X-Scopes": forged}),
        await lab.ask(
            "PUT", "courses/dl", "rival", {"text": text_of()}, match=etag, headers={"X-Forwarded-User": "teacher"}
        ),
    ]

    assert {answer.code for answer in answers} <= {404, 422}
    assert said(await lab.ask("GET", "courses/dl"))["etag"] == etag


OTHER_SCOPES = [
    f"{WRITE}!group=course-py101",
    f"{WRITE}!group=course-dl-instructors",
    f"{WRITE}!user=robot",
    f"{READ}!group=course-dl",
    f"{ROSTER}!group=course-dl",
]


async def test_a_token_of_another_course_or_of_another_right_does_not_write(lab):
    etag = await lab.a_course()

    for scope in OTHER_SCOPES:
        lab.hub.services["robot"] = (scope,)
        lab.forget_who()
        answer = await lab.ask("PUT", "courses/dl", "robot", {"text": text_of() + "#"}, match=etag)
        assert answer.code in {403, 404}, scope

    assert said(await lab.ask("GET", "courses/dl"))["etag"] == etag


async def test_a_service_with_a_scope_for_one_course_writes_that_one(lab):
    etag = await lab.a_course()
    await lab.a_course("other")
    lab.hub.services["robot"] = (f"{WRITE}!group=course-dl", f"{READ}!group=course-dl", f"{ACT}!group=course-dl")

    saved = await lab.ask("PUT", "courses/dl", "robot", {"text": text_of() + "#"}, match=etag)

    assert saved.code == 200
    assert [one["slug"] for one in said(await lab.ask("GET", "courses", "robot"))["courses"]] == ["dl"]
    assert (await lab.ask("GET", "courses/other", "robot")).code == 404
    assert (await lab.ask("POST", "courses", "robot", {"slug": "more", "text": text_of("more")})).code == 403


async def test_a_token_without_the_base_scope_has_no_rights_of_its_groups(lab):
    lab.hub.scopes["teacher"] = ("read:users:name!user=teacher",)

    assert (await lab.ask("GET", "courses/py101")).code == 404
    assert (await lab.ask("POST", "courses", body={"slug": "x", "text": text_of("x")})).code == 403


# -- who was staff a moment ago ----------------------------------------------------------------------------------------


async def test_who_is_taken_from_the_staff_is_out_as_soon_as_the_hub_is_asked_again(lab):
    etag = await lab.a_course()
    lab.hub.groups["course-dl-instructors"].discard("teacher")

    lab.forget_who()  # five seconds later

    assert (await lab.ask("GET", "courses/dl")).code == 404
    assert (await lab.ask("PUT", "courses/dl", body={"text": text_of()}, match=etag)).code == 404


async def test_the_console_asks_again_after_five_seconds_at_most(lab):
    assert lab.house.hub.auth.cache_max_age == 5


async def test_who_is_taken_from_the_staff_here_is_out_at_once(lab):
    await lab.a_course()
    lab.hub.person("second", "course-dl-instructors")
    assert (await lab.ask("GET", "courses/dl", "second")).code == 200

    await lab.ask("POST", "courses/dl/roster/remove", body={"names": ["second"], "role": "instructor"})

    assert (await lab.ask("GET", "courses/dl", "second")).code == 404


async def test_a_page_that_watches_is_told_that_it_is_over(lab):
    lab.house.watching = Watching(heartbeat_s=0.05, look_again_s=0.0)
    heard: list[bytes] = []
    watching = asyncio.ensure_future(lab.watch("courses/py101/events", heard.append))
    await eventually(lambda: b"".join(heard).startswith(b"event: changed\ndata: {"), 10)
    lab.hub.groups["course-py101-instructors"].discard("teacher")

    await asyncio.wait_for(watching, 60)

    assert b"".join(heard).endswith(b"event: over\ndata: {}\n\n")
    await eventually(lambda: lab.house.streams == [], 10)


@pytest.mark.parametrize("path", ["courses/vision", "courses/vision/profiles"])
@pytest.mark.parametrize("query", ["", "?lang=en&next=//evil.example"])
async def test_an_address_without_its_last_slash_leads_to_that_page_and_nowhere_else(lab, path, query):
    answer = await lab.fetch("GET", path + query)

    assert answer.code == 301
    assert answer.headers["Location"] == f"{lab.house.prefix}{path}/{query}"


# -- requests of somebody else's page ----------------------------------------------------------------------------------


async def test_a_cookie_alone_changes_nothing(lab):
    cookie = {"Cookie": lab.cookie_of("teacher"), "Content-Type": "application/json"}
    read = await lab.fetch("GET", f"{API}me", headers=cookie)
    assert said(read)["name"] == "teacher"

    body = {"slug": "dl", "text": text_of()}
    attempts = [
        {},
        {"X-XSRFToken": "guess"},
        {"Authorization": "token nobodys"},
        {"Authorization": ""},
        {"Authorization": "token "},
        {"Origin": "https://evil.example"},
    ]
    for more in attempts:
        answer = await lab.fetch("POST", f"{API}courses", body, headers={**cookie, **more})
        assert answer.code in {401, 403}, (more, answer.body)
    assert "course-dl" not in lab.hub.groups


async def test_a_page_of_ours_with_the_xsrf_token_changes_something_and_from_elsewhere_nothing(lab):
    cookie = lab.cookie_of("teacher")
    page = await lab.fetch("GET", "", headers={"Cookie": cookie})
    xsrf = next(one for one in page.headers.get_list("Set-Cookie") if one.startswith("_xsrf=")).partition(";")[0]
    headers = {
        "Cookie": f"{cookie}; {xsrf}",
        "X-XSRFToken": xsrf.removeprefix("_xsrf="),
        "Content-Type": "application/json",
    }
    host = urlsplit(lab.base).netloc

    body = {"slug": "dl", "text": text_of()}
    elsewhere = await lab.fetch("POST", f"{API}courses", body, headers={**headers, "Origin": "http://evil.example"})
    crossing = await lab.fetch("POST", f"{API}courses", body, headers={**headers, "Sec-Fetch-Site": "cross-site"})
    form = await lab.fetch(
        "POST", f"{API}courses", b"slug=dl", headers={**headers, "Content-Type": "application/x-www-form-urlencoded"}
    )
    ours = await lab.fetch("POST", f"{API}courses", body, headers={**headers, "Origin": f"http://{host}"})

    assert (elsewhere.code, crossing.code, form.code, ours.code) == (403, 403, 415, 201)


async def test_the_cookies_are_not_for_other_sites(lab):
    page = await lab.fetch("GET", "", headers={"Cookie": lab.cookie_of("teacher")})

    for cookie in page.headers.get_list("Set-Cookie"):
        assert "samesite=none" not in cookie.lower()


async def test_every_answer_says_what_browsers_may_do_with_it(lab):
    for path in ("", f"{API}me", f"{API}nothing", "nothing", f"{API}openapi.json"):
        headers = (await lab.fetch("GET", path, headers={"Cookie": lab.cookie_of("teacher")})).headers

        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe-inline" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers


# -- tokens, redirects, headers ----------------------------------------------------------------------------------------


async def test_a_token_in_an_address_is_refused_and_never_logged(lab, caplog):
    caplog.set_level(logging.DEBUG)

    refused = await lab.fetch("GET", f"{API}me?token=token-of-teacher")
    page = await lab.fetch("GET", "?token=token-of-teacher")
    with_header = await lab.ask("GET", "me?token=token-of-teacher")

    assert (refused.code, page.code, with_header.code) == (400, 400, 400)
    assert said(refused)["type"].endswith("/token-in-address")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("labspawner")]
    assert not [line for line in ours if "token-of-teacher" in line]


async def test_nobodys_token_is_401_for_programs_and_a_log_in_for_people(lab):
    assert (await lab.ask("GET", "me", None)).code == 401
    assert (await lab.ask("GET", "me", "nobody")).code == 401
    page = await lab.fetch("GET", "")
    assert page.code == 302
    assert page.headers["Location"].startswith("/hub/api/oauth2/authorize")


async def test_no_address_leads_away_from_this_host(lab):
    cookie = {"Cookie": lab.cookie_of("teacher")}
    for path in (
        "?next=https://evil.example/",
        "?next=//evil.example/",
        "oauth_callback?next=https://evil.example&code=x&state=x",
        "/evil.example/",
        "%2F%2Fevil.example/",
        "courses?next=https://evil.example",
    ):
        answer = await lab.fetch("GET", path, headers=cookie)

        assert not urlsplit(answer.headers.get("Location", "/")).netloc, path
        assert "evil.example" not in answer.headers.get("Location", "").partition("?")[0]


async def test_no_header_is_made_of_what_somebody_sends(lab):
    for path in (
        f"{API}courses/dl%0d%0aX-Evil:1",
        f"{API}me?lang=en%0d%0aX-Evil:1",
        f"{API}courses/py101/links?profile=a%0d%0aX-Evil:1",
    ):
        answer = await lab.fetch("GET", path, headers={"Authorization": "token token-of-teacher"})

        assert "X-Evil" not in answer.headers


# -- too much ----------------------------------------------------------------------------------------------------------


async def test_ten_megabytes_are_answered_413_and_not_kept(lab):
    big = b'{"slug": "dl", "text": "' + b"x" * 10_000_000 + b'"}'

    for who in ("teacher", None):
        answer = await lab.ask("POST", "courses", who, big)
        assert answer.code == 413
        assert said(answer)["type"].endswith("/too-large")
    page = await lab.fetch("POST", "courses/new", big, headers={"Content-Type": "text/plain"})
    assert page.code == 413


async def test_a_body_without_a_length_is_cut_off_as_well(lab):
    port = urlsplit(lab.base).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST /services/labspawner/{API}courses HTTP/1.1\r\nHost: x\r\nAuthorization: token token-of-teacher\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + b"".join(b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(8)) + b"0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 413 ")


BOMBS = [
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
    "[" * 5000,
    "a: " * 2000,
    "&a [*a]",
    "!!python/object/apply:os.system ['true']",
    "course: dl\ntitle: x\nprofiles: !!map\n",
    "\x00",
    "? " * 3000,
    "course: " + "9" * 100_000,
]


async def test_a_yaml_bomb_is_a_sentence(lab):
    await lab.a_course()

    for text in BOMBS:
        answer = await lab.ask("POST", "courses/dl/lint", body={"text": text})
        assert answer.code in {200, 422}, text[:40]
        assert answer.code == 422 or not said(answer)["ok"], text[:40]


async def test_a_roster_of_too_many_is_refused_with_a_sentence(lab):
    await lab.a_course()
    many = "\n".join(f"s{number}" for number in range(2001))

    answer = await lab.ask("POST", "courses/dl/roster/preview", body={"text": many})

    assert answer.code == 422
    assert "2000" in said(answer)["detail"]
    assert (await lab.ask("POST", "courses/dl/roster/add", body={"names": many.split()})).code == 422


async def test_pages_that_watch_are_counted(lab):
    lab.house.watching = Watching(most_of_one=0)

    answer = await lab.ask("GET", "courses/py101/events")

    assert answer.code == 429
    assert int(answer.headers["Retry-After"]) > 0


async def test_images_and_repositories_of_a_course_are_never_fetched(lab):
    """SSRF: the console speaks to the hub and to nobody else, whatever a course names."""
    listening = await asyncio.start_server(lambda reader, writer: visits.append(1), "127.0.0.1", 0)
    visits: list[int] = []
    here = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        etag = await lab.a_course()
        text = text_of().replace("memory: 1GiB,", f'memory: 1GiB, image: "{here}/evil:1",')
        assert (await lab.ask("PUT", "courses/dl", body={"text": text}, match=etag)).code == 200
        await lab.ask("POST", "courses/dl/lint", body={"text": text, "students": 30})
        await lab.ask("GET", f"courses/dl/links?profile=gpu&repo=http://{here}/a/b")
        await lab.ask("GET", "courses/dl")
    finally:
        listening.close()
        await listening.wait_closed()

    assert visits == []


async def test_a_console_that_the_hub_itself_refuses_shows_nobody_the_hubs_words(lab, caplog):
    lab.house.hub.auth.api_token = "token-of-nobody"

    answer = await lab.ask("GET", "courses/py101/wall")

    assert answer.code == 503
    assert b"only the console" not in answer.body
    assert "wiring.run_console" in caplog.text
