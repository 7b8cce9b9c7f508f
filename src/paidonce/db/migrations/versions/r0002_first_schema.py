"""First schema."""

# ruff: noqa: E501 - the words of a constraint stay on the line that Alembic wrote.
from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TRIGGERS: dict[str, tuple[str, ...]] = {
    "postgresql": (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$\n"
        "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; "
        "END\n"
        "$$",
        "CREATE TRIGGER stock_movements_append_only BEFORE UPDATE OR DELETE ON stock_movements\n"
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE TRIGGER journal_entries_append_only BEFORE UPDATE OR DELETE ON journal_entries\n"
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE TRIGGER journal_postings_append_only BEFORE UPDATE OR DELETE ON journal_postings\n"
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE TRIGGER history_append_only BEFORE UPDATE OR DELETE ON history\n"
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    ),
    "sqlite": (
        "CREATE TRIGGER stock_movements_no_update BEFORE UPDATE ON stock_movements\n"
        "BEGIN SELECT RAISE(ABORT, 'stock_movements is append-only'); END",
        "CREATE TRIGGER stock_movements_no_delete BEFORE DELETE ON stock_movements\n"
        "BEGIN SELECT RAISE(ABORT, 'stock_movements is append-only'); END",
        "CREATE TRIGGER journal_entries_no_update BEFORE UPDATE ON journal_entries\n"
        "BEGIN SELECT RAISE(ABORT, 'journal_entries is append-only'); END",
        "CREATE TRIGGER journal_entries_no_delete BEFORE DELETE ON journal_entries\n"
        "BEGIN SELECT RAISE(ABORT, 'journal_entries is append-only'); END",
        "CREATE TRIGGER journal_postings_no_update BEFORE UPDATE ON journal_postings\n"
        "BEGIN SELECT RAISE(ABORT, 'journal_postings is append-only'); END",
        "CREATE TRIGGER journal_postings_no_delete BEFORE DELETE ON journal_postings\n"
        "BEGIN SELECT RAISE(ABORT, 'journal_postings is append-only'); END",
        "CREATE TRIGGER history_no_update BEFORE UPDATE ON history\n"
        "BEGIN SELECT RAISE(ABORT, 'history is append-only'); END",
        "CREATE TRIGGER history_no_delete BEFORE DELETE ON history\n"
        "BEGIN SELECT RAISE(ABORT, 'history is append-only'); END",
    ),
}


def upgrade() -> None:
    """Upgrade from `down_revision`."""
    with_store = context.config.attributes.get("store_tables", True)
    if with_store:
        _create_store()
    op.create_table(
        "endpoints",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("handed_out", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_endpoints")),
        sqlite_strict=True,
    )
    op.create_table(
        "history",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_history")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_history_order_id"), "history", ["order_id"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("received_at", BIG, nullable=False),
        sa.Column("finished_at", BIG, nullable=True),
        sa.Column("due_at", BIG, nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", BIG, nullable=False),
        sa.CheckConstraint(
            "state IN ('recorded', 'parked', 'processed', 'ignored')", name=op.f("ck_inbox_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox")),
        sa.UniqueConstraint("gateway", "event_id", name=op.f("uq_inbox_gateway_event_id")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_inbox_due_at",
        "inbox",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_inbox_payment_id"), "inbox", ["payment_id"], unique=False)
    op.create_table(
        "journal_entries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("gateway_object", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal_entries")),
        sa.UniqueConstraint(
            "gateway", "gateway_object", "kind", name=op.f("uq_journal_entries_gateway_gateway_object_kind")
        ),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_journal_entries_order_id"), "journal_entries", ["order_id"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sa.UniqueConstraint("id", name=op.f("uq_outbox_id")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_outbox_order_id"), "outbox", ["order_id"], unique=False)
    op.create_table(
        "payments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("refund_status", sa.Text(), nullable=False),
        sa.Column("amount_minor", BIG, nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("captures_in_browser", sa.Integer(), nullable=False),
        sa.Column("capture_method", sa.Text(), nullable=False),
        sa.Column("gateway_ref", sa.Text(), nullable=True),
        sa.Column("capture_ref", sa.Text(), nullable=True),
        sa.Column("captured_minor", BIG, nullable=False),
        sa.Column("owed_to_buyer", sa.Integer(), nullable=False),
        sa.Column("capture_right", sa.Text(), nullable=True),
        sa.Column("decline_code", sa.Text(), nullable=True),
        sa.Column("decline_recoverable", sa.Integer(), nullable=False),
        sa.Column("pending_reason", sa.Text(), nullable=True),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.Column("asked_at", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("updated_at", BIG, nullable=False),
        sa.Column("silent_since", BIG, nullable=True),
        sa.Column("due_at", BIG, nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", BIG, nullable=False),
        sa.CheckConstraint("capture_method IN ('automatic', 'manual')", name=op.f("ck_payments_capture_method_known")),
        sa.CheckConstraint("capture_right IN ('held', 'voiding')", name=op.f("ck_payments_capture_right_known")),
        sa.CheckConstraint(
            "refund_status IN ('none', 'partial', 'full')", name=op.f("ck_payments_refund_status_known")
        ),
        sa.CheckConstraint(
            "status IN ('created', 'awaiting_buyer', 'processing', 'authorized', 'captured', 'failed', 'canceled', 'held')",
            name=op.f("ck_payments_status_known"),
        ),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_payments_amount_positive")),
        sa.CheckConstraint("captured_minor >= 0", name=op.f("ck_payments_captured_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("gateway", "gateway_ref", name=op.f("uq_payments_gateway_gateway_ref")),
        sqlite_strict=True,
    )
    op.create_index("ix_payments_capture_ref", "payments", ["gateway", "capture_ref"], unique=False)
    op.create_index(
        "ix_payments_due_at",
        "payments",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_payments_order_id"), "payments", ["order_id"], unique=False)
    op.create_index(
        "uq_payments_capture_right",
        "payments",
        ["order_id"],
        unique=True,
        sqlite_where=sa.text("capture_right IS NOT NULL"),
        postgresql_where=sa.text("capture_right IS NOT NULL"),
    )
    op.create_index(
        "uq_payments_open",
        "payments",
        ["order_id", "gateway"],
        unique=True,
        sqlite_where=sa.text("status IN ('created', 'awaiting_buyer', 'processing', 'authorized')"),
        postgresql_where=sa.text("status IN ('created', 'awaiting_buyer', 'processing', 'authorized')"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("finished_at", BIG, nullable=True),
        sa.Column("due_at", BIG, nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", BIG, nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'delivered', 'given_up')", name=op.f("ck_deliveries_state_known")),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.name"], name=op.f("fk_deliveries_endpoint")),
        sa.ForeignKeyConstraint(["seq"], ["outbox.seq"], name=op.f("fk_deliveries_seq")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("endpoint", "seq", name=op.f("uq_deliveries_endpoint_seq")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_deliveries_due_at",
        "deliveries",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_deliveries_waiting",
        "deliveries",
        ["endpoint", "order_id", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "disputes",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("gateway_ref", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("amount_minor", BIG, nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("withdrawn", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("updated_at", BIG, nullable=False),
        sa.CheckConstraint("state IN ('open', 'won', 'lost')", name=op.f("ck_disputes_state_known")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_disputes_payment_id")),
        sa.PrimaryKeyConstraint("gateway", "gateway_ref", name=op.f("pk_disputes")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_disputes_payment_id"), "disputes", ["payment_id"], unique=False)
    op.create_table(
        "journal_postings",
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount_minor", BIG, nullable=False),
        sa.ForeignKeyConstraint(["entry_id"], ["journal_entries.id"], name=op.f("fk_journal_postings_entry_id")),
        sa.PrimaryKeyConstraint("entry_id", "account", name=op.f("pk_journal_postings")),
        sqlite_strict=True,
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("claimed_until", BIG, nullable=False),
        sa.Column("sent_at", BIG, nullable=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("finished_at", BIG, nullable=True),
        sa.CheckConstraint(
            "kind IN ('create', 'authorize', 'capture', 'void', 'refund')", name=op.f("ck_operations_kind_known")
        ),
        sa.CheckConstraint(
            "state IN ('recorded', 'succeeded', 'declined', 'refused', 'abandoned')",
            name=op.f("ck_operations_state_known"),
        ),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_operations_payment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_operations_idempotency_key")),
        sa.UniqueConstraint("payment_id", "kind", "round", name=op.f("uq_operations_payment_id_kind_round")),
        sqlite_strict=True,
    )
    op.create_table(
        "refunds",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("gateway_ref", sa.Text(), nullable=True),
        sa.Column("operation_id", sa.Text(), nullable=True),
        sa.Column("amount_minor", BIG, nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("restock", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("request_key", sa.Text(), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("updated_at", BIG, nullable=False),
        sa.CheckConstraint("origin IN ('staff', 'automatic', 'gateway')", name=op.f("ck_refunds_origin_known")),
        sa.CheckConstraint(
            "state IN ('recorded', 'pending', 'succeeded', 'failed')", name=op.f("ck_refunds_state_known")
        ),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_refunds_amount_positive")),
        sa.ForeignKeyConstraint(["operation_id"], ["operations.id"], name=op.f("fk_refunds_operation_id")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_refunds_payment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.UniqueConstraint("gateway", "gateway_ref", name=op.f("uq_refunds_gateway_gateway_ref")),
        sa.UniqueConstraint("payment_id", "request_key", name=op.f("uq_refunds_payment_id_request_key")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_refunds_payment_id"), "refunds", ["payment_id"], unique=False)
    connection = op.get_bind()
    for statement in TRIGGERS[connection.dialect.name]:
        if with_store or "stock_movements" not in statement:
            connection.execute(sa.text(statement))


def _create_store() -> None:
    """The built-in shop's own tables, which a shop with tables of its own does without."""
    op.create_table(
        "orders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("refund_status", sa.Text(), nullable=False),
        sa.Column("total_minor", BIG, nullable=False),
        sa.Column("due_minor", BIG, nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("updated_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.Column("paid_at", BIG, nullable=True),
        sa.CheckConstraint("refund_status IN ('none', 'partial', 'full')", name=op.f("ck_orders_refund_status_known")),
        sa.CheckConstraint(
            "status IN ('open', 'pending', 'paid', 'canceled', 'expired')", name=op.f("ck_orders_status_known")
        ),
        sa.CheckConstraint("due_minor >= 0 AND due_minor <= total_minor", name=op.f("ck_orders_due_within_total")),
        sa.CheckConstraint("total_minor >= 0", name=op.f("ck_orders_total_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("number", name=op.f("uq_orders_number")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_orders_expires_at",
        "orders",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("status = 'open'"),
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index("ix_orders_user_id_created_at", "orders", ["user_id", "created_at"], unique=False)
    op.create_table(
        "products",
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("price_minor", BIG, nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.CheckConstraint("price_minor >= 0", name=op.f("ck_products_price_not_negative")),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_products")),
        sqlite_strict=True,
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint("role IN ('buyer', 'staff')", name=op.f("ck_users_role_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
        sqlite_strict=True,
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("quantity", BIG, nullable=False),
        sa.Column("unit_price_minor", BIG, nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_order_lines_quantity_positive")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_lines_order_id")),
        sa.ForeignKeyConstraint(["sku"], ["products.sku"], name=op.f("fk_order_lines_sku")),
        sa.PrimaryKeyConstraint("order_id", "sku", name=op.f("pk_order_lines")),
        sqlite_strict=True,
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    op.create_table(
        "stock",
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("on_hand", BIG, nullable=False),
        sa.Column("held", BIG, nullable=False),
        sa.CheckConstraint("held <= on_hand", name=op.f("ck_stock_held_is_there")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_stock_held_not_negative")),
        sa.CheckConstraint("on_hand >= 0", name=op.f("ck_stock_on_hand_not_negative")),
        sa.ForeignKeyConstraint(["sku"], ["products.sku"], name=op.f("fk_stock_sku")),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_stock")),
        sqlite_strict=True,
    )
    op.create_table(
        "stock_movements",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("quantity", BIG, nullable=False),
        sa.Column("order_id", sa.Text(), nullable=True),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.CheckConstraint(
            "kind IN ('initial', 'adjustment', 'sale', 'restock')", name=op.f("ck_stock_movements_kind_known")
        ),
        sa.ForeignKeyConstraint(["sku"], ["products.sku"], name=op.f("fk_stock_movements_sku")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_stock_movements")),
        sa.UniqueConstraint("order_id", "sku", "kind", name=op.f("uq_stock_movements_order_id_sku_kind")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_stock_movements_sku"), "stock_movements", ["sku"], unique=False)
    op.create_table(
        "holds",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("quantity", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_holds_quantity_positive")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_holds_order_id")),
        sa.ForeignKeyConstraint(["sku"], ["stock.sku"], name=op.f("fk_holds_sku")),
        sa.PrimaryKeyConstraint("order_id", "sku", name=op.f("pk_holds")),
        sqlite_strict=True,
    )
    op.create_index("ix_holds_expires_at", "holds", ["expires_at"], unique=False)
    op.create_index("ix_holds_sku_expires_at", "holds", ["sku", "expires_at"], unique=False)


def downgrade() -> None:
    """Refuse: going back would forget payments. Restore a backup instead."""
    raise NotImplementedError("restore a backup instead of downgrading")
