"""One commit for what runs without waiting, and nothing else changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from jupyterhub import orm, utils
from jupyterhub.oauth import provider
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labspawner.gate.bundle import OneCommit, RolledBack, SharedCommit


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


async def test_each_stretch_between_two_waits_is_one_commit(db, commits):
    async def work() -> str:
        add(db, "a")
        add(db, "b")
        await asyncio.sleep(0)
        assert commits == ["commit"]
        add(db, "c")
        add(db, "d")
        return "done"

    assert await OneCommit(work(), db) == "done"
    assert len(commits) == 2
    assert db.query(orm.User).count() == 4


async def test_once_it_is_enough_the_rest_is_as_ever(db, commits):
    async def work() -> None:
        add(db, "a")
        await asyncio.sleep(0)
        add(db, "b")
        add(db, "c")
        await asyncio.sleep(0)
        assert len(commits) == 3

    await OneCommit(work(), db, enough=lambda: True)


async def test_what_a_start_makes_has_its_defaults_before_it_is_written(db):
    async def work() -> None:
        server, token = orm.Server(base_url="/x"), orm.APIToken(scopes=["self"])
        client = orm.OAuthClient(identifier="x")
        db.add_all([server, token, client])
        db.commit()
        assert server.id is None
        assert (server.proto, server.ip, server.cookie_name) == ("http", "", "cookie")
        assert server.port > 0
        assert token.created is not None
        assert token.scopes == ["self"]
        assert client.allowed_scopes == []
        found.append(server)

    found: list[orm.Server] = []
    await OneCommit(work(), db)

    port = found[0].port
    db.refresh(found[0])
    assert (found[0].port, found[0].proto, found[0].base_url) == (port, "http", "/x")


async def test_whatever_else_is_made_is_written_because_its_id_may_be_asked_for(db):
    async def work() -> int:
        db.add(user := orm.User(name="a"))
        db.commit()
        return int(user.id)

    assert await OneCommit(work(), db) > 0


async def test_a_hook_of_an_administrator_finds_what_the_start_has_made(db):
    async def work() -> list[int]:
        db.add(orm.Server(base_url="/x"))
        db.commit()
        counts = [db.query(orm.Server).count()]
        provider.hash_token("0123456789abcdef")  # the last thing that is made is the client
        return [*counts, db.query(orm.Server).count()]

    assert await OneCommit(work(), db) == [0, 1]
    assert db.autoflush


class Turn:
    """Calls back when the test says that the turn is over."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def over(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


async def test_who_runs_in_one_turn_shares_a_commit(db, commits):
    turn, go = Turn(), asyncio.Event()
    shared = SharedCommit(db, turn.calls.append)

    async def work(name: str) -> str:
        add(db, name)
        await go.wait()
        return name

    tasks = [asyncio.ensure_future(_awaited(OneCommit(work(name), db, shared=shared))) for name in "abc"]
    await asyncio.sleep(0)
    assert commits == []

    turn.over()
    assert commits == ["commit"]
    go.set()

    assert await asyncio.gather(*tasks) == ["a", "b", "c"]


async def test_a_shared_commit_that_fails_is_raised_in_each_work_where_it_waits(db):
    turn = Turn()
    shared = SharedCommit(db, turn.calls.append)

    async def work(name: str) -> str:
        db.add(orm.User(name=name))
        try:
            await asyncio.Event().wait()
        except IntegrityError:
            return "heard"
        return "not heard"

    tasks = [asyncio.ensure_future(_awaited(OneCommit(work("a"), db, shared=shared))) for _ in range(2)]
    await asyncio.sleep(0)
    turn.over()

    assert await asyncio.gather(*tasks) == ["heard", "heard"]
    assert db.query(orm.User).count() == 0


async def test_who_was_rolled_back_with_another_of_the_same_turn_hears_it(db):
    turn = Turn()
    shared = SharedCommit(db, turn.calls.append)

    async def work(name: str) -> str:
        db.add(orm.User(name=name))
        try:
            await asyncio.Event().wait()
        except RolledBack:
            return "heard"
        return "not heard"

    async def failing() -> None:
        db.add(orm.User(name="a"))
        db.flush()

    first = asyncio.ensure_future(_awaited(OneCommit(work("a"), db, shared=shared)))
    await asyncio.sleep(0)
    with pytest.raises(IntegrityError):
        await OneCommit(failing(), db, shared=shared)
    turn.over()

    assert await first == "heard"
    assert db.query(orm.User).count() == 0


async def test_work_that_is_done_at_once_does_not_wait_for_others(db, commits):
    turn = Turn()

    async def work() -> None:
        add(db, "a")

    await OneCommit(work(), db, shared=SharedCommit(db, turn.calls.append))

    assert commits == ["commit"]
    assert turn.calls == []


async def test_a_cancellation_reaches_work_whose_commit_is_shared(db):
    turn, heard = Turn(), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    task = asyncio.ensure_future(_awaited(OneCommit(work(), db, shared=SharedCommit(db, turn.calls.append))))
    await asyncio.sleep(0)
    turn.over()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == ["cancelled"]


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


async def test_a_commit_that_fails_is_raised_in_the_work_and_rolled_back(db):
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
        await asyncio.sleep(0)  # its authenticator may be asked first
        found.append(provider.hash_token("0123456789abcdef"))
        found.append(provider.hash_token("0123456789abcdef"))

    await OneCommit(work(), db)

    assert [text.split(":")[1] for text in found] == ["1", "16384"]
    assert all(utils.compare_token(text, "0123456789abcdef") for text in found)


async def _awaited(work: OneCommit) -> object:
    return await work
