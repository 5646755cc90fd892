"""Courses that are written in the console, who is in them, what was done to them, and actions on a whole course."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _courses()
    _rosters()
    _audit()
    _jobs()


def _courses() -> None:
    op.create_table(
        "courses",
        sa.Column("hub_id", sa.Text, primary_key=True),
        sa.Column("slug", sa.Text, primary_key=True),
        sa.Column("text", sa.Text, nullable=False, comment="YAML"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("etag", sa.String(40), nullable=False, comment="another one after each change"),
        sa.Column(
            "everyone_by",
            sa.Text,
            comment="the administrator who lets it be open to everyone; none: it may not be",
        ),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
    )
    op.create_table(
        "course_revisions",
        sa.Column("hub_id", sa.Text, primary_key=True),
        sa.Column("slug", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False, comment="YAML"),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["hub_id", "slug"], ["courses.hub_id", "courses.slug"], name="course_revisions_of_course"
        ),
    )


def _rosters() -> None:
    op.create_table(
        "rosters",
        sa.Column("hub_id", sa.Text, primary_key=True),
        sa.Column("course", sa.Text, primary_key=True),
        sa.Column("user_key", sa.String(64), primary_key=True, comment="digest(username)"),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("added_at", INSTANT, nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("hub_id", sa.Text, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("actor_key", sa.String(64), nullable=False, comment="digest(actor)"),
        sa.Column("actor_ip", sa.Text, nullable=False),
        sa.Column("verb", sa.String(40), nullable=False),
        sa.Column("course", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False, comment="the user whom it happened to"),
        sa.Column("subject_key", sa.String(64), nullable=False, comment="digest(subject)"),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("result", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_age", "audit", ["hub_id", "at"])
    op.create_index("audit_by_course", "audit", ["hub_id", "course", "id"])
    op.create_index("audit_by_actor", "audit", ["hub_id", "actor_key", "id"])
    op.create_index("audit_by_subject", "audit", ["hub_id", "subject_key", "id"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("hub_id", sa.Text, nullable=False),
        sa.Column("course", sa.Text, nullable=False),
        sa.Column("verb", sa.String(40), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("args", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("cancelled_by", sa.Text, comment="who asked it to stop"),
    )
    op.create_index("jobs_by_course", "jobs", ["hub_id", "course", "created_at"])
    op.create_index("jobs_by_state", "jobs", ["hub_id", "state"])
    op.create_table(
        "job_steps",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, comment="from 0, in the order in which they are done"),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("server_name", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sentence", sa.Text, comment="JSON object"),
        sa.Column("changed_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    for table in ("job_steps", "jobs", "audit", "rosters", "course_revisions", "courses"):
        op.drop_table(table)
