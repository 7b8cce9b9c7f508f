"""Notebooks of gateways that have no counterpart to ask."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TRIGGERS: dict[str, tuple[str, ...]] = {
    "postgresql": (
        "CREATE TRIGGER gateway_notes_append_only BEFORE UPDATE OR DELETE ON gateway_notes\n"
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    ),
    "sqlite": (
        "CREATE TRIGGER gateway_notes_no_update BEFORE UPDATE ON gateway_notes\n"
        "BEGIN SELECT RAISE(ABORT, 'gateway_notes is append-only'); END",
        "CREATE TRIGGER gateway_notes_no_delete BEFORE DELETE ON gateway_notes\n"
        "BEGIN SELECT RAISE(ABORT, 'gateway_notes is append-only'); END",
    ),
}


def upgrade() -> None:
    """Upgrade from `down_revision`."""
    op.create_table(
        "gateway_notes",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("number > 0", name=op.f("ck_gateway_notes_number_positive")),
        sa.PrimaryKeyConstraint("gateway", "ref", "number", name=op.f("pk_gateway_notes")),
        sa.UniqueConstraint("gateway", "ref", "key", name=op.f("uq_gateway_notes_gateway_ref_key")),
        sqlite_strict=True,
    )
    connection = op.get_bind()
    for statement in TRIGGERS[connection.dialect.name]:
        connection.execute(sa.text(statement))


def downgrade() -> None:
    """Refuse: going back would forget payments. Restore a backup instead."""
    raise NotImplementedError("restore a backup instead of downgrading")
