"""Course staff in a student's server: only when asked for and agreed to, only there, and only for a while."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from builders import a_lease
from jupyterhub import orm, roles, scopes

from labspawner.model import Phase
from labspawner.pages.home.visits import ASKED_FOR, VISIT_FOR, Visits

NOW = datetime.now(timezone.utc).replace(microsecond=0)
THERE = "access:servers!server=alice/"


@pytest.fixture
def db():
    """A hub's database with alice, who has a server, and two teachers."""
    session = orm.new_session_factory("sqlite:///:memory:")()
    roles.create_role(session, {"name": "user", "scopes": ["self"]})
    for name in ("alice", "teacher", "other"):
        user = orm.User(name=name)
        session.add(user)
        session.commit()
        roles.grant_role(session, user, "user")
    alice = orm.User.find(session, "alice")
    session.add(orm.Spawner(name="", user=alice))
    session.commit()
    yield session
    engine = session.get_bind()
    session.close()
    engine.dispose()


class Hall:
    """Visits of one server, and what was written down of them."""

    def __init__(self, db) -> None:
        self.lease = a_lease(user="alice", server_name="", phase=Phase.READY)
        self.noted: list[tuple[str, str]] = []
        self.alive = True
        self.db = db
        self.visits = Visits(lambda: db, live=lambda _id: self.lease if self.alive else None, note=self._note)

    async def _note(self, lease, verb: str, visitor: str) -> None:
        self.noted.append((verb, visitor))

    def may_enter(self, name: str) -> bool:
        self.db.expire_all()
        return THERE in scopes.get_scopes_for(orm.User.find(self.db, name))

    async def let_in(self, name: str = "teacher"):
        self.visits.ask(self.lease, name, NOW)
        return await self.visits.agree(self.lease, name, NOW)


@pytest.fixture
def hall(db) -> Hall:
    return Hall(db)


async def test_asking_alone_opens_nothing(hall):
    assert hall.visits.ask(hall.lease, "teacher", NOW) is None

    assert hall.visits.asked(hall.lease, NOW).visitor == "teacher"
    assert not hall.may_enter("teacher")


async def test_who_asked_is_let_in_for_a_quarter_of_an_hour_and_nobody_else(hall):
    visit = await hall.let_in()

    assert visit.until == NOW + VISIT_FOR
    assert hall.may_enter("teacher")
    assert not hall.may_enter("other")
    assert hall.visits.ask(hall.lease, "teacher", NOW) == visit
    assert hall.visits.asked(hall.lease, NOW) is None
    assert hall.noted == [("visit.agree", "teacher")]


@pytest.mark.parametrize("visitor", ["other", "", "nobody", "alice"])
async def test_nobody_is_let_in_who_did_not_ask(hall, visitor):
    hall.visits.ask(hall.lease, "teacher", NOW)

    assert await hall.visits.agree(hall.lease, visitor, NOW) is None
    assert not hall.may_enter("teacher")
    assert not hall.may_enter("other")


async def test_an_old_question_is_no_question(hall):
    hall.visits.ask(hall.lease, "teacher", NOW)

    assert await hall.visits.agree(hall.lease, "teacher", NOW + ASKED_FOR) is None
    assert not hall.may_enter("teacher")


async def test_it_is_over_when_its_time_is(hall):
    await hall.let_in()
    hall.visits.sweep(NOW + VISIT_FOR - timedelta(seconds=1))
    assert hall.may_enter("teacher")

    hall.visits.sweep(NOW + VISIT_FOR)

    assert not hall.may_enter("teacher")
    assert hall.visits.visit(hall.lease, NOW + VISIT_FOR) is None


async def test_it_is_over_when_the_owner_takes_it_back(hall):
    await hall.let_in()

    await hall.visits.end(hall.lease)

    assert not hall.may_enter("teacher")
    assert hall.noted[-1] == ("visit.end", "teacher")


async def test_a_server_that_stops_ends_it(hall):
    await hall.let_in()
    hall.lease = a_lease(id=hall.lease.id, user="alice", server_name="", phase=Phase.STOPPING)

    hall.visits.sweep(NOW)

    assert not hall.may_enter("teacher")


async def test_a_server_that_has_ended_lets_nobody_into_the_next_one(hall):
    await hall.let_in()
    hall.alive = False

    hall.visits.sweep(NOW)

    assert not hall.may_enter("teacher")


async def test_the_next_server_of_the_name_begins_without_visitors_before_anybody_looks(hall):
    await hall.let_in()

    hall.visits.server_begins("alice", "")

    assert not hall.may_enter("teacher")
    assert hall.visits.visit(hall.lease, NOW) is None


async def test_another_server_that_begins_ends_no_visit(hall):
    await hall.let_in()

    hall.visits.server_begins("alice", "second")
    hall.visits.server_begins("bob", "")

    assert hall.may_enter("teacher")


async def test_the_owner_may_refuse(hall):
    hall.visits.ask(hall.lease, "teacher", NOW)

    await hall.visits.refuse(hall.lease)

    assert await hall.visits.agree(hall.lease, "teacher", NOW) is None
    assert hall.noted == [("visit.refuse", "teacher")]


async def test_a_second_visitor_takes_the_place_of_the_first(hall):
    await hall.let_in("teacher")

    await hall.let_in("other")

    assert (hall.may_enter("teacher"), hall.may_enter("other")) == (False, True)


async def test_a_hub_that_starts_again_ends_what_it_had_begun_before_and_nothing_else(hall, db):
    await hall.let_in()
    spawner = orm.User.find(db, "alice").orm_spawners[""]
    own = orm.Share.grant(db, spawner, orm.User.find(db, "other"))
    own.expires_at = own.created_at + timedelta(days=1)
    db.commit()

    Hall(db).visits.sweep(NOW)

    assert (hall.may_enter("teacher"), hall.may_enter("other")) == (False, True)


async def test_what_the_owner_shared_by_themselves_is_left_as_it_is(hall, db):
    spawner = orm.User.find(db, "alice").orm_spawners[""]
    own = orm.Share.grant(db, spawner, orm.User.find(db, "teacher"))
    own.expires_at = own.created_at + timedelta(days=1)
    db.commit()

    await hall.let_in()
    await hall.visits.end(hall.lease)

    assert hall.may_enter("teacher")


async def test_before_the_hub_has_a_database_nothing_is_done():
    visits = Visits(lambda: None, live=lambda _id: None, note=None)

    visits.sweep(NOW)
    assert await visits.agree(a_lease(), "teacher", NOW) is None
