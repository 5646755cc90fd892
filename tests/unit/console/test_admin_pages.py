"""The administrators' pages at their real addresses: who may open them, what they show, and what they never show."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup
from unit.console.admin_samples import NOW, a_server, everything, examination, servers
from unit.console.standin import HUB_ID, Console, a_console

from labspawner.model import Decision, Handle, Lease, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.service.console.pages.admin import ROUTES
from labspawner.store import AuditEntry

EVIL = """"><script>alert(1)</script><img src=x onerror=alert(2)>'{{77*77}}"""
PAGES = (
    "admin/",
    "admin/leases",
    "admin/leases/l-gpu-1",
    "admin/lines",
    "admin/decisions",
    "admin/audit",
    "admin/doctor",
)
DEEDS = ("admin/leases/l-gpu-1/end", "admin/doctor")
FILES = ("admin/audit.csv", "admin/audit.json")


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Console]:
    """A laboratory with something of everything on record."""
    async with a_console(tmp_path, everything()) as running:
        await put_on_record(running)
        yield running


async def put_on_record(running: Console, *, evil: str = "") -> None:
    lease = LeaseId("l-gpu-1")
    await running.house.store.add(
        Lease(
            id=lease,
            hub_id=HUB_ID,
            user=f"li.na{evil}",
            server_name="",
            provider="gpu",
            profile=f"dl101/gpu{evil}",
            phase=Phase.READY,
            created_at=NOW,
            phase_at=NOW,
            handle=Handle(lease_id=lease, provider="gpu", data={"pod": f"jupyter-li-na{evil}", "token": "s3cret"}),
        )
    )
    reason = Sentence("{text}", text=f"idle{evil}")
    await running.house.store.add_decisions(
        [
            Decision(
                lease_id=lease,
                user="li.na",
                server_name="",
                verdict="cull",
                reason=reason,
                evidence={"idle": evil},
                at=NOW,
            )
        ]
    )
    await running.house.store.audit.add(
        AuditEntry(
            at=NOW,
            actor=f"teacher{evil}",
            actor_ip="10.0.0.9",
            verb="act.stop",
            course="dl101",
            subject=f"li.na{evil}",
            object=f"l-gpu-1{evil}",
            detail={"reason": evil},
        )
    )


async def soup_of(console: Console, path: str, **headers: str) -> BeautifulSoup:
    answer = await console.get(path, **headers)
    assert answer.code == 200, answer.body
    return BeautifulSoup(answer.body, "html.parser")


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["teacher", "helper", "student1", "forger"])
async def test_only_administrators_open_or_do_anything_and_nobody_else_learns_what_is_there(console, user):
    for path in (*PAGES, *FILES):
        answer = await console.get(path, user)

        assert answer.code == 403, path
        for name in ("li.na", "node1", "GPU-1f2e3d4c"):
            assert name not in answer.body.decode()
    for path in DEEDS:
        assert (await console.post(path, user, reason="because")).code == 403, path
    assert console.hub.told == []


@pytest.mark.parametrize("path", ["admin/", "admin/audit.csv"])
async def test_who_is_not_logged_in_is_sent_to_the_log_in(console, path):
    answer = await console.get(path, None)

    assert answer.code == 302
    assert "/hub/api/oauth2/authorize" in answer.headers["Location"]


async def test_a_form_without_the_token_of_its_page_does_nothing(console):
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "service-labspawner=x"}
    answer = await console.ask("POST", "admin/doctor", None, kind, "reason=x")

    assert answer.code in {401, 403}
    assert console.hub.told == []


async def test_a_browser_follows_and_posts_with_the_token_of_its_page_and_not_without(console):
    cookie = console.cookie_of("admin")
    page = await console.ask("GET", "admin/doctor", None, {"Cookie": cookie, "Sec-Fetch-Mode": "navigate"})
    soup = BeautifulSoup(page.body, "html.parser")
    token = soup.select_one("#doctor-form [name=_xsrf]")["value"]
    fresh = soup.select_one("[data-fresh]")["data-fresh"].removeprefix(console.house.prefix)
    known = {"Cookie": "; ".join([cookie, *(one.partition(";")[0] for one in page.headers.get_list("Set-Cookie"))])}
    of_script = {**known, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin", "X-XSRFToken": token}
    kind = {"Content-Type": "application/x-www-form-urlencoded"}

    assert (await console.ask("GET", fresh, None, of_script)).code == 200
    assert (await console.ask("POST", "admin/doctor", None, {**known, **kind}, "")).code == 403
    elsewhere = {**known, **kind, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert (await console.ask("POST", "admin/doctor", None, elsewhere, urlencode({"_xsrf": token}))).code == 403
    assert console.hub.told == []
    assert (await console.ask("POST", "admin/doctor", None, {**known, **kind}, urlencode({"_xsrf": token}))).code == 303
    assert [path for path, _ in console.hub.told] == ["doctor"]


def test_every_route_of_administrators_is_tried_above():
    tried = [
        re.sub(r"^admin/?", "admin/", path) for path in (*PAGES, *FILES, "admin/leases/l-gpu-1/end", "admin/doctor")
    ]

    for pattern, _ in ROUTES:
        assert any(re.fullmatch(pattern, path) for path in tried), f"no test opens {pattern}"


# -- what they show ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh-CN"])
async def test_each_page_is_whole_in_both_languages(console, language):
    for path in PAGES:
        page = await soup_of(console, path, **{"Accept-Language": language})

        assert page.html["lang"] == language
        assert page.select_one("a[aria-current=page]") is not None
        assert not re.search(r"\{\w+\}", page.select_one("main").get_text())


async def test_the_map_says_in_words_what_it_draws(console):
    page = await soup_of(console, "admin/")

    text = page.select_one("main").get_text(" ", strip=True)

    assert "GPU-1f2e3d4c" in text
    assert "16 GiB are lost: all of its computing time is given away." in text
    assert "These cards are pretended" in text
    assert "The cluster does not answer." in text
    assert all(svg.get("aria-hidden") or svg.get("aria-label") for svg in page.select("svg"))


async def test_a_page_has_no_style_and_no_script_of_its_own_in_it(console):
    for path in PAGES:
        page = await soup_of(console, path)

        assert not page.select("[style], style, [onclick], [onload]")
        assert all(script.get("src") and not script.get_text(strip=True) for script in page.select("script"))


async def test_a_lease_shows_where_it_is_and_no_secret(console):
    page = await soup_of(console, "admin/leases/l-gpu-1")

    assert "jupyter-li-na" in page.get_text()
    assert "s3cret" not in str(page)


async def test_the_culler_s_reason_and_evidence_can_be_read(console):
    page = await soup_of(console, "admin/decisions?user=li.na")

    assert "idle" in page.get_text()
    assert page.select("details dl")


async def test_the_dry_run_of_the_reconciler_is_told_in_words(console):
    page = await soup_of(console, "admin/decisions")

    assert "free what is gone" in page.get_text()


async def test_doctor_s_findings_are_told_with_their_verdict_in_words(console):
    page = await soup_of(console, "admin/doctor")

    assert "Some servers will not start." in page.get_text()
    assert "call wiring.run_culler(c)" in page.get_text()
    assert not page.select("[data-moving]")


async def test_doctor_s_findings_are_told_in_the_readers_language_and_a_hosts_own_words_as_they_are(console):
    page = await soup_of(console, "admin/doctor", **{"Accept-Language": "zh-CN"})

    own, foreign = page.select("td.con-whole")[1:3]
    assert "无论配置怎么写，空闲的服务器都不会被结束" in own.text
    assert "请调用 wiring.run_culler(c)" in own.text
    assert not own.select("[lang]")
    assert foreign.select_one("[lang=en]").text == "it does not answer"


async def test_an_examination_that_runs_shows_how_far_it_is(console):
    console.hub.answers["doctor"] = examination(running=True)

    page = await soup_of(console, "admin/doctor")

    assert page.select_one("progress")["value"] == "1"
    assert page.select_one("progress")["max"] == "3"
    assert page.select("[data-moving]")


async def test_before_the_first_examination_the_page_says_so(console):
    console.hub.answers["doctor"] = {"examination": None}

    page = await soup_of(console, "admin/doctor")

    assert "It has not been asked since the hub was started." in page.get_text()


async def test_the_live_part_of_a_page_is_the_same_as_in_the_page(console):
    for path in ("admin/", "admin/leases?q=li.na", "admin/lines", "admin/doctor"):
        page = await soup_of(console, path)
        fresh = page.select_one("[data-fresh]")["data-fresh"]

        answer = await console.get(fresh.removeprefix(console.house.prefix))

        live = BeautifulSoup(json.loads(answer.body)["html"], "html.parser")
        assert [row.get("id") for row in live.find_all()] == [
            row.get("id") for row in page.select_one("#live").find_all()
        ]


async def test_leases_are_found_and_counted(console):
    page = await soup_of(console, "admin/leases?q=li.na")

    assert len(page.select("tbody tr")) == 1
    assert page.select_one("#counted").get_text() == f"1 of {len(servers())} leases"


async def test_the_audit_log_is_searched_and_paged(console):
    await console.house.store.audit.add(
        *(AuditEntry(at=NOW - timedelta(minutes=n), actor="boss", verb="course.save") for n in range(120))
    )

    first = await soup_of(console, "admin/audit?actor=boss")
    older = await soup_of(console, "admin/audit?" + first.select_one("#older")["href"].partition("?")[2])

    assert len(first.select("#audit tbody tr")) == 50
    assert len(older.select("#audit tbody tr")) == 50
    assert "boss" in older.select_one("#as-csv")["href"]


async def test_a_day_that_is_none_is_said_beside_its_field(console):
    page = await soup_of(console, "admin/audit?since=yesterday")

    assert page.select_one("#since")["aria-invalid"] == "true"
    assert page.select_one("#since-wrong") is not None


async def test_the_export_is_a_file_and_taking_it_is_on_record(console):
    answer = await console.get("admin/audit.json?course=dl101")

    assert [entry["verb"] for entry in json.loads(answer.body)] == ["act.stop"]
    assert answer.headers["Content-Disposition"] == 'attachment; filename="labspawner-audit.json"'
    (newest,) = await console.house.store.audit.search(verb="audit.export")
    assert (newest.entry.actor, newest.entry.object) == ("admin", "json")
    assert newest.entry.actor_ip


async def test_nothing_that_people_write_becomes_markup(tmp_path):
    answers = json.loads(json.dumps(everything()))
    hostile = dict.fromkeys(("user", "server", "course", "profile", "host"), EVIL)
    answers["state"]["servers"] = [a_server("l-gpu-1", **hostile, profile_title={"en": EVIL}, reason={"en": EVIL})]
    answers["state"]["lines"][0]["waiting"][0]["user"] = EVIL
    answers["state"]["holds"][0]["profile"] = EVIL
    answers["capacity"]["providers"][0]["hosts"][0]["name"] = EVIL
    answers["capacity"]["providers"][0]["hosts"][0]["cards"][0]["uuid"] = EVIL
    answers["reconciler"]["reconciler"]["actions"][0]["user"] = EVIL
    answers["doctor"]["examination"]["found"]["hub"][0]["detail"] = EVIL
    async with a_console(tmp_path, answers) as console:
        await put_on_record(console, evil=EVIL)

        for path in PAGES:
            page = await soup_of(
                console, f"{path}?{urlencode({'q': EVIL, 'user': EVIL, 'actor': EVIL, 'since': EVIL})}"
            )

            assert not [script for script in page.select("script") if not script.get("src")], path
            assert not page.select("img[src=x], [onerror]"), path
            assert "5929" not in page.get_text(), path


# -- what they do ------------------------------------------------------------------------------------------------------


async def test_a_server_is_ended_for_a_reason_that_its_student_reads(console):
    answer = await console.post("admin/leases/l-gpu-1/end", reason="  The exam\n begins. ")

    assert answer.code == 303
    ((path, body),) = console.hub.told
    assert path == "act"
    assert (body["actor"], body["verb"], body["lease"], body["user"]) == ("admin", "stop", "l-gpu-1", "li.na")
    assert body["args"] == {"reason": "The exam begins."}


async def test_ending_a_server_is_on_record_with_its_reason(console):
    await console.post("admin/leases/l-gpu-1/end", reason="The exam begins.")

    (record,) = await console.house.store.audit.search(actor="admin")
    assert record.entry.subject == "li.na"
    assert record.entry.object == "l-gpu-1"
    assert record.entry.detail["reason"] == "The exam begins."


async def test_without_a_reason_nothing_is_ended(console):
    answer = await console.post("admin/leases/l-gpu-1/end", reason=" \n ")

    assert answer.code == 422
    assert "Say why: its student reads it." in answer.body.decode()
    assert console.hub.told == []


async def test_what_has_ended_meanwhile_is_not_ended_again(console):
    console.hub.answers["state"] = {**console.hub.answers["state"], "servers": []}

    answer = await console.post("admin/leases/l-gpu-1/end", reason="because")

    assert answer.code == 409
    assert console.hub.told == []


async def test_doctor_is_asked_by_a_button_and_it_is_on_record(console):
    answer = await console.post("admin/doctor")

    assert answer.code == 303
    assert [path for path, _ in console.hub.told] == ["doctor"]
    assert [record.entry.verb for record in await console.house.store.audit.search(actor="admin")] == ["doctor.run"]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_hub_that_answers_in_other_words_is_said_and_is_no_error(console):
    console.hub.answers = {key: {"taken_at": "soon"} for key in ("capacity", "state", "reconciler", "doctor")}

    for path in ("admin/", "admin/leases", "admin/lines", "admin/decisions", "admin/doctor"):
        answer = await console.get(path)

        assert answer.code == 503, path
        assert "so that both are of one version" in answer.body.decode()


async def test_a_hub_that_is_away_is_said(console):
    console.hub.away = True

    answer = await console.get("admin/")

    assert answer.code == 503


async def test_a_lease_that_nobody_knows_is_not_found(console):
    answer = await console.get("admin/leases/no-such-lease")

    assert answer.code == 404


async def test_a_lease_of_another_hub_is_not_shown(console):
    await console.house.store.add(
        Lease(id=LeaseId("l-theirs"), hub_id="other", user="eve", server_name="", provider="gpu", profile="x/y",
              created_at=NOW, phase_at=NOW)
    )  # fmt: skip

    answer = await console.get("admin/leases/l-theirs")

    assert answer.code == 404
    assert "eve" not in answer.body.decode()


async def test_behind_a_base_url_every_link_stays_below_it(tmp_path):
    async with a_console(tmp_path, everything(), prefix="/lab/services/labspawner/") as console:
        page = await soup_of(console, "admin/leases")

        targets = [tag.get("href") or tag.get("action") for tag in page.select("a[href], form[action], link[href]")]
        assert all(target.startswith(("/lab/", "#")) for target in targets)
        assert page.select_one("[data-fresh]")["data-fresh"].startswith("/lab/")
