"""What is known of the use of each lease's server, and what its student was granted on a day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("lease_id", sa.Text, sa.ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("expected", sa.Boolean, nullable=False),
        sa.Column("taken_at", INSTANT),
        sa.Column("valid_until", INSTANT),
        sa.Column("last_activity", INSTANT),
        sa.Column("busy", sa.Boolean),
        sa.Column("work", sa.Text, comment="JSON list of [kind, what, since]"),
        sa.Column("work_count", sa.Integer, nullable=False),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("clients", sa.Integer),
        sa.Column("unsaved", sa.Integer, nullable=False),
        sa.Column("gpu_last_busy", INSTANT),
        sa.Column("host_since", INSTANT),
        sa.Column("host_looked_at", INSTANT),
        sa.Column("host_last_busy", INSTANT),
        sa.Column("warned_at", INSTANT),
        sa.Column("extended_until", INSTANT),
        sa.Column("held_until", INSTANT),
        sa.Column("verdict", sa.String(8)),
        sa.Column("reason", sa.Text, comment="JSON object"),
        sa.Column("ends_at", INSTANT),
        sa.Column("cause", sa.String(16)),
    )
    op.create_table(
        "allowances",
        sa.Column("lease_id", sa.Text, sa.ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True, comment="the hub's local date, YYYY-MM-DD"),
        sa.Column("extensions", sa.Integer, nullable=False),
        sa.Column("held_s", sa.Float(53), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("allowances")
    op.drop_table("evidence")
