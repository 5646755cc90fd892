"""Brings what instructors wrote in the console from the database into the hub's catalog: only what changed, never late."""

from __future__ import annotations

import asyncio
import logging

from labspawner.courses import Catalog, WrittenText
from labspawner.errors import LabError
from labspawner.store import Store, Written

log = logging.getLogger(__name__)


class CourseFeed:
    """What the database said last, and one question at a time to it. Never raises for the database's sake.

    patience_s: how long a page waits for a database that does not answer: the courses are then those of the last answer.
    first_patience_s: the same for the very first question, which sets the database up.
    """

    def __init__(
        self, store: Store, catalog: Catalog, *, patience_s: float = 1.0, first_patience_s: float = 20.0
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._rows: dict[str, Written] = {}
        self._patience_s = first_patience_s
        self._later_patience_s = patience_s
        self._prepared = False
        self._complaint = ""
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Ask the database now, and put in force what changed there. Returns after `patience_s`, or twice that where an
        earlier question is under way, with the answer still to come."""
        if self._asking is not None and not self._asking.done():
            await asyncio.wait({self._asking}, timeout=self._patience_s)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            await asyncio.wait({self._asking}, timeout=self._patience_s)
        self._patience_s = self._later_patience_s

    async def close(self) -> None:
        """End the question that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self) -> None:
        try:
            if not self._prepared:
                await self._store.migrate()
                self._prepared = True
            await self._hear()
        except LabError as exc:
            if self._complaint != str(exc):
                log.warning("written courses stay as they were, the database does not tell: %s", exc)
            self._complaint = str(exc)
        except Exception:
            log.exception("written courses stay as they were")
        else:
            self._complaint = ""

    async def _hear(self) -> None:
        book = self._store.coursebook
        etags = await book.etags()
        known = {slug: row.etag for slug, row in self._rows.items()}
        if etags == known:
            return
        changed = [slug for slug, etag in etags.items() if known.get(slug) != etag]
        rows = {slug: row for slug, row in self._rows.items() if slug in etags}
        rows.update({row.slug: row for row in await book.some(changed)})
        texts = [as_text(row) for _, row in sorted(rows.items())]
        await asyncio.to_thread(self._catalog.set_written, texts)
        self._rows = rows


def as_text(row: Written) -> WrittenText:
    """A row of the database as the catalog takes it."""
    return WrittenText(row.slug, row.text, row.state, row.etag, everyone=row.everyone_by is not None)
