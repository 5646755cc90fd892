"""The tables, and the two column types that make SQLite and PostgreSQL agree on text and time."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timezone

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from labspawner.model import Phase

_UNSTORABLE = re.compile("[\\\\\x00\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|u[0-9a-f]{4})")


def escape(text: str) -> str:
    """`text` as both databases store it; `unescape` turns it back. Only NUL, lone surrogates and backslashes change.

    PostgreSQL refuses NUL and, like SQLite, cannot encode a lone surrogate. A name that holds one must not make a
    lease impossible to write: what runs on a host has to be on record, whatever it is called.
    """
    return _UNSTORABLE.sub(lambda m: r"\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _ESCAPED.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text)


def digest(*parts: str) -> str:
    """A name of 64 characters for `parts`, different for different ones; what an index can hold.

    A PostgreSQL index row ends at 2704 bytes; 700 emoji are more.
    """
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


class AnyText(sa.types.TypeDecorator[str]):
    """Any Python string, through `escape`. Equality works in queries; order and LIKE see the escaped text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else escape(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unescape(value)


class Instant(sa.types.TypeDecorator[datetime]):
    """A datetime that always has a timezone: any on the way in, UTC on the way out.

    SQLite has no type for it: there it is stored without a zone, in UTC, so that it also sorts as text.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"an instant needs a timezone: {value!r}")
        value = value.astimezone(timezone.utc)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


metadata = sa.MetaData()

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", AnyText, primary_key=True),
    sa.Column("hub_id", AnyText, nullable=False),
    sa.Column("username", AnyText, nullable=False),
    sa.Column("server_name", AnyText, nullable=False),
    sa.Column("owner_key", sa.String(64), nullable=False, comment="digest(username, server_name)"),
    sa.Column("provider", AnyText, nullable=False),
    sa.Column("profile", AnyText, nullable=False),
    sa.Column("profile_rev", AnyText, nullable=False),
    sa.Column("pinned", sa.Text, nullable=False, comment="JSON object"),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("handle", sa.Text, comment="JSON object"),
    sa.Column("url", AnyText),
    sa.Column("reserves", sa.Text, nullable=False, comment="JSON object"),
    sa.Column("release_mode", sa.String(16), nullable=False),
    sa.Column("mode_before_intent", sa.String(16), comment="release_mode to go back to when an intention is withdrawn"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("phase_at", Instant, nullable=False),
    sa.Column("ready_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("ending", sa.Text, comment="JSON object"),
    sa.Column("attempts", sa.Integer, nullable=False),
)
# What is parked does not keep its owner from starting another profile under the same server name.
_active = leases.c.phase.not_in([sa.literal_column(f"'{phase.value}'") for phase in (Phase.ENDED, Phase.PARKED)])
sa.Index(
    "leases_one_active",
    leases.c.hub_id,
    leases.c.owner_key,
    unique=True,
    sqlite_where=_active,
    postgresql_where=_active,
)
sa.Index("leases_by_end", leases.c.hub_id, leases.c.ended_at)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("lease_id", AnyText, sa.ForeignKey("leases.id", ondelete="CASCADE"), nullable=False),
    sa.Column("hub_id", AnyText, nullable=False),
    sa.Column("username", AnyText, nullable=False),
    sa.Column("user_key", sa.String(64), nullable=False, comment="digest(username)"),
    sa.Column("server_name", AnyText, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, comment="JSON object"),
    sa.Column("evidence", sa.Text, nullable=False, comment="JSON object"),
    sa.Column("at", Instant, nullable=False),
    sa.Column("applied", sa.Boolean, nullable=False),
)
sa.Index("decisions_by_hub", decisions.c.hub_id, decisions.c.at)
sa.Index("decisions_by_user", decisions.c.hub_id, decisions.c.user_key, decisions.c.at)
sa.Index("decisions_by_lease", decisions.c.lease_id, decisions.c.at)
sa.Index("decisions_by_age", decisions.c.at)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("lease_id", AnyText, sa.ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False, comment="grows with time"),
    sa.Column("text", AnyText, nullable=False),
    sa.Column("by", AnyText, nullable=False),
    sa.Column("at", Instant, nullable=False),
)
sa.Index("messages_by_age", messages.c.at)

# `extended_until` and `held_until` are written by a grant alone, the rest by the hub's reports alone.
evidence = sa.Table(
    "evidence",
    metadata,
    sa.Column("lease_id", AnyText, sa.ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("expected", sa.Boolean, nullable=False),
    sa.Column("taken_at", Instant),
    sa.Column("valid_until", Instant),
    sa.Column("last_activity", Instant),
    sa.Column("busy", sa.Boolean),
    sa.Column("work", sa.Text, comment="JSON list of [kind, what, since]"),
    sa.Column("work_count", sa.Integer, nullable=False),
    sa.Column("waiting", sa.Integer, nullable=False),
    sa.Column("clients", sa.Integer),
    sa.Column("unsaved", sa.Integer, nullable=False),
    sa.Column("gpu_last_busy", Instant),
    sa.Column("host_since", Instant),
    sa.Column("host_looked_at", Instant),
    sa.Column("host_last_busy", Instant),
    sa.Column("warned_at", Instant),
    sa.Column("extended_until", Instant),
    sa.Column("held_until", Instant),
    sa.Column("verdict", sa.String(8)),
    sa.Column("reason", sa.Text, comment="JSON object"),
    sa.Column("ends_at", Instant),
    sa.Column("cause", sa.String(16)),
)

allowances = sa.Table(
    "allowances",
    metadata,
    sa.Column("lease_id", AnyText, sa.ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True, comment="the hub's local date, YYYY-MM-DD"),
    sa.Column("extensions", sa.Integer, nullable=False),
    sa.Column("held_s", sa.Float(53), nullable=False),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("hub_id", AnyText, primary_key=True),
    sa.Column("scope", AnyText, primary_key=True, comment="a provider's name"),
    sa.Column("pool", AnyText, primary_key=True),
    sa.Column("value", AnyText, primary_key=True),
    sa.Column("owner", AnyText, comment="a lease's id; none: set aside"),
    sa.Column("taken_at", Instant, nullable=False),
    sa.Column("until", Instant, comment="of what is set aside"),
    sa.Column("why", AnyText, nullable=False),
    sa.UniqueConstraint("hub_id", "scope", "pool", "owner", name="reservations_one_each"),
)

# `text` is what its instructor wrote, to the letter. A row here changes only together with a new row in `course_revisions`,
# or in its state; both in one transaction.
courses = sa.Table(
    "courses",
    metadata,
    sa.Column("hub_id", AnyText, primary_key=True),
    sa.Column("slug", AnyText, primary_key=True),
    sa.Column("text", AnyText, nullable=False, comment="YAML"),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("etag", sa.String(40), nullable=False, comment="another one after each change"),
    sa.Column("everyone_by", AnyText, comment="the administrator who lets it be open to everyone; none: it may not be"),
    sa.Column("created_by", AnyText, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("changed_by", AnyText, nullable=False),
    sa.Column("changed_at", Instant, nullable=False),
)

course_revisions = sa.Table(
    "course_revisions",
    metadata,
    sa.Column("hub_id", AnyText, primary_key=True),
    sa.Column("slug", AnyText, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("text", AnyText, nullable=False, comment="YAML"),
    sa.Column("comment", AnyText, nullable=False),
    sa.Column("by", AnyText, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.ForeignKeyConstraint(["hub_id", "slug"], ["courses.hub_id", "courses.slug"], name="course_revisions_of_course"),
)

rosters = sa.Table(
    "rosters",
    metadata,
    sa.Column("hub_id", AnyText, primary_key=True),
    sa.Column("course", AnyText, primary_key=True),
    sa.Column("user_key", sa.String(64), primary_key=True, comment="digest(username)"),
    sa.Column("username", AnyText, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("added_by", AnyText, nullable=False),
    sa.Column("added_at", Instant, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("hub_id", AnyText, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", AnyText, nullable=False),
    sa.Column("actor_key", sa.String(64), nullable=False, comment="digest(actor)"),
    sa.Column("actor_ip", AnyText, nullable=False),
    sa.Column("verb", sa.String(40), nullable=False),
    sa.Column("course", AnyText, nullable=False),
    sa.Column("subject", AnyText, nullable=False, comment="the user whom it happened to"),
    sa.Column("subject_key", sa.String(64), nullable=False, comment="digest(subject)"),
    sa.Column("object", AnyText, nullable=False),
    sa.Column("detail", sa.Text, nullable=False, comment="JSON object"),
    sa.Column("result", sa.String(40), nullable=False),
    sqlite_autoincrement=True,  # no number is given twice, not even after the newest rows were dropped
)
sa.Index("audit_by_age", audit.c.hub_id, audit.c.at)
sa.Index("audit_by_course", audit.c.hub_id, audit.c.course, audit.c.id)
sa.Index("audit_by_actor", audit.c.hub_id, audit.c.actor_key, audit.c.id)
sa.Index("audit_by_subject", audit.c.hub_id, audit.c.subject_key, audit.c.id)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("hub_id", AnyText, nullable=False),
    sa.Column("course", AnyText, nullable=False),
    sa.Column("verb", sa.String(40), nullable=False),
    sa.Column("actor", AnyText, nullable=False),
    sa.Column("args", sa.Text, nullable=False, comment="JSON object"),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("ended_at", Instant),
    sa.Column("cancelled_by", AnyText, comment="who asked it to stop"),
)
sa.Index("jobs_by_course", jobs.c.hub_id, jobs.c.course, jobs.c.created_at)
sa.Index("jobs_by_state", jobs.c.hub_id, jobs.c.state)

job_steps = sa.Table(
    "job_steps",
    metadata,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, comment="from 0, in the order in which they are done"),
    sa.Column("username", AnyText, nullable=False),
    sa.Column("server_name", AnyText, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("sentence", sa.Text, comment="JSON object"),
    sa.Column("changed_at", Instant, nullable=False),
)
