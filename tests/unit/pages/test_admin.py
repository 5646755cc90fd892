"""The administrator's page: what each provider says of its sandbox, and what servers use."""

from __future__ import annotations

import pytest
from builders import NOW, a_lease
from unit.pages.rendering import EVIL, Handler, a_user, pinned, rendered, text_of

from labspawner.errors import SetupError
from labspawner.lifecycle.usages import Use
from labspawner.model import LeaseId, Phase, Usage
from labspawner.pages.admin import provider_notes, server_rows
from labspawner.sentences import Sentence


class Told:
    """A provider that describes its sandbox, or fails to."""

    def __init__(self, *lines, fails=None):
        self.lines, self.fails = lines, fails

    async def describe_sandbox(self):
        if self.fails:
            raise self.fails
        return self.lines


class Office:
    def __init__(self, providers=None, leases=(), uses=None):
        self.providers, self.leases, self.found = providers or {}, leases, uses or {}

    def all_leases(self):
        return self.leases

    async def uses(self, leases):
        return self.found


async def test_each_provider_speaks_for_itself_and_one_that_cannot_says_why():
    office = Office(
        {
            "sim": object(),
            "local": Told(Sentence("Rung of the sandbox: {rung}.", rung="cgroup")),
            "broken": Told(fails=SetupError(Sentence("already gone"))),
        }
    )

    notes = {note.name: list(note.lines) for note in await provider_notes(office)}

    assert notes == {"broken": ["already gone"], "local": ["Rung of the sandbox: cgroup."], "sim": []}


async def test_servers_stand_by_user_with_what_they_use():
    used = Use(Usage(taken_at=NOW, memory_bytes=2**30, memory_limit_bytes=2**31), 0.5)
    leases = [
        a_lease(id=LeaseId("b"), user="zoe", phase=Phase.READY, pinned=pinned()),
        a_lease(id=LeaseId("a"), user="ann", phase=Phase.PARKED, profile="py101/gone"),
    ]

    rows = await server_rows(Office(leases=leases, uses={LeaseId("b"): used}))

    assert [(row.user, row.state, row.title["en"]) for row in rows] == [
        ("ann", "Parked", "py101/gone"),
        ("zoe", "Running", "Python notebook"),
    ]
    assert [str(meter.text) for meter in rows[1].meters] == ["1.0 of 2 GiB", "0.5 cores, no limit"]
    assert rows[0].meters == ()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_both_and_escapes_names(language):
    import asyncio

    office = Office({"local": Told(Sentence("already gone"))}, [a_lease(user=EVIL, server_name="two")])
    notes, rows = asyncio.run(provider_notes(office)), asyncio.run(server_rows(office))

    html = rendered("labspawner/admin.html", Handler(accept=language), user=a_user("admin"), notes=notes, rows=rows)

    assert f"{EVIL} / two" in text_of(html)
    assert html.select("main script") == []
    assert ("已不存在" in text_of(html)) == (language == "zh")
