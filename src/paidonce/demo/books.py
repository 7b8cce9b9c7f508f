"""Does it add up? Orders, payments, stock and journal as they stand, compared with each other and with the gateways.

The checks are pure functions over rows; each difference is a sentence with the ids that an operator needs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paidonce.errors import GatewayError
from paidonce.gateways.base import Gateway, Snapshot
from paidonce.money import Money
from paidonce.ports import Row, Transaction


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that has to agree, read in one snapshot of the database."""

    orders: Sequence[Row]
    lines: Sequence[Row]
    payments: Sequence[Row]
    stock: Sequence[Row]
    movements: Sequence[Row]
    holds: Sequence[Row]
    entries: Sequence[Row]
    postings: Sequence[Row]


async def read_books(tx: Transaction) -> Books:
    """Read it all; for a demo's amount of data."""
    return Books(
        orders=await tx.fetch_all("SELECT * FROM orders ORDER BY created_at, id"),
        lines=await tx.fetch_all("SELECT * FROM order_lines ORDER BY order_id, sku"),
        payments=await tx.fetch_all("SELECT * FROM payments ORDER BY created_at, id"),
        stock=await tx.fetch_all("SELECT s.*, p.name FROM stock s JOIN products p ON p.sku = s.sku ORDER BY s.sku"),
        movements=await tx.fetch_all("SELECT * FROM stock_movements ORDER BY seq"),
        holds=await tx.fetch_all("SELECT * FROM holds ORDER BY order_id, sku"),
        entries=await tx.fetch_all("SELECT * FROM journal_entries ORDER BY created_at, gateway_object, kind"),
        postings=await tx.fetch_all("SELECT * FROM journal_postings ORDER BY entry_id, amount_minor DESC"),
    )


def differences(books: Books) -> list[str]:
    """What does not add up inside our own books; empty if all does."""
    return [*_stock(books), *_sales(books), *_journal(books), *_paid_orders(books), *_captured_payments(books)]


def _stock(books: Books) -> Iterator[str]:
    """On hand = initial ± adjustments - sold + restocked, by the movements; held = what open orders reserve."""
    moved = _sums(books.movements, "sku", "quantity")
    held = _sums(books.holds, "sku", "quantity")
    for row in books.stock:
        sku = row["sku"]
        if row["on_hand"] != moved[sku]:
            yield f"stock of {sku}: {row['on_hand']} on hand, but its movements add up to {moved[sku]}"
        if row["held"] != held[sku]:
            yield f"stock of {sku}: {row['held']} held, but the orders hold {held[sku]}"


def _sales(books: Books) -> Iterator[str]:
    """Every paid order took its goods out of stock, once; no other order took any."""
    paid = {order["id"] for order in books.orders if order["status"] == "paid"}
    due = Counter(
        {(line["order_id"], line["sku"]): line["quantity"] for line in books.lines if line["order_id"] in paid}
    )
    sold: Counter[tuple[str, str]] = Counter()
    for movement in books.movements:
        if movement["kind"] == "sale":
            sold[movement["order_id"], movement["sku"]] -= movement["quantity"]
    for order_id, sku in sorted(due.keys() | sold.keys()):
        if due[order_id, sku] != sold[order_id, sku]:
            yield f"order {order_id}: {due[order_id, sku]} of {sku} are paid, {sold[order_id, sku]} left the stock"


def _journal(books: Books) -> Iterator[str]:
    """Debits equal credits, in each entry and currency."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for posting in books.postings:
        sums[posting["entry_id"], posting["currency"]] += posting["amount_minor"]
    for (entry_id, currency), total in sums.items():
        if total:
            yield f"journal entry {entry_id}: debits and credits differ by {Money(total, currency)}"
    for entry in books.entries:
        if not any(entry_id == entry["id"] for entry_id, _ in sums):
            yield f"journal entry {entry['id']} has no postings"


def _paid_orders(books: Books) -> Iterator[str]:
    """An order is paid exactly if one capture was booked as its sale, over what is due."""
    sales: dict[str, list[Money]] = defaultdict(list)
    entries = {entry["id"]: entry for entry in books.entries}
    for posting in books.postings:
        entry = entries[posting["entry_id"]]
        if posting["account"] == "sales" and entry["kind"] == "capture":
            sales[entry["order_id"]].append(Money(-posting["amount_minor"], posting["currency"]))
    for order in books.orders:
        total = Money(order["due_minor"], order["currency"])
        expected = [total] if order["status"] == "paid" and total.minor else []
        if sales[order["id"]] != expected:
            booked = ", ".join(map(str, sales[order["id"]])) or "none"
            yield f"order {order['number']} is {order['status']} over {total}; sales in the journal: {booked}"


def _captured_payments(books: Books) -> Iterator[str]:
    """One journal entry for each capture, with the gateway's own id and amount; none without a capture."""
    debits = {
        posting["entry_id"]: Money(posting["amount_minor"], posting["currency"])
        for posting in books.postings
        if posting["amount_minor"] > 0
    }
    booked: dict[str, list[tuple[str, Money | None]]] = defaultdict(list)
    for entry in (one for one in books.entries if one["kind"] == "capture"):
        booked[entry["payment_id"]].append((entry["gateway_object"], debits.get(entry["id"])))
    for payment in books.payments:
        captured = Money(payment["captured_minor"], payment["currency"])
        has_money = payment["status"] in ("captured", "held") and payment["capture_ref"] is not None
        expected = [(payment["capture_ref"], captured)] if has_money else []
        if booked[payment["id"]] != expected:
            count = len(booked[payment["id"]])
            state = f"{payment['status']} over {captured}"
            yield f"payment {payment['id']} is {state}; the journal holds {count} captures of it"


async def differences_with_gateways(books: Books, gateways: Mapping[str, Gateway]) -> list[str]:
    """What the gateways' own records say otherwise, object by object. Objects of other accounts are left out."""
    found: list[str] = []
    for name, gateway in gateways.items():
        account = (await gateway.account()).id
        known = [row for row in books.payments if row["gateway"] == name and row["account"] == account]
        for payment in known:
            if payment["gateway_ref"] is not None:
                found += await _compare(payment, gateway)
    return found


async def _compare(payment: Row, gateway: Gateway) -> Iterable[str]:
    try:
        snapshot = await gateway.fetch(payment["gateway_ref"])
    except GatewayError as error:
        return [f"payment {payment['id']}: {gateway.title} can't show {payment['gateway_ref']}: {error}"]
    ours = (payment["capture_ref"], payment["captured_minor"]) if payment["captured_minor"] else (None, 0)
    theirs = _captured(snapshot)
    if ours == theirs:
        return []
    return [f"payment {payment['id']}: we booked {ours}, {gateway.title} says {theirs}"]


def _captured(snapshot: Snapshot) -> tuple[str | None, int]:
    if snapshot.captured is None or not snapshot.captured.minor:
        return None, 0
    return snapshot.capture_ref, snapshot.captured.minor


def _sums(rows: Sequence[Row], key: str, value: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row[key]] += row[value]
    return sums
