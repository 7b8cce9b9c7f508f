"""Indexes for what would otherwise read more the longer the history is. No row is touched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade from `down_revision`."""
    if context.config.attributes.get("store_tables", True):
        op.create_index("ix_orders_created_at", "orders", ["created_at"])
        _partial("ix_orders_user_id_expires_at", "orders", "user_id", "expires_at", where="status = 'open'")
    _add_payments()
    op.create_index("ix_refunds_gateway_ref", "refunds", ["gateway_ref"])
    op.create_index("ix_disputes_gateway_ref", "disputes", ["gateway_ref"])
    _partial("ix_disputes_open", "disputes", "order_id", where="state = 'open'")
    _partial("ix_inbox_gateway_due_at", "inbox", "gateway", "due_at", where="due_at IS NOT NULL")
    op.drop_index("ix_deliveries_due_at", "deliveries")
    _partial("ix_deliveries_endpoint_due_at", "deliveries", "endpoint", "due_at", where="due_at IS NOT NULL")
    op.create_index("ix_deliveries_seq", "deliveries", ["seq"])
    _partial("ix_deliveries_given_up", "deliveries", "order_id", where="state = 'given_up'")
    op.drop_index("ix_audit_log_subject", "audit_log")
    op.create_index("ix_audit_log_subject", "audit_log", ["subject", "created_at"])


def _add_payments() -> None:
    _partial("ix_payments_gateway_due_at", "payments", "gateway", "due_at", where="due_at IS NOT NULL")
    op.create_index("ix_payments_gateway_ref", "payments", ["gateway_ref"])
    op.drop_index("ix_payments_capture_ref", "payments")
    op.create_index("ix_payments_capture_ref", "payments", ["capture_ref", "gateway"])
    _partial("ix_payments_held", "payments", "updated_at", where="status = 'held'")


def _partial(name: str, table: str, *columns: str, where: str) -> None:
    op.create_index(name, table, list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Refuse: going back would forget payments. Restore a backup instead."""
    raise NotImplementedError("restore a backup instead of downgrading")
