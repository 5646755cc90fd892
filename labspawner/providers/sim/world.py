"""What exists in the simulated world: one SQLite file, which outlives a killed hub. Blocking: one thread uses it.

Writes are atomic and survive `kill -9` of the process; they are not flushed to the disk one by one, because nobody
needs a simulation to survive a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from labspawner.errors import LeaseConflict, NeverFits, NoRoom
from labspawner.model import CardCapacity, HostCapacity, LeaseId, Resources
from labspawner.providers.sim.settings import SimHost
from labspawner.sentences import Sentence

LAUNCHING, RUNNING, HIBERNATED, STOPPED = "launching", "running", "hibernated", "stopped"
PARKED = frozenset({HIBERNATED, STOPPED})

_SCHEMA = """
CREATE TABLE IF NOT EXISTS servers (
    hub_id TEXT NOT NULL, lease_id TEXT NOT NULL, token TEXT NOT NULL, user TEXT NOT NULL, profile TEXT NOT NULL,
    base_url TEXT NOT NULL, stage TEXT NOT NULL, state TEXT NOT NULL, created_at REAL NOT NULL, ready_at REAL,
    dies_at REAL, host TEXT NOT NULL, card TEXT, cpu REAL, memory_bytes INTEGER, gpu_bytes INTEGER, gpu_pct INTEGER,
    PRIMARY KEY (hub_id, lease_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS servers_by_url ON servers (hub_id, base_url);
CREATE TABLE IF NOT EXISTS listeners (hub_id TEXT PRIMARY KEY, port INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One simulated server. token: which launch made it. Instants are seconds since the epoch."""

    hub_id: str
    lease_id: LeaseId
    token: str
    user: str
    profile: str
    base_url: str
    stage: str
    state: str
    created_at: float
    ready_at: float | None = None
    dies_at: float | None = None
    host: str = ""
    card: str | None = None
    cpu: float | None = None
    memory_bytes: int | None = None
    gpu_bytes: int | None = None
    gpu_pct: int | None = None

    def serves(self, now: float) -> bool:
        """Whether it answers HTTP."""
        return self.state == RUNNING and not self.dead(now)

    def dead(self, now: float) -> bool:
        """Whether it has died, and only its things are left."""
        return self.state == RUNNING and self.dies_at is not None and self.dies_at <= now


_NAMES = tuple(field.name for field in fields(Row))
_COLUMNS = ", ".join(_NAMES)
_INSERT = f"INSERT INTO servers ({_COLUMNS}) VALUES ({', '.join('?' * len(fields(Row)))})"  # noqa: S608 - our own names


class World:
    """The things on the simulated hosts, of all hubs that share the file."""

    def __init__(self, path: Path, hosts: Sequence[SimHost]) -> None:
        self._hosts = hosts
        self._db = sqlite3.connect(path, timeout=20, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def rows(self, hub_id: str, lease_id: LeaseId | None = None) -> list[Row]:
        """All of one hub, or one lease of it, from one listing."""
        if lease_id is None:
            return self._select("WHERE hub_id = ?", hub_id)
        return self._select("WHERE hub_id = ? AND lease_id = ?", hub_id, lease_id)

    def lives(self, hub_id: str, now: float) -> dict[LeaseId, bool]:
        """Of each server of one hub, whether it starts or runs; else it died or is parked. Cheap: asked every few seconds."""
        query = "SELECT lease_id, state NOT IN (?, ?) AND NOT (state = ? AND IFNULL(dies_at <= ?, 0)) FROM servers"
        values = (HIBERNATED, STOPPED, RUNNING, now, hub_id)
        with closing(self._db.execute(query + " WHERE hub_id = ?", values)) as found:
            return {lease_id: bool(lives) for lease_id, lives in found}

    def at(self, hub_id: str, base_urls: Sequence[str]) -> list[Row]:
        """Those below one of `base_urls`."""
        marks = ", ".join("?" * len(base_urls))
        return self._select(f"WHERE hub_id = ? AND base_url IN ({marks})", hub_id, *base_urls)

    def begin(self, row: Row, wants: Resources) -> None:
        """Place `row` on a host and make its first thing. On NoRoom, NeverFits and LeaseConflict nothing is made."""
        with self._writing():
            if self.rows(row.hub_id, row.lease_id):
                raise _conflict(row.lease_id)
            host, card = choose(self.capacity(), wants)
            values = dict(zip((field.name for field in fields(Row)), astuple(row), strict=True))
            gpu = wants.gpu
            values |= {"host": host, "card": card, "cpu": wants.cpu, "memory_bytes": wants.memory_bytes}
            values |= {"gpu_bytes": gpu.memory_bytes if gpu else None, "gpu_pct": gpu.compute_pct if gpu else None}
            self._db.execute(_INSERT, tuple(values.values()))

    def resume(self, hub_id: str, parked: LeaseId, row: Row, wants: Resources) -> str | None:
        """Wake the server that `parked` left, as `row`; the state it was in, None if nothing is parked there."""
        with self._writing():
            left = [found for found in self.rows(hub_id, parked) if found.state in PARKED]
            if not left:
                return None
            if parked != row.lease_id and self.rows(hub_id, row.lease_id):
                raise _conflict(row.lease_id)
            host, card = choose(self.capacity(), wants)
            self._db.execute(
                "UPDATE servers SET lease_id = ?, token = ?, stage = ?, state = ?, host = ?, card = ?, dies_at = NULL"
                " WHERE hub_id = ? AND lease_id = ?",
                (row.lease_id, row.token, row.stage, LAUNCHING, host, card, hub_id, parked),
            )
            return left[0].state

    def advance(self, hub_id: str, lease_id: LeaseId, token: str, stage: str) -> bool:
        """Make the next thing of a launch; False if the launch's things are not there any more."""
        return self._change("SET stage = ?", stage, where=(hub_id, lease_id, token))

    def ready(self, hub_id: str, lease_id: LeaseId, token: str, now: float, dies_at: float | None) -> bool:
        """Let it serve; False if it is not there any more."""
        return self._change(
            "SET state = ?, ready_at = ?, dies_at = ?", RUNNING, now, dies_at, where=(hub_id, lease_id, token)
        )

    def undo(self, hub_id: str, lease_id: LeaseId, token: str) -> None:
        """Take back what one launch made, and nothing that another made."""
        self._db.execute(
            "DELETE FROM servers WHERE hub_id = ? AND lease_id = ? AND token = ?", (hub_id, lease_id, token)
        )

    def repark(self, hub_id: str, lease_id: LeaseId, token: str, parked: LeaseId, state: str) -> None:
        """Put what one launch had woken back to where it was."""
        self._change("SET state = ?, lease_id = ?, token = ''", state, parked, where=(hub_id, lease_id, token))

    def forget(self, hub_id: str, lease_id: LeaseId) -> None:
        """Destroy all that a lease has."""
        self._db.execute("DELETE FROM servers WHERE hub_id = ? AND lease_id = ?", (hub_id, lease_id))

    def park(self, hub_id: str, lease_id: LeaseId, state: str, now: float) -> None:
        """Hibernate or stop what serves; what is parked stays so; what is half made or dead is destroyed."""
        for row in self.rows(hub_id, lease_id):
            if row.serves(now):
                self._change("SET state = ?, token = ''", state, where=(hub_id, lease_id, row.token))
            elif row.state not in PARKED:
                self.forget(hub_id, lease_id)

    def capacity(self) -> list[HostCapacity]:
        """What each host still holds, with what all hubs have taken subtracted."""
        taken: dict[tuple[str, str | None], tuple[int, float, int, int, int]] = {}
        query = (
            "SELECT host, card, COUNT(*), TOTAL(cpu), TOTAL(memory_bytes), TOTAL(gpu_bytes), TOTAL(gpu_pct)"
            " FROM servers WHERE state IN (?, ?) GROUP BY host, card"
        )
        with closing(self._db.execute(query, (LAUNCHING, RUNNING))) as found:
            for host, card, servers, cpu, memory, gpu, pct in found:
                taken[host, card] = (servers, cpu, int(memory), int(gpu), int(pct))
        return [_host_capacity(host, taken) for host in self._hosts]

    def port(self, hub_id: str) -> int | None:
        """Where the servers of this hub listen."""
        found = self._db.execute("SELECT port FROM listeners WHERE hub_id = ?", (hub_id,)).fetchone()
        return int(found[0]) if found else None

    def keep_port(self, hub_id: str, port: int) -> None:
        """Remember where the servers of this hub listen."""
        self._db.execute("INSERT OR REPLACE INTO listeners (hub_id, port) VALUES (?, ?)", (hub_id, port))

    def kill_all(self, hub_id: str, now: float) -> None:
        """Let every running server of this hub die."""
        self._db.execute("UPDATE servers SET dies_at = ? WHERE hub_id = ? AND state = ?", (now, hub_id, RUNNING))

    def _select(self, where: str, *values: str) -> list[Row]:
        query = f"SELECT {_COLUMNS} FROM servers {where}"  # noqa: S608 - our own names
        with closing(self._db.execute(query, values)) as found:
            return [Row(**dict(zip(_NAMES, values, strict=True))) for values in found]

    def _change(self, what: str, *values: object, where: tuple[str, LeaseId, str]) -> bool:
        query = f"UPDATE servers {what} WHERE hub_id = ? AND lease_id = ? AND token = ?"
        return self._db.execute(query, (*values, *where)).rowcount == 1

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def choose(hosts: Sequence[HostCapacity], wants: Resources) -> tuple[str, str | None]:
    """The first host, and on it the first card, that has room. Raises NoRoom, or NeverFits if no empty one would do."""
    for host in hosts:
        if not _fits(wants, host.servers_free, host.cpu_free, host.memory_free_bytes):
            continue
        if wants.gpu is None:
            return host.name, None
        for card in host.cards:
            if card.memory_free_bytes >= wants.gpu.memory_bytes:
                return host.name, card.uuid
    for host in hosts:
        largest_card = max((card.memory_total_bytes for card in host.cards), default=0)
        if _fits(wants, host.servers_total, host.cpu_total, host.memory_total_bytes) and (
            wants.gpu is None or wants.gpu.memory_bytes <= largest_card
        ):
            raise NoRoom(
                Sentence("All simulated machines are full. Try again in a few minutes."),
                detail=f"no room wants={wants}",
            )
    raise _never_fits(hosts, wants)


def _never_fits(hosts: Sequence[HostCapacity], wants: Resources) -> NeverFits:
    largest = max((card.memory_total_bytes for host in hosts for card in host.cards), default=0)
    if wants.gpu is not None and wants.gpu.memory_bytes > largest:
        return NeverFits(wants.gpu.memory_bytes, largest)
    return NeverFits(wants.memory_bytes or 0, max(host.memory_total_bytes or 0 for host in hosts))


def _fits(wants: Resources, servers: int | None, cpu: float | None, memory_bytes: int | None) -> bool:
    return (
        (servers is None or servers >= 1)
        and (cpu is None or (wants.cpu or 0) <= cpu)
        and (memory_bytes is None or (wants.memory_bytes or 0) <= memory_bytes)
    )


def _host_capacity(
    host: SimHost, taken: dict[tuple[str, str | None], tuple[int, float, int, int, int]]
) -> HostCapacity:
    here = {card: use for (name, card), use in taken.items() if name == host.name}
    servers, cpu, memory = (sum(use[index] for use in here.values()) for index in range(3))
    cards = []
    for card in host.cards:
        use = here.get(card.uuid, (0, 0.0, 0, 0, 0))
        cards.append(
            CardCapacity(
                uuid=card.uuid,
                memory_total_bytes=card.memory,
                memory_free_bytes=card.memory - use[3],
                compute_free_pct=max(0, 100 - use[4]),
            )
        )
    return HostCapacity(
        name=host.name,
        servers_total=host.servers,
        servers_free=None if host.servers is None else max(0, host.servers - int(servers)),
        cpu_total=host.cpu,
        cpu_free=None if host.cpu is None else max(0.0, host.cpu - cpu),
        memory_total_bytes=host.memory,
        memory_free_bytes=None if host.memory is None else max(0, host.memory - int(memory)),
        cards=tuple(cards),
    )


def _conflict(lease_id: LeaseId) -> LeaseConflict:
    return LeaseConflict(Sentence("This server is already starting or running."), detail=f"in use lease={lease_id}")
