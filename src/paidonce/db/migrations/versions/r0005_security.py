"""Who did what (the audit log), idle and confirmed sessions, who started a payment, and shared limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TRIGGERS: dict[str, tuple[str, ...]] = {
    "postgresql": (
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log\n"
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log\n"
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
    ),
    "sqlite": (
        "CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log\n"
        "BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END",
        "CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log\n"
        "BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END",
        "CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log\n"
        "WHEN EXISTS (SELECT 1 FROM audit_log WHERE seq = NEW.seq)\n"
        "BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END",
    ),
}


def upgrade() -> None:
    """Upgrade from `down_revision`."""
    if context.config.attributes.get("store_tables", True):
        _renew_sessions()
    op.create_table(
        "audit_log",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_audit_log_actor"), "audit_log", ["actor"])
    op.create_index(op.f("ix_audit_log_subject"), "audit_log", ["subject"])
    connection = op.get_bind()
    for statement in TRIGGERS[connection.dialect.name]:
        connection.execute(sa.text(statement))
    op.create_table(
        "rate_limits",
        sa.Column("key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("count", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rate_limits")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_rate_limits_expires_at"), "rate_limits", ["expires_at"])
    op.add_column("payments", sa.Column("started_by", sa.Text(), nullable=True))
    op.add_column("payments", sa.Column("started_from", sa.Text(), nullable=True))
    still_open = sa.text("status IN ('created', 'awaiting_buyer', 'processing', 'authorized')")
    for column in ("started_by", "started_from"):
        op.create_index(
            f"ix_payments_{column}", "payments", [column], sqlite_where=still_open, postgresql_where=still_open
        )


def _renew_sessions() -> None:
    """Everybody signs in once more, since nobody knows when an old session was used last."""
    op.drop_table("sessions")
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.Column("seen_at", BIG, nullable=False),
        sa.Column("confirmed_at", BIG, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"])
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"])


def downgrade() -> None:
    """Refuse: going back would forget payments. Restore a backup instead."""
    raise NotImplementedError("restore a backup instead of downgrading")
