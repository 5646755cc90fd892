"""A node that goes away: its students are told once, whoever they are, and no more when it stays."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import pytest
from builders import a_lease
from pve.atthehub import HUB_ID, Hub, Said
from pve.providers import Started, a_request, follow

from labspawner.cli.servers import settings_from
from labspawner.cli.vm.warning import moment_of
from labspawner.evidence.answers import leaving
from labspawner.extension import enabling
from labspawner.model import Activity, Evidence, Lease, LeaseId, Phase, ReleaseMode
from labspawner.pages.home.facts import Outlook, ServerFacts, ServerStatus
from labspawner.pages.home.words import Tone, card
from labspawner.pages.i18n import CHINESE, translate
from labspawner.providers.contract import Departure, Forewarning
from labspawner.providers.departures import departure_of, told
from labspawner.providers.proxmox.leaving import Leaving, departure_in
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.store import Standing, Store
from labspawner.store.reservations import Reservations
from labspawner.testing.pve import PveDouble

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=timezone(timedelta(hours=1)))
STATIC = Path(enabling.DATA_PATH) / "labextensions" / "@labspawner" / "lab" / "static"


@pytest.fixture
def hub(pve: PveDouble, tmp_path: Path) -> Hub:
    return Hub(pve, tmp_path)


@pytest.fixture
async def provider(hub: Hub) -> AsyncIterator[ProxmoxProvider]:
    opened = hub.provider()
    yield opened
    await opened.close()


async def beside(hub: Hub, *words: str) -> Said:
    return await asyncio.to_thread(hub.run, *words)


async def started_on(provider: ProxmoxProvider, pve: PveDouble, node: str, user: str) -> Started:
    settings = {"nodes": [node]}
    return await follow(
        provider, a_request(pve, hub_id=HUB_ID, user=user, base_url=f"/user/{user}/", settings=settings)
    )


def lease_of(server: Started) -> Lease:
    return a_lease(
        id=server.request.lease_id, hub_id=HUB_ID, user=server.request.user, phase=Phase.READY, handle=server.handle
    )


async def on_record(hub: Hub, server: Started, *, reports: bool) -> None:
    """The hub's own records have the server, and whether it reports."""
    store = Store.open(settings_from(hub.config, None).database_url)
    lease, now = lease_of(server), datetime.now(timezone.utc)
    try:
        await store.migrate()
        await store.add(lease)
        if reports:
            report = Activity(taken_at=now, valid_until=now + timedelta(hours=1))
            await store.put_standings({lease.id: Standing(evidence=Evidence(report=report))})
    finally:
        await store.close()


# -- the time


@pytest.mark.parametrize(
    ("at", "in_", "when"),
    [
        ("18:00", None, NOW.replace(hour=18)),
        ("2026-11-23T07:30", None, NOW.replace(day=23, hour=7, minute=30)),
        ("2026-11-23T07:30+00:00", None, datetime(2026, 11, 23, 7, 30, tzinfo=timezone.utc)),
        (None, "30m", NOW + timedelta(minutes=30)),
        (None, "1h30m", NOW + timedelta(minutes=90)),
        (None, None, None),
    ],
)
def test_a_time_is_read_as_it_is_typed(at: str | None, in_: str | None, when: datetime | None) -> None:
    assert moment_of(at, in_, NOW) == when


@pytest.mark.parametrize(
    ("at", "in_", "said"),
    [
        ("18:00", "30m", "not both"),
        (None, "30", "write 30m"),
        (None, "soon", "is not a time"),
        ("6pm", None, "write for example 18:00"),
        ("25:00", None, "write for example 18:00"),
        ("13:59", None, "is over"),
        (None, "0m", "is over"),
        (None, "100d", "more than 60 days"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused_with_what_to_write(at: str | None, in_: str | None, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        moment_of(at, in_, NOW)


# -- the announcement


async def test_an_announcement_is_seen_by_the_hub_within_seconds_and_said_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'labspawner.sqlite'}"
    kept = [Reservations.open(url, hub_id="lab", scope="proxmox") for _ in range(2)]
    clock = [0.0]
    operator, running = Leaving(kept[0]), Leaving(kept[1], clock=lambda: clock[0])
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    try:
        assert await running.nodes() == {}
        assert await operator.announce("pve1", at)
        assert not await operator.announce("pve1", at)  # the same again is no news
        clock[0] = 6.0
        first = (await running.nodes())["pve1"]
        assert first.at == at

        assert await operator.announce("pve1", at + timedelta(hours=1))
        clock[0] = 12.0
        assert (await running.nodes())["pve1"].said_at > first.said_at

        assert await operator.withdraw("pve1")
        assert not await operator.withdraw("pve1")
        clock[0] = 18.0
        assert await running.nodes() == {}
    finally:
        for each in kept:
            await each.close()


async def test_an_announcement_is_forgotten_half_a_day_after_its_time(tmp_path: Path) -> None:
    kept = Reservations.open(f"sqlite:///{tmp_path / 'x.sqlite'}", hub_id="lab", scope="proxmox")
    at = datetime.now(timezone.utc) - timedelta(hours=13)
    try:
        await Leaving(kept, now=lambda: at - timedelta(hours=1)).announce("pve1", at)

        assert await Leaving(kept).nodes() == {}
    finally:
        await kept.close()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"at": 1, "said_at": 2}', '{"at": "2026-11-22", "said_at": "x"}']
)
def test_what_is_no_announcement_is_none(text: str) -> None:
    assert departure_in(text) is None


# -- who is told


async def test_those_who_run_there_are_told_and_it_is_said_where_they_read_it(
    pve: PveDouble, hub: Hub, provider: ProxmoxProvider
) -> None:
    ada, bob, eve = [await started_on(provider, pve, "pve1", user) for user in ("ada", "bob", "eve")]
    dan = await started_on(provider, pve, "pve2", "dan")
    await on_record(hub, ada, reports=True)
    await on_record(hub, bob, reports=False)

    said = await beside(hub, "vm", "drain", "pve1", "--in", "30m")
    found = await provider.departures([each.handle for each in (ada, bob, eve, dan)])

    assert "JupyterLab, home page" in said.line(" ada ")
    assert "home page only" in said.line(" bob ")
    assert "not reached" in said.line(" eve ")
    assert "2 student(s) read that pve1 goes away at" in said.flat
    assert "1 of them in JupyterLab. 1 cannot be reached" in said.flat
    assert set(found) == {each.request.lease_id for each in (ada, bob, eve)}
    assert isinstance(provider, Forewarning)
    assert await departure_of(provider, lease_of(ada)) == found[ada.request.lease_id]
    assert await departure_of(provider, lease_of(dan)) is None
    assert await departure_of(object(), lease_of(ada)) is None


async def test_nobody_is_told_without_a_time_or_in_a_dry_run_which_shows_who_would_be(
    pve: PveDouble, hub: Hub, provider: ProxmoxProvider
) -> None:
    ada = await started_on(provider, pve, "pve1", "ada")
    await on_record(hub, ada, reports=True)

    dry = await beside(hub, "vm", "drain", "pve1", "--in", "30m", "--dry-run")
    quiet = await beside(hub, "vm", "drain", "pve1")

    assert "1 student(s) would read" in dry.flat
    assert "JupyterLab, home page" in dry.line(" ada ")
    assert "READS IT" not in quiet.text
    assert await provider.leaving.nodes() == {}


async def test_undoing_it_withdraws_what_was_announced(pve: PveDouble, hub: Hub, provider: ProxmoxProvider) -> None:
    ada = await started_on(provider, pve, "pve1", "ada")
    await beside(hub, "vm", "drain", "pve1", "--in", "30m")
    before = await departures_of(hub, ada)

    said = await beside(hub, "vm", "drain", "pve1", "--undo")

    assert list(before) == [ada.request.lease_id]
    assert "The announcement is withdrawn." in said.flat
    assert await departures_of(hub, ada) == {}


async def departures_of(hub: Hub, server: Started) -> Mapping[LeaseId, Departure]:
    """As a hub process sees it that looks for the first time."""
    looking = hub.provider()
    try:
        return await looking.departures([server.handle])
    finally:
        await looking.close()


async def test_who_is_off_is_not_told(pve: PveDouble, hub: Hub, provider: ProxmoxProvider) -> None:
    bob = await started_on(provider, pve, "pve1", "bob")
    await provider.release(bob.handle, ReleaseMode.STOP, grace_s=5)

    said = await beside(hub, "vm", "drain", "pve1", "--in", "30m")

    assert "0 student(s) read" in said.flat


def test_a_time_without_a_unit_stops_the_command_before_anything_is_done(hub: Hub) -> None:
    said = hub.run("vm", "drain", "pve1", "--in", "30")

    assert said.status == 2
    assert "write 30m" in said.errors


# -- what students read


def test_the_card_says_it_first_and_warns_near_the_end() -> None:
    at = NOW + timedelta(hours=2)
    facts = ServerFacts(name="", label="", status=ServerStatus.RUNNING, outlook=Outlook(), leaves_at=at)

    shown = card(facts, NOW)
    near = card(facts, at - timedelta(minutes=10))
    parked = card(replace(facts, status=ServerStatus.PARKED), at)

    assert shown.end == (told(at),)
    assert (shown.tone, near.tone, parked.tone) == (Tone.CALM, Tone.SOON, Tone.CALM)
    assert str(at) in str(shown.end[0])


def test_jupyterlab_gets_it_in_two_languages_with_a_place_for_the_time() -> None:
    departure = Departure(at=NOW, said_at=NOW - timedelta(minutes=1))

    said: Any = leaving(departure)

    assert leaving(None) is None
    assert (said["at"], said["id"]) == (NOW.isoformat(), departure.said_at.isoformat())
    assert all("{at}" in text for text in said["text"].values())
    assert said["text"]["en"] != said["text"][CHINESE] == translate(told("{at}"), CHINESE)


async def test_the_browser_shows_it_once_and_takes_it_back(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    module = tmp_path / "watch.mjs"
    module.write_bytes((STATIC / "watch.js").read_bytes())
    script = tmp_path / "run.mjs"
    script.write_text("""
        import { Watch } from './watch.mjs';
        const seen = [];
        const view = { calm() {}, bar() {}, leaving: said => seen.push(said.id), stays: () => seen.push('stays') };
        const watch = new Watch({}, { unsaved: () => [] }, view, { now: () => 0, hidden: () => false, id: 'p' });
        const answers = [null, 'a', 'a', 'b', 'b', null, undefined, 'b'];
        for (const id of answers) {
          watch.take({ now: '2026-11-22T13:00:00Z', verdict: 'keep', leaving: id && { id, at: '2026-11-22T14:00:00Z' } });
        }
        console.log(JSON.stringify(seen));
    """)

    ran = await asyncio.to_thread(
        subprocess.run, [node, str(script)], capture_output=True, text=True, check=True, timeout=120
    )

    assert json.loads(ran.stdout) == ["a", "stays", "b", "stays", "b"]
