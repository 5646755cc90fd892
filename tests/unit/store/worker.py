"""Another process at the same database: `python -m unit.store.worker race|write|hold|save URL`."""

from __future__ import annotations

import asyncio
import itertools
import sys

from builders import NOW, a_lease

from labspawner.errors import LeaseConflict
from labspawner.store import Store, leases
from labspawner.store.engine import make_engine, transaction

STARTS = 20


async def race(url: str) -> None:
    """Set the database up and add one lease for each of the same users, at the same time as others do."""
    store = Store.open(url)
    _say("ready")
    sys.stdin.readline()
    await store.migrate()
    for number in range(STARTS):
        lease = a_lease(user=f"student{number}")
        try:
            await store.add(lease)
            _say(f"won {number} {lease.id}")
        except LeaseConflict:
            _say(f"lost {number} {lease.id}")
    await store.close()


async def write(url: str) -> None:
    """Add leases until killed, telling of each one that was stored."""
    store = Store.open(url)
    for number in itertools.count():
        lease = a_lease(user=f"student{number}", pinned={"filler": "x" * 5000})
        await store.add(lease)
        _say(lease.id)


async def hold(url: str) -> None:
    """Write a lease and stay in the middle of the transaction."""
    with transaction(make_engine(url), writes=True) as connection:
        leases.insert(connection, a_lease(user="half-made"))
        _say("holding")
        sys.stdin.readline()


async def save(url: str) -> None:
    """Write a course again and again, telling of each revision that was stored."""
    store = Store.open(url, hub_id="hub")
    now = await store.coursebook.get("py101")
    while now is not None:
        now = await store.coursebook.save("py101", f"{now.text}x", if_match=now.etag, by="ann", now=NOW)
        _say(str(now.revision))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    asyncio.run({"race": race, "write": write, "hold": hold, "save": save}[sys.argv[1]](sys.argv[2]))
