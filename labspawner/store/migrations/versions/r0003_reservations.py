"""What of a list is held by one only: ids of VMs, network addresses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "reservations",
        sa.Column("hub_id", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True, comment="a provider's name"),
        sa.Column("pool", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, comment="a lease's id; none: set aside"),
        sa.Column("taken_at", INSTANT, nullable=False),
        sa.Column("until", INSTANT, comment="of what is set aside"),
        sa.Column("why", sa.Text, nullable=False),
        sa.UniqueConstraint("hub_id", "scope", "pool", "owner", name="reservations_one_each"),
    )


def downgrade() -> None:
    op.drop_table("reservations")
