"""One commit for what runs without waiting, and nothing else changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from jupyterhub import orm, utils
from jupyterhub.oauth import provider
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labspawner.gate.bundle import OneCommit


@pytest.fixture
def db() -> Iterator[Session]:
    session = orm.new_session_factory("sqlite:///:memory:")()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
def commits(db: Session) -> list[str]:
    found: list[str] = []
    event.listen(db, "after_commit", lambda _session: found.append("commit"))
    return found


def add(db: Session, name: str) -> None:
    db.add(orm.User(name=name))
    db.commit()


async def test_what_runs_without_waiting_is_one_commit_and_the_rest_as_ever(db, commits):
    async def work() -> str:
        add(db, "a")
        assert db.query(orm.User).count() == 1
        add(db, "b")
        await asyncio.sleep(0)
        assert commits == ["commit"]
        add(db, "c")
        return "done"

    assert await OneCommit(work(), db) == "done"
    assert len(commits) == 2
    assert db.query(orm.User).count() == 3


async def test_work_that_never_waits_is_committed_too(db, commits):
    async def work() -> int:
        add(db, "a")
        return 1

    assert await OneCommit(work(), db) == 1
    assert commits == ["commit"]
    assert "commit" not in vars(db)


async def test_an_error_keeps_what_was_committed_before_it(db, commits):
    async def work() -> None:
        add(db, "a")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await OneCommit(work(), db)
    assert commits == ["commit"]
    assert "commit" not in vars(db)


async def test_what_the_database_refuses_is_raised_where_it_was_committed(db):
    async def work() -> str:
        add(db, "a")
        try:
            add(db, "a")
        except IntegrityError:
            db.rollback()
            return "heard"
        return "not heard"

    assert await OneCommit(work(), db) == "heard"


async def test_a_last_commit_that_fails_is_raised_in_the_work_and_rolled_back(db):
    failing = True

    def fail(_session: Session) -> None:
        if failing:
            raise RuntimeError("the disk is full")

    event.listen(db, "before_commit", fail)

    async def work() -> str:
        nonlocal failing
        db.add(orm.User(name="a"))
        db.commit()
        try:
            await asyncio.sleep(0)
        except RuntimeError as exc:
            failing = False
            return str(exc)
        return "not heard"

    assert await OneCommit(work(), db) == "the disk is full"
    assert db.query(orm.User).count() == 0


async def test_a_last_commit_that_fails_after_all_is_done_is_raised(db):
    def fail(_session: Session) -> None:
        raise RuntimeError("the disk is full")

    event.listen(db, "before_commit", fail)

    async def work() -> None:
        add(db, "a")

    with pytest.raises(RuntimeError, match="the disk is full"):
        await OneCommit(work(), db)


async def test_an_error_of_what_is_waited_for_is_raised_in_the_work(db):
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    broken.set_exception(ValueError("broken"))

    async def work() -> str:
        await asyncio.sleep(0)
        try:
            await broken
        except ValueError as exc:
            return str(exc)
        return "not heard"

    assert await OneCommit(work(), db) == "broken"


async def test_a_cancellation_reaches_the_work(db):
    heard: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    task = asyncio.ensure_future(_awaited(OneCommit(work(), db)))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["cancelled"]


async def test_work_that_is_closed_is_closed(db):
    closed: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    steps = OneCommit(work(), db).__await__()
    next(steps)
    steps.close()

    assert closed == ["closed"]


async def test_the_secret_of_a_servers_client_is_hashed_once_and_found_again(db):
    found: list[str] = []

    async def work() -> None:
        found.append(provider.hash_token("0123456789abcdef"))
        await asyncio.sleep(0)
        found.append(provider.hash_token("0123456789abcdef"))

    await OneCommit(work(), db)

    assert [text.split(":")[1] for text in found] == ["1", "16384"]
    assert all(utils.compare_token(text, "0123456789abcdef") for text in found)


async def _awaited(work: OneCommit) -> object:
    return await work
