"""Goods reserved for orders of a shop that has tables of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Upgrade from `down_revision`."""
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("quantity", BIG, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('held', 'taken', 'returned')", name=op.f("ck_reservations_state_known")),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_reservations_quantity_positive")),
        sa.PrimaryKeyConstraint("order_id", "sku", name=op.f("pk_reservations")),
        sqlite_strict=True,
    )
    held = sa.text("state = 'held'")
    op.create_index("ix_reservations_sku", "reservations", ["sku"], sqlite_where=held, postgresql_where=held)
    op.create_index(
        "ix_reservations_expires_at", "reservations", ["expires_at"], sqlite_where=held, postgresql_where=held
    )


def downgrade() -> None:
    """Refuse: going back would forget payments. Restore a backup instead."""
    raise NotImplementedError("restore a backup instead of downgrading")
