"""Leases and decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hub_id", sa.Text, nullable=False),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("server_name", sa.Text, nullable=False),
        sa.Column("owner_key", sa.String(64), nullable=False, comment="digest(username, server_name)"),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("profile_rev", sa.Text, nullable=False),
        sa.Column("pinned", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("handle", sa.Text, comment="JSON object"),
        sa.Column("url", sa.Text),
        sa.Column("reserves", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("release_mode", sa.String(16), nullable=False),
        sa.Column(
            "mode_before_intent",
            sa.String(16),
            comment="release_mode to go back to when an intention is withdrawn",
        ),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("phase_at", INSTANT, nullable=False),
        sa.Column("ready_at", INSTANT),
        sa.Column("ended_at", INSTANT),
        sa.Column("ending", sa.Text, comment="JSON object"),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    active = sa.text("phase NOT IN ('ended', 'parked')")
    op.create_index(
        "leases_one_active",
        "leases",
        ["hub_id", "owner_key"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_index("leases_by_end", "leases", ["hub_id", "ended_at"])
    op.create_table(
        "decisions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("lease_id", sa.Text, sa.ForeignKey("leases.id", ondelete="CASCADE"), nullable=False),
        sa.Column("hub_id", sa.Text, nullable=False),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("user_key", sa.String(64), nullable=False, comment="digest(username)"),
        sa.Column("server_name", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("evidence", sa.Text, nullable=False, comment="JSON object"),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("applied", sa.Boolean, nullable=False),
    )
    op.create_index("decisions_by_hub", "decisions", ["hub_id", "at"])
    op.create_index("decisions_by_user", "decisions", ["hub_id", "user_key", "at"])
    op.create_index("decisions_by_lease", "decisions", ["lease_id", "at"])
    op.create_index("decisions_by_age", "decisions", ["at"])


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("leases")
