"""The whole schema on one screen. SQLAlchemy describes it for migrations only; the hot path speaks plain SQL.

Times are integer microseconds since 1970 UTC, amounts integer minor units, booleans 0 or 1.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite's STRICT tables know INTEGER only, which is 64 bits wide there anyway.
Big = BigInteger().with_variant(Integer, "sqlite")


def _table(name: str, *parts: SchemaItem) -> Table[Any]:
    return Table(name, metadata, *parts, sqlite_strict=True)


def _lease() -> tuple[SchemaItem, ...]:
    """When work on a row is due (NULL: never), and which worker has it: a committed lease with a fencing token."""
    return (
        Column("due_at", Big),
        Column("tries", Integer, nullable=False),
        Column("lease_token", Text),
        Column("lease_until", Big, nullable=False),
    )


def _partial(name: str, *columns: Any, where: str) -> Index:
    """An index of the few rows that are still of interest, which stays small however long the history grows."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


def _due(table: str, *whose: str) -> Index:
    """What is due, also that of `whose` alone: without it SQLite would rather read all that one gateway ever had."""
    columns = (*whose, "due_at")
    return _partial(f"ix_{table}_{'_'.join(columns)}", *columns, where="due_at IS NOT NULL")


def _one_of(column: str, *words: str) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


_PAYMENT = ("created", "awaiting_buyer", "processing", "authorized", "captured", "failed", "canceled", "held")
_OPEN_PAYMENT = text("status IN ('created', 'awaiting_buyer', 'processing', 'authorized')")


def _while_open(column: str) -> Index:
    return Index(f"ix_payments_{column}", column, sqlite_where=_OPEN_PAYMENT, postgresql_where=_OPEN_PAYMENT)


_HELD_GOODS = text("state = 'held'")

# ── People (the built-in accounts; a host application brings its own) ──────────
users = _table(
    "users",
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_at", Big, nullable=False),
    _one_of("role", "buyer", "staff"),
)
sessions = _table(
    "sessions",
    Column("token_hash", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", Big, nullable=False),
    Column("expires_at", Big, nullable=False, index=True),
    Column("seen_at", Big, nullable=False),  # When it was used last, give or take a minute.
    Column("confirmed_at", Big, nullable=False),  # When the password was given last in it.
)

# ── The built-in store: catalogue, stock, orders ──────────
products = _table(
    "products",
    Column("sku", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("price_minor", Big, nullable=False),
    Column("currency", Text, nullable=False),
    Column("position", Integer, nullable=False),
    CheckConstraint("price_minor >= 0", name="price_not_negative"),
)
stock = _table(
    "stock",
    Column("sku", Text, ForeignKey("products.sku"), primary_key=True),
    Column("on_hand", Big, nullable=False),
    Column("held", Big, nullable=False),
    CheckConstraint("on_hand >= 0", name="on_hand_not_negative"),
    CheckConstraint("held >= 0", name="held_not_negative"),
    CheckConstraint("held <= on_hand", name="held_is_there"),
)
stock_movements = _table(
    "stock_movements",
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("sku", Text, ForeignKey("products.sku"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("quantity", Big, nullable=False),  # The change of on_hand: negative for a sale.
    Column("order_id", Text),
    Column("payment_id", Text),
    Column("actor", Text, nullable=False),
    Column("created_at", Big, nullable=False),
    _one_of("kind", "initial", "adjustment", "sale", "restock"),
    # An order sells a product once, whatever repeats.
    UniqueConstraint("order_id", "sku", "kind"),
)
orders = _table(
    "orders",
    Column("id", Text, primary_key=True),
    Column("number", Text, nullable=False, unique=True),
    Column("user_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("refund_status", Text, nullable=False),
    Column("total_minor", Big, nullable=False),
    Column("due_minor", Big, nullable=False),  # What has to be paid; a partial capture, which is final, lowers it.
    Column("currency", Text, nullable=False),
    Column("created_at", Big, nullable=False),
    Column("updated_at", Big, nullable=False),
    Column("expires_at", Big, nullable=False),  # An order that is unpaid by then is closed.
    Column("paid_at", Big),
    CheckConstraint("total_minor >= 0", name="total_not_negative"),
    CheckConstraint("due_minor >= 0 AND due_minor <= total_minor", name="due_within_total"),
    _one_of("status", "open", "pending", "paid", "canceled", "expired"),
    _one_of("refund_status", "none", "partial", "full"),
    Index("ix_orders_user_id_created_at", "user_id", "created_at"),
    # The newest of all, for staff.
    Index("ix_orders_created_at", "created_at"),
    _partial("ix_orders_expires_at", "expires_at", where="status = 'open'"),
    # How many a buyer has open, who may have paid thousands.
    _partial("ix_orders_user_id_expires_at", "user_id", "expires_at", where="status = 'open'"),
)
order_lines = _table(
    "order_lines",
    Column("order_id", Text, ForeignKey("orders.id"), primary_key=True),
    Column("sku", Text, ForeignKey("products.sku"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("quantity", Big, nullable=False),
    Column("unit_price_minor", Big, nullable=False),
    CheckConstraint("quantity > 0", name="quantity_positive"),
)
holds = _table(
    "holds",
    Column("order_id", Text, ForeignKey("orders.id"), primary_key=True),
    Column("sku", Text, ForeignKey("stock.sku"), primary_key=True),
    Column("quantity", Big, nullable=False),
    Column("expires_at", Big, nullable=False),
    CheckConstraint("quantity > 0", name="quantity_positive"),
    Index("ix_holds_sku_expires_at", "sku", "expires_at"),
    Index("ix_holds_expires_at", "expires_at"),
)

# What `store.HostStore` keeps for a shop with tables of its own. Only the ids are known here.
reservations = _table(
    "reservations",
    Column("order_id", Text, primary_key=True),
    Column("sku", Text, primary_key=True),
    Column("quantity", Big, nullable=False),
    Column("state", Text, nullable=False),
    Column("expires_at", Big, nullable=False),
    Column("payment_id", Text),  # Whose money took the goods.
    _one_of("state", "held", "taken", "returned"),
    CheckConstraint("quantity > 0", name="quantity_positive"),
    Index("ix_reservations_sku", "sku", sqlite_where=_HELD_GOODS, postgresql_where=_HELD_GOODS),
    Index("ix_reservations_expires_at", "expires_at", sqlite_where=_HELD_GOODS, postgresql_where=_HELD_GOODS),
)
# What a shop with tables of its own does without; `migrate(…, store_tables=False)` leaves them out.
STORE_TABLES = frozenset(
    {"users", "sessions", "products", "stock", "stock_movements", "orders", "order_lines", "holds"}
)

# ── Payments (orders are referred to by id only, since a host may keep them in tables of its own) ──────────
payments = _table(
    "payments",
    Column("id", Text, primary_key=True),
    Column("order_id", Text, nullable=False, index=True),
    Column("gateway", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("refund_status", Text, nullable=False),
    Column("amount_minor", Big, nullable=False),
    Column("currency", Text, nullable=False),
    Column("account", Text, nullable=False),  # The merchant account that the money must go to.
    Column("live", Integer, nullable=False),
    Column("captures_in_browser", Integer, nullable=False),
    Column("capture_method", Text, nullable=False),
    Column("gateway_ref", Text),  # The gateway's object, once known.
    Column("capture_ref", Text),
    Column("captured_minor", Big, nullable=False),
    Column("owed_to_buyer", Integer, nullable=False),  # 1: the money found no order and has to go back.
    Column("capture_right", Text),  # 'held', or 'voiding' while the right is being handed over.
    Column("decline_code", Text),
    Column("decline_recoverable", Integer, nullable=False),
    Column("pending_reason", Text),
    Column("held_reason", Text),
    Column("asked_at", Big, nullable=False),  # When the newest snapshot was asked for; older news comes too late.
    Column("created_at", Big, nullable=False),
    Column("updated_at", Big, nullable=False),
    Column("silent_since", Big),  # Since when the gateway does not answer recovery's looks; NULL: it does.
    *_lease(),
    Column("started_by", Text),  # Whose payment it is, and from which address: against one who holds all the goods.
    Column("started_from", Text),
    _one_of("status", *_PAYMENT),
    _one_of("refund_status", "none", "partial", "full"),
    _one_of("capture_method", "automatic", "manual"),
    _one_of("capture_right", "held", "voiding"),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
    CheckConstraint("captured_minor >= 0", name="captured_not_negative"),
    UniqueConstraint("gateway", "gateway_ref"),
    _due("payments"),
    _due("payments", "gateway"),
    _while_open("started_by"),
    _while_open("started_from"),
    # Staff look for what a gateway's page shows, without saying which gateway's.
    Index("ix_payments_gateway_ref", "gateway_ref"),
    Index("ix_payments_capture_ref", "capture_ref", "gateway"),
    _partial("ix_payments_held", "updated_at", where="status = 'held'"),
    # One capture right per order: the reason why two gateways can't both take the money.
    Index(
        "uq_payments_capture_right",
        "order_id",
        unique=True,
        sqlite_where=text("capture_right IS NOT NULL"),
        postgresql_where=text("capture_right IS NOT NULL"),
    ),
    # Starting twice with one gateway finds the first payment instead of making a second.
    Index(
        "uq_payments_open",
        "order_id",
        "gateway",
        unique=True,
        sqlite_where=_OPEN_PAYMENT,
        postgresql_where=_OPEN_PAYMENT,
    ),
)
operations = _table(
    "operations",
    Column("id", Text, primary_key=True),
    Column("payment_id", Text, ForeignKey("payments.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("idempotency_key", Text, nullable=False, unique=True),
    Column("request", Text, nullable=False),  # What goes out under the key, so that a repeat says the same.
    Column("state", Text, nullable=False),
    Column("claimed_until", Big, nullable=False),  # Until then one caller owns the call; later another may repeat it.
    Column("sent_at", Big),  # When the call may have gone out for the first time: its key's life counts from then.
    Column("created_at", Big, nullable=False),
    Column("finished_at", Big),
    _one_of("kind", "create", "authorize", "capture", "void", "refund"),
    _one_of("state", "recorded", "succeeded", "declined", "refused", "abandoned"),
    UniqueConstraint("payment_id", "kind", "round"),
)

refunds = _table(
    "refunds",
    Column("id", Text, primary_key=True),
    Column("payment_id", Text, ForeignKey("payments.id"), nullable=False, index=True),
    Column("order_id", Text, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("gateway_ref", Text),  # The gateway's refund object, once known.
    Column("operation_id", Text, ForeignKey("operations.id")),  # NULL for one made at the gateway's dashboard.
    Column("amount_minor", Big, nullable=False),
    Column("currency", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("restock", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("request_key", Text),  # The client's own key: the same request twice is one refund.
    Column("failure_reason", Text),
    Column("created_at", Big, nullable=False),
    Column("updated_at", Big, nullable=False),
    _one_of("origin", "staff", "automatic", "gateway"),
    _one_of("state", "recorded", "pending", "succeeded", "failed"),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
    UniqueConstraint("gateway", "gateway_ref"),
    UniqueConstraint("payment_id", "request_key"),
    Index("ix_refunds_gateway_ref", "gateway_ref"),
)
disputes = _table(
    "disputes",
    Column("gateway", Text, primary_key=True),
    Column("gateway_ref", Text, primary_key=True),
    Column("payment_id", Text, ForeignKey("payments.id"), nullable=False, index=True),
    Column("order_id", Text, nullable=False),
    Column("amount_minor", Big, nullable=False),
    Column("currency", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("withdrawn", Integer, nullable=False),  # 1: the gateway has taken the amount from the merchant.
    Column("reason", Text),
    Column("created_at", Big, nullable=False),
    Column("updated_at", Big, nullable=False),
    _one_of("state", "open", "won", "lost"),
    Index("ix_disputes_gateway_ref", "gateway_ref"),
    _partial("ix_disputes_open", "order_id", where="state = 'open'"),
)
# What gateways told by webhook: one row per event, whatever repeats. Bodies are not kept, since they hold secrets.
inbox = _table(
    "inbox",
    Column("id", Text, primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payment_id", Text, index=True),  # Ours, once found.
    Column("claims", Text, nullable=False),  # JSON: what the event names and claims, never believed.
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("created_at", Big, nullable=False),
    Column("received_at", Big, nullable=False),
    Column("finished_at", Big),
    *_lease(),
    _one_of("state", "recorded", "parked", "processed", "ignored"),
    UniqueConstraint("gateway", "event_id"),
    _due("inbox"),
    _due("inbox", "gateway"),
)

# ── The books, what happened, and what the merchant hears ──────────
journal_entries = _table(
    "journal_entries",
    Column("id", Text, primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("gateway_object", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("order_id", Text, nullable=False, index=True),
    Column("payment_id", Text, nullable=False),
    Column("created_at", Big, nullable=False),
    # One entry per thing that happened at a gateway, whoever reports it, however often.
    UniqueConstraint("gateway", "gateway_object", "kind"),
)
journal_postings = _table(
    "journal_postings",
    Column("entry_id", Text, ForeignKey("journal_entries.id"), primary_key=True),
    Column("account", Text, primary_key=True),
    Column("currency", Text, nullable=False),
    Column("amount_minor", Big, nullable=False),  # Debit positive, credit negative; an entry adds up to zero.
)
history = _table(
    "history",
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("order_id", Text, nullable=False, index=True),
    Column("payment_id", Text),
    Column("event", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON without secrets.
    Column("created_at", Big, nullable=False),
)
outbox = _table(
    "outbox",
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("order_id", Text, nullable=False, index=True),
    Column("payload", Text, nullable=False),
    Column("created_at", Big, nullable=False),
)
# Who is told: a configured URL or a subscriber in the process. Events up to `handed_out` have their deliveries.
endpoints = _table(
    "endpoints",
    Column("name", Text, primary_key=True),
    Column("handed_out", Big, nullable=False),  # outbox.seq
    Column("created_at", Big, nullable=False),
)
deliveries = _table(
    "deliveries",
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, ForeignKey("endpoints.name"), nullable=False),
    Column("seq", Big, ForeignKey("outbox.seq"), nullable=False),
    Column("order_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("last_error", Text),
    Column("created_at", Big, nullable=False),
    Column("finished_at", Big),
    *_lease(),
    _one_of("state", "waiting", "delivered", "given_up"),
    UniqueConstraint("endpoint", "seq"),
    _due("deliveries", "endpoint"),
    # Who was told of an event; and nobody can delete an event without asking that.
    Index("ix_deliveries_seq", "seq"),
    # Events of one order are told in their order: the next one waits for the one before.
    _partial("ix_deliveries_waiting", "endpoint", "order_id", "seq", where="state = 'waiting'"),
    _partial("ix_deliveries_given_up", "order_id", where="state = 'given_up'"),
)

# The notebooks of gateways that have no counterpart to ask (`gateways.base.Notes`).
gateway_notes = _table(
    "gateway_notes",
    Column("gateway", Text, primary_key=True),
    Column("ref", Text, primary_key=True),
    Column("number", Big, primary_key=True),  # 1, 2, …: whoever writes after having read less than all is refused.
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),  # JSON, for the gateway to read again.
    Column("text", Text, nullable=False),  # One sentence, for people.
    Column("key", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Big, nullable=False),
    UniqueConstraint("gateway", "ref", "key"),
    CheckConstraint("number > 0", name="number_positive"),
)

# ── Who did what, and how often ──────────
audit_log = _table(
    "audit_log",
    Column("seq", Big, primary_key=True, autoincrement=True),
    Column("actor", Text, nullable=False, index=True),  # A user's id, or the name of what acts by itself.
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),  # The id of what it was done to.
    Column("detail", Text, nullable=False),  # JSON without secrets.
    Column("request_id", Text),
    Column("created_at", Big, nullable=False),
    # A repeated entry is known by its moment, without reading all that was ever done to a product.
    Index("ix_audit_log_subject", "subject", "created_at"),
)
# Attempts by key within a window, where several processes share their limits.
rate_limits = _table(
    "rate_limits",
    # By its bytes on PostgreSQL as well, so that all keys with one beginning are a range of the index.
    Column("key", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    Column("count", Big, nullable=False),
    Column("expires_at", Big, nullable=False, index=True),
)

# What was written there is never changed or deleted, not even by our own mistake.
APPEND_ONLY = ("stock_movements", "journal_entries", "journal_postings", "history", "gateway_notes", "audit_log")

_SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb_lower} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRES_FUNCTION = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END
$$
"""
_POSTGRES_TRIGGER = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION refuse_change()
"""

# Who did what is kept from the two ways around those: INSERT OR REPLACE deletes silently, and TRUNCATE asks no row.
_SQLITE_NO_REPLACE = """
CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
WHEN EXISTS (SELECT 1 FROM audit_log WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END
"""
_POSTGRES_NO_TRUNCATE = """
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""

TRIGGERS: dict[str, tuple[str, ...]] = {
    "sqlite": (
        *(
            _SQLITE_TRIGGER.format(table=table, verb=verb, verb_lower=verb.lower()).strip()
            for table in APPEND_ONLY
            for verb in ("UPDATE", "DELETE")
        ),
        _SQLITE_NO_REPLACE.strip(),
    ),
    "postgresql": (
        _POSTGRES_FUNCTION.strip(),
        *(_POSTGRES_TRIGGER.format(table=table).strip() for table in APPEND_ONLY),
        _POSTGRES_NO_TRUNCATE.strip(),
    ),
}
