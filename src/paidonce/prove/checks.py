"""The invariants of a payment integration, as questions to its database and to the gateways' own books.

I1 to I10 are the numbers that stories, reports and `docs/prove.md` use. Safety is asked after every commit; the rest
once all faults have stopped and nothing is due any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paidonce.gateways.base import HttpRequest, Progress, SandboxCore
from paidonce.leases import LONGEST_SECONDS
from paidonce.money import Money
from paidonce.ports import SECOND, Microseconds
from paidonce.prove.engine import Books

INVARIANTS: Mapping[str, str] = {
    "I1": "the journal equals the gateways' own books, object by object",
    "I2": "at most one unreversed capture counts towards an order, and an order is paid exactly when one does",
    "I3": "stock is never negative and adds up; nothing is sold that is not there, nor before it is paid",
    "I4": "one idempotency key never goes out with two bodies, and everything at the gateway that moved money is known",
    "I5": "what goes back never exceeds what was captured",
    "I6": "the journal's debits equal its credits, per currency",
    "I7": "what has ended stays ended, and what was acknowledged is kept",
    "I8": "what is refused writes nothing",
    "I9": "every started payment ends, or an operator is told the next safe step",
    "I10": "no gateway is called while a transaction is open, and no action ends in an error that has no words",
}


class Violation(BaseException):
    """An invariant does not hold; `invariant` is its number.

    No `Exception`, since some are found in the middle of a task, and no code under test may catch them.
    """

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str]]:
        """So that one may cross from process to process."""
        return Violation, (self.invariant, self.what)


# What safety is judged by, in one question. Small tables in a simulation: reading them whole is the cheapest way.
_LOOKS = """
SELECT 0, id, status, total_minor, due_minor, updated_at, refund_status, NULL FROM orders
UNION ALL SELECT 1, id, order_id, status, captured_minor, owed_to_buyer, capture_ref, capture_right FROM payments
UNION ALL SELECT 2, id, payment_id, amount_minor, state, reason, gateway_ref, origin FROM refunds
UNION ALL SELECT 3, entry_id, currency, amount_minor, NULL, NULL, NULL, NULL FROM journal_postings
UNION ALL SELECT 4, sku, on_hand, held, NULL, NULL, NULL, NULL FROM stock
UNION ALL SELECT 5, sku, order_id, quantity, expires_at, NULL, NULL, NULL FROM holds
UNION ALL SELECT 6, sku, order_id, kind, quantity, NULL, NULL, NULL FROM stock_movements
UNION ALL SELECT 7, type, order_id, NULL, NULL, NULL, NULL, NULL FROM outbox
  WHERE type IN ('alarm.recovery_failed', 'alarm.invariant_broken')
UNION ALL SELECT 8, i.event_id, i.outcome, p.id, p.status, NULL, NULL, NULL FROM inbox i
  JOIN payments p ON p.id = i.payment_id WHERE i.state = 'processed'
"""
_LINES = "SELECT order_id, sku, quantity FROM order_lines"
_DAYS_OF_SLOW_MONEY = 24 * 3600 * SECOND
_LEASES = (
    "SELECT 'payment', id, lease_token, lease_until FROM payments WHERE lease_token IS NOT NULL UNION ALL"
    " SELECT 'event', id, lease_token, lease_until FROM inbox WHERE lease_token IS NOT NULL"
)
_ENDED = ("captured", "failed", "canceled")

# What still waits for something, weeks after the last fault.
_WAITING: tuple[tuple[str, str], ...] = (
    (
        # One that is held for an operator has ended if he was told, and the money is gone or can't go back by itself.
        "a payment",
        "SELECT p.id, p.status FROM payments p WHERE p.status NOT IN ('captured', 'failed', 'canceled') AND NOT"
        " (p.status = 'held' AND EXISTS (SELECT 1 FROM outbox b WHERE b.order_id = p.order_id AND b.type ="
        " CASE WHEN p.captured_minor = 0 OR p.refund_status = 'full' OR EXISTS (SELECT 1 FROM disputes d"
        " WHERE d.payment_id = p.id AND d.state = 'lost') THEN 'alarm.payment_held'"
        " ELSE 'alarm.refund_failed' END))",
    ),
    ("a refund", "SELECT id, state FROM refunds WHERE state IN ('recorded', 'pending')"),
    ("a call", "SELECT id, kind FROM operations WHERE state = 'recorded'"),
    ("an event", "SELECT id, type FROM inbox WHERE state IN ('recorded', 'parked')"),
    ("a dispute", "SELECT payment_id, state FROM disputes WHERE state = 'open'"),
    ("a hold", "SELECT order_id, sku FROM holds"),
    (
        "an order",
        "SELECT o.id, o.status FROM orders o WHERE o.status IN ('open', 'pending') AND NOT EXISTS"
        " (SELECT 1 FROM payments p WHERE p.order_id = o.id AND p.status = 'held')",
    ),
)

_OURS = (
    "SELECT e.gateway, e.gateway_object, p.currency, sum(p.amount_minor) FROM journal_entries e"
    " JOIN journal_postings p ON p.entry_id = e.id AND p.account = 'gateway:' || e.gateway"
    " GROUP BY e.gateway, e.gateway_object, p.currency HAVING sum(p.amount_minor) <> 0"
)

# What an object can do that a browser with its client values could still turn into money.
CAN_BE_CONFIRMED = "can be confirmed"
# The same where the gateway ends it for nobody, and only time does.
UNTIL_IT_EXPIRES = "can be confirmed until it expires"
IS_RESERVED = "is reserved"

Book = dict[tuple[str, str, str], int]
Rows = Sequence[tuple[Any, ...]]


@dataclass
class Watch:
    """Asks, and remembers what has ended and what was promised."""

    books: Books
    seen: list[tuple[Any, ...]] = field(default_factory=list)
    ended: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    keys: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    promises: dict[tuple[str, str], str] = field(default_factory=dict)
    claims: dict[str, Progress | None] = field(default_factory=dict)  # What each event said that was received.
    judged: set[str] = field(default_factory=set)  # Events that have had an outcome.
    refunds_asked: int = 0
    closed_by_shop: set[str] = field(default_factory=set)
    leases: dict[tuple[str, str], tuple[str, Microseconds]] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)  # Which task a lease's token belongs to.

    # ── At any moment ──────────

    def safety(self) -> None:
        """Raise `Violation` if an invariant is broken right now."""
        rows = self.books.rows(_LOOKS)
        if rows == self.seen:
            return
        self.seen = rows
        orders, payments, refunds, postings, stock, holds, moves, alarms, events = _sorted(rows)
        _counted(orders, payments)
        _ended_is_ended([one for one in orders if one[0] not in self.closed_by_shop], payments)
        _goes_back(payments, refunds)
        _says_what_went_back(orders, payments, refunds)
        by_staff = sum(one[6] == "staff" for one in refunds)
        _require(by_staff <= self.refunds_asked, "I5", f"{by_staff} refunds for {self.refunds_asked} requests of staff")
        _balances(postings)
        _shelves(stock, holds, moves)
        _reserved(orders, holds)
        self._sold(orders, moves)
        for kind, order, *_ in alarms:
            raise Violation("I10", f"the shop itself found {kind} at {order}")
        self._effects(events)
        self._ends(orders, payments, refunds)

    def _effects(self, events: Rows) -> None:
        """An event that is done has its effect, which no later one takes back."""
        for event, outcome, payment, status, *_ in events:
            said = self.claims.get(event)
            lost = said is Progress.CAPTURED and status not in ("captured", "held")
            # That slow money failed is no news only to a payment that has ended; what the buyer begins later is his.
            fresh, old_news = event not in self.judged, outcome == "known already"
            lost = lost or (fresh and said is Progress.AWAITING_BUYER and old_news and status == "processing")
            if outcome is not None:
                self.judged.add(event)
            _require(not lost, "I7", f"the event {event} ({said}) is done, and {payment} is still {status}")

    def _sold(self, orders: Rows, moves: Rows) -> None:
        """Goods leave exactly when their order is paid, and come back once at most."""
        expected = {
            (order, sku): -quantity
            for order, sku, quantity in self.books.rows(_LINES)
            if any(one[0] == order and one[1] == "paid" for one in orders)
        }
        sold: dict[tuple[str, str], int] = {}
        returned: set[tuple[str, str]] = set()
        for sku, order, kind, quantity, *_ in moves:
            if kind == "sale":
                sold[order, sku] = sold.get((order, sku), 0) + quantity
            elif order is not None:
                _require((order, sku) not in returned, "I3", f"{sku} of {order} was put back twice")
                _require(sold.get((order, sku)) == -quantity, "I3", f"{sku} of {order} was put back and never sold")
                returned.add((order, sku))
        _require(sold == expected, "I3", f"what was sold is {sold}, and what is paid is {expected}")

    def _ends(self, orders: Rows, payments: Rows, refunds: Rows) -> None:
        ended = {one[0]: (one[1],) for one in orders if one[1] == "paid"}
        ended |= {one[0]: (one[2], one[3], one[5]) for one in payments if one[2] in _ENDED}
        ended |= {one[0]: (one[3],) for one in refunds if one[3] == "failed" and one[5] is not None}
        for name, value in self.ended.items():
            _require(ended.get(name) == value, "I7", f"{name} had ended as {value} and is now {ended.get(name)}")
        self.ended = ended

    def leased(self, task: int, now: Microseconds) -> None:
        """After a commit of `task`: raise `Violation` if it took or ended a lease that another one still holds."""
        found = {(str(a), str(b)): (str(token), int(until)) for a, b, token, until in self.books.rows(_LEASES)}
        for name, (token, until) in self.leases.items():
            is_now = found.get(name, ("", 0))[0]
            if is_now == token or self.holders.get(token) == task:
                continue
            if name[0] == "event" and is_now == "":
                continue  # It has its effect by now, whoever brought that about.
            # A lease that ran out may be taken by anybody, and so may one from before a clock was set back; but the one
            # who lost it has nothing to give back.
            free = until <= now or until > now + LONGEST_SECONDS * SECOND
            _require(free and is_now != "", "I7", f"{' '.join(name)} was taken from the one who works on it")
        for token, _ in found.values():
            self.holders.setdefault(token, task)
        self.leases = found

    def saw_request(self, request: HttpRequest, key_header: str, keyless: Sequence[str]) -> None:
        """Raise `Violation` if the key in `key_header` is missing, or went out with another body before."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        key = headers.get(key_header)
        if key is None:
            bare = request.method == "POST" and not any(part in request.url for part in keyless)
            _require(not bare, "I4", f"a call that may move money carries no key: {request.method} {request.url}")
            return
        known = any(part in request.url for part in keyless) or self.books.rows(_KEY.format(key=key))
        _require(bool(known), "I4", f"a key goes out that was never written down: {request.method} {request.url}")
        call = (request.method, request.url, request.body)
        if self.keys.setdefault(key, call) != call:
            raise Violation("I4", f"one key for two calls: {request.method} {request.url}")

    def sends_refund(self, ref: str, decided_at: Microseconds) -> None:
        """Raise `Violation` if a refund of the object `ref` is sent though a dispute was known when it was decided."""
        for payment, since in self.books.rows(_DISPUTED.format(ref=ref)):
            _require(since >= decided_at, "I5", f"a refund of {payment} is sent while the payment is disputed")

    def not_settled(self) -> None:
        """Raise `Violation` if an order is not paid: for runs in which its buyer has agreed and all went well."""
        for order, status in self.books.rows("SELECT id, status FROM orders WHERE status <> 'paid'"):
            raise Violation("I9", f"{order} is {status}, though its buyer agreed to pay")

    def promise(self, kind: str, key: str, value: str) -> None:
        """Somebody was told so: it has to stay true."""
        self.promises[kind, key] = value

    # ── Once all is quiet ──────────

    def liveness(self, twins: Mapping[str, SandboxCore]) -> None:
        """Raise `Violation` if something waits for ever, the books differ, or money found no place."""
        self.compare(twins)
        for what, query in _WAITING:
            for key, state in self.books.rows(query):
                raise Violation("I9", f"{what} waits for ever: {key} ({state})")
        self.kept()
        for order, paid_told, pays in self.books.rows(_TOLD):
            if paid_told != pays:
                raise Violation("I2", f"{order}: order.paid was told {paid_told} times, {pays} captures count")
        for payment, captured, back in self.books.rows(_OWED):
            if captured != back:
                raise Violation("I2", f"{payment}: {captured} are owed to the buyer, {back} went back")
        for order, account, minor in self.books.rows(_UNPLACED):
            raise Violation("I1", f"{order}: {minor} are left in {account}")

    def nothing_stray(self, live: Mapping[str, str], *, after_a_day: bool) -> None:
        """Raise `Violation` if an object at a gateway can still move money of a payment that has ended, or is unknown.

        `live` holds what each payment's object can do. Asked when a worker has had time to end such objects; whether
        an order with reserved money was closed by the shop itself, a worker may learn within a day.
        """
        rows = self.books.rows(
            "SELECT p.id, p.status, p.gateway_ref, o.status, p.status = 'authorized' AND p.asked_at > o.updated_at"
            " AND NOT EXISTS (SELECT 1 FROM operations v WHERE v.payment_id = p.id AND v.kind = 'void')"
            " FROM payments p JOIN orders o ON o.id = p.order_id"
        )
        known = {str(row[0]): row[1:] for row in rows}
        for payment, how in live.items():
            status, ref, order, kept = known.get(payment, ("unknown", None, "unknown", 0))
            closed = after_a_day and kept and order in ("canceled", "expired") and how == IS_RESERVED
            _require(not closed, "I4", f"{payment} of an order that is {order} {how} at the gateway")
            # What an unanswered create has made can't be confirmed, since its client values reached nobody.
            harmless = ref is None and how in (CAN_BE_CONFIRMED, UNTIL_IT_EXPIRES)
            ended = status in ("unknown", "captured", "failed", "canceled") and not harmless
            _require(not ended, "I4", f"{payment} is {status} here, and its object at the gateway {how}")

    def voids_are_made(self, before: Microseconds, live: Mapping[str, str]) -> None:
        """Raise `Violation` if a void that was written down before then still waits, though the gateway can do it."""
        # While the bank decides on slow money, no gateway lets it go; once it has, the next look does it.
        query = (
            "SELECT p.id FROM operations o JOIN payments p ON p.id = o.payment_id"  # noqa: S608
            " AND p.status IN ('awaiting_buyer', 'authorized')"
            f" WHERE o.kind = 'void' AND o.state = 'recorded' AND o.created_at < {before} AND NOT EXISTS"
            " (SELECT 1 FROM history h WHERE h.payment_id = p.id AND h.event LIKE 'payment.%'"
            f" AND h.created_at >= {before})"
        )
        for (payment,) in self.books.rows(query):
            if live.get(payment) == UNTIL_IT_EXPIRES:
                continue
            raise Violation("I9", f"{payment} was to be voided, and nobody does it")

    def once(self, refunds: Sequence[str]) -> None:
        """Raise `Violation` if a refund of ours was made more than once. `refunds` are our ids at a gateway."""
        for refund in dict.fromkeys(refunds):
            _require(refunds.count(refund) == 1, "I5", f"{refund} went back {refunds.count(refund)} times")

    def not_paid(self) -> None:
        """Raise `Violation` if anything is paid: for runs in which a gateway said what was never agreed on."""
        for order, status in self.books.rows("SELECT id, status FROM orders WHERE status = 'paid'"):
            raise Violation("I2", f"{order} is {status} by an object that contradicts it")

    def goods_are_kept(self, order_id: str, since: Microseconds) -> None:
        """Raise `Violation` if a buyer sees the pay page of an order whose goods are not kept for him.

        Asked of orders with a payment begun after `since`: what was kept before may be over by now.
        """
        begun = (
            "SELECT 1 FROM payments p JOIN orders o ON o.id = p.order_id AND o.status IN ('open', 'pending')"  # noqa: S608
            f" WHERE o.id = '{order_id}' AND p.created_at > {since}"
        )
        kept = f"SELECT 1 FROM holds WHERE order_id = '{order_id}'"  # noqa: S608
        lost = self.books.rows(begun) and not self.books.rows(kept)
        _require(not lost, "I3", f"the buyer of {order_id} may pay, and nothing is kept for him")

    def all_are(self, status: str) -> None:
        """Raise `Violation` if any payment is not `status`: for runs in which the order of the news decides."""
        for payment, is_now in self.books.rows("SELECT id, status FROM payments"):
            _require(is_now == status, "I7", f"{payment} is {is_now}, though the newest news made it {status}")

    def returned(self) -> None:
        """Raise `Violation` if money that found no order has not gone back."""
        query = "SELECT id FROM payments WHERE owed_to_buyer = 1 AND refund_status <> 'full'"
        for (payment,) in self.books.rows(query):
            raise Violation("I2", f"the money of {payment} found no order and was not sent back")

    def told(self) -> None:
        """Raise `Violation` unless an alarm was raised for every order whose payment is still open."""
        for payment, order in self.books.rows(_UNKNOWN):
            raise Violation("I9", f"{payment} of {order} was unknown for hours, and nobody was told")

    def compare(self, twins: Mapping[str, SandboxCore]) -> None:
        """Raise `Violation` if our journal differs from the gateways' own books."""
        mine, theirs = self.ours(), self.theirs(twins)
        if mine != theirs:
            differs = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key, 0) != theirs.get(key, 0))
            told = "; ".join(
                f"{' '.join(one)}: ours {mine.get(one, 0)}, theirs {theirs.get(one, 0)}" for one in differs
            )
            raise Violation("I1", told)

    def ours(self) -> Book:
        """Our journal: the change of each object at each gateway, in minor units."""
        return {(str(a), str(b), str(c)): int(minor) for a, b, c, minor in self.books.rows(_OURS)}

    def theirs(self, twins: Mapping[str, SandboxCore]) -> Book:
        """The gateways' own books, in the same form."""
        found: Book = {}
        for name, twin in twins.items():
            for entry in twin.books():
                key = (name, entry.object, entry.currency)
                found[key] = found.get(key, 0) + entry.minor
        return {key: minor for key, minor in found.items() if minor}

    def kept(self) -> None:
        """Raise `Violation` if anything is not as somebody was told that it is."""
        for (kind, key), value in self.promises.items():
            is_now = self._value(kind, key)
            if is_now != value:
                raise Violation("I7", f"somebody was told that {kind} {key} is {value!r}; it is {is_now!r}")

    def _value(self, kind: str, key: str) -> str | None:
        table, column, state = _PROMISED[kind]
        found: list[tuple[Any, ...]] = self.books.rows(
            f"SELECT {state} FROM {table} WHERE {column} = '{key}'"  # noqa: S608 - ids of the simulation itself
        )
        return str(found[0][0]) if found else None


_PROMISED = {
    "payment": ("payments", "id", "status"),
    "order": ("orders", "id", "status"),
    "a new order": ("orders", "id", "id"),
    "refund": ("refunds", "id", "amount_minor"),
    "the state of refund": ("refunds", "id", "state"),
    "event": ("inbox", "event_id", "event_id"),
}

_TOLD = (
    "SELECT o.id, (SELECT count(*) FROM outbox b WHERE b.order_id = o.id AND b.type = 'order.paid'),"
    " (SELECT count(*) FROM payments p WHERE p.order_id = o.id AND p.status = 'captured' AND p.owed_to_buyer = 0)"
    " FROM orders o WHERE o.total_minor > 0"
)
_OWED = (
    "SELECT p.id, p.captured_minor, COALESCE((SELECT sum(r.amount_minor) FROM refunds r WHERE r.payment_id = p.id"
    " AND r.state = 'succeeded'), 0) + COALESCE((SELECT sum(d.amount_minor) FROM disputes d"
    " WHERE d.payment_id = p.id AND d.state = 'lost'), 0) FROM payments p WHERE p.owed_to_buyer = 1"
    " AND p.status = 'captured' AND NOT EXISTS (SELECT 1 FROM outbox b WHERE b.order_id = p.order_id"
    " AND b.type = 'alarm.refund_failed')"
)
_KEY = "SELECT 1 FROM operations WHERE idempotency_key = '{key}'"
_DISPUTED = (
    "SELECT d.payment_id, d.created_at FROM disputes d JOIN payments p ON p.id = d.payment_id"
    " WHERE p.gateway_ref = '{ref}' AND d.state = 'open'"
)
_UNKNOWN = (
    "SELECT p.id, p.order_id FROM payments p WHERE p.status IN ('processing', 'awaiting_buyer') AND NOT EXISTS"
    " (SELECT 1 FROM outbox b WHERE b.order_id = p.order_id AND b.type LIKE 'alarm.%')"
)
_UNPLACED = (
    "SELECT e.order_id, p.account, sum(p.amount_minor) FROM journal_entries e JOIN journal_postings p"
    " ON p.entry_id = e.id AND p.account IN ('disputed', 'suspense') GROUP BY e.order_id, p.account"
    " HAVING sum(p.amount_minor) <> 0 AND NOT EXISTS (SELECT 1 FROM outbox b WHERE b.order_id = e.order_id"
    " AND b.type = 'alarm.refund_failed') AND NOT EXISTS"
    " (SELECT 1 FROM disputes d WHERE d.order_id = e.order_id AND d.state = 'lost')"
)


def _require(holds: bool, invariant: str, what: str) -> None:
    if not holds:
        raise Violation(invariant, what)


def _sorted(rows: Rows) -> list[list[tuple[Any, ...]]]:
    tables: list[list[tuple[Any, ...]]] = [[] for _ in range(9)]
    for row in rows:
        tables[row[0]].append(row[1:])
    return tables


def _says_what_went_back(orders: Rows, payments: Rows, refunds: Rows) -> None:
    """An order says how much of the one capture that counts has gone back; refunds of others don't touch it."""
    gone: dict[str, int] = {}
    for _, payment, minor, state, *_ in refunds:
        gone[payment] = gone.get(payment, 0) + (minor if state == "succeeded" else 0)
    expected: dict[str, str] = {}
    for payment, order, status, captured, owed, *_ in payments:
        if status == "captured" and not owed and gone.get(payment):
            expected[order] = "full" if gone[payment] >= captured else "partial"
    for order, _, _, _, _, says, _ in orders:
        is_so = expected.get(order, "none")
        _require(says == is_so, "I2", f"{order} says that its refund is {says}, and it is {is_so}")


def _balances(postings: Rows) -> None:
    sums: dict[tuple[str, str], int] = {}
    for entry, currency, minor, *_ in postings:
        sums[entry, currency] = sums.get((entry, currency), 0) + minor
    for (entry, currency), minor in sums.items():
        _require(minor == 0, "I6", f"the entry {entry} does not balance by {minor} {currency}")


def _counted(orders: Rows, payments: Rows) -> None:
    """An order is paid exactly when one capture counts towards it, and that covers what was due."""
    counts: dict[str, list[int]] = {}
    for _, order, status, captured, owed, *_ in payments:
        if status == "captured" and not owed:
            counts.setdefault(order, []).append(captured)
    for order, status, total, due, *_ in orders:
        if total == 0:
            continue
        found = counts.get(order, [])
        _require(len(found) <= 1, "I2", f"{len(found)} captures count towards {order}")
        _require((status == "paid") == (len(found) == 1), "I2", f"{order} is {status} with {len(found)} captures")
        _require(not found or found == [due], "I2", f"{order} was due {due} and is paid with {found}")


def _ended_is_ended(orders: Rows, payments: Rows) -> None:
    """An order that has ended has no payment that could still go through; one of those keeps no right to capture."""
    closed = {order: status for order, status, *_ in orders if status in ("canceled", "expired")}
    for payment, order, status, _, _, _, right in payments:
        is_open = status in ("created", "awaiting_buyer", "processing", "authorized")
        _require(not (is_open and order in closed), "I2", f"{order} is {closed.get(order)}, and {payment} {status}")
        _require(
            right is None or status not in ("failed", "canceled"), "I2", f"{payment} is {status} and keeps its right"
        )


def _goes_back(payments: Rows, refunds: Rows) -> None:
    going: dict[str, int] = {}
    for refund, payment, minor, state, reason, *_ in refunds:
        _require(reason != "surplus", "I2", f"{refund}: a surplus was captured although the gateways are honest")
        going[payment] = going.get(payment, 0) + (0 if state == "failed" else minor)
    for payment, _, status, captured, _, capture, _ in payments:
        if status == "held" and captured == 0 and capture is not None:
            continue  # It was captured in another currency than agreed on; its journal is compared with the books.
        back = going.get(payment, 0)
        _require(back <= captured, "I5", f"{back} go back of {payment}, which captured {captured}")


def _shelves(stock: Rows, holds: Rows, moves: Rows) -> None:
    held: dict[str, int] = {}
    for sku, _, quantity, *_ in holds:
        held[sku] = held.get(sku, 0) + quantity
    moved: dict[str, int] = {}
    for sku, _, _, quantity, *_ in moves:
        moved[sku] = moved.get(sku, 0) + quantity
    for sku, on_hand, held_now, *_ in stock:
        _require(on_hand == moved.get(sku, 0), "I3", f"{on_hand} {sku} on hand, but {moved.get(sku, 0)} by movements")
        _require(held_now == held.get(sku, 0), "I3", f"{held_now} {sku} held, but {held.get(sku, 0)} by holds")
        _require(0 <= held_now <= on_hand, "I3", f"{held_now} {sku} held of {on_hand}")


def _reserved(orders: Rows, holds: Rows) -> None:
    """Nothing is kept for an order that has ended; for one whose money is under way it is kept for days."""
    known = {order: (status, updated) for order, status, _, _, updated, *_ in orders}
    for sku, order, _, until, *_ in holds:
        status, updated = known[order]
        _require(status in ("open", "pending"), "I3", f"{sku} is kept for {order}, which is {status}")
        short = status == "pending" and until < updated + _DAYS_OF_SLOW_MONEY
        _require(not short, "I3", f"{sku} is kept for {order} no longer than for a quick payment, and it is pending")


def both_books(watch: Watch, twins: Mapping[str, SandboxCore]) -> Iterable[tuple[str, str, Money, Money]]:
    """Object by object: the gateway, its object, what we have booked, what they have."""
    mine, theirs = watch.ours(), watch.theirs(twins)
    for key in sorted(mine.keys() | theirs.keys()):
        gateway, about, currency = key
        yield gateway, about, Money(mine.get(key, 0), currency), Money(theirs.get(key, 0), currency)
