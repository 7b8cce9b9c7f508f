"""What the twin remembers: records by kind in a JSON-able state, ids, lists with pages, and expanded objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from paidonce.gateways.stripe.sandbox.replies import Call, Form, SandboxError, check_known, integer

State = dict[str, Any]
Record = dict[str, Any]
Reply = dict[str, Any]

_DEEPEST_EXPANSION = 4
# Which collection an id belongs to, and what Stripe calls it in "No such …".
_KINDS = {
    "pi": ("intents", "payment_intent"),
    "ch": ("charges", "charge"),
    "re": ("refunds", "refund"),
    "du": ("disputes", "dispute"),
    "txn": ("movements", "balance transaction"),
}
# Which endpoints show which kind, and which of its properties hold the id of another object.
_PATHS = {
    "payment_intents": "pi",
    "charges": "ch",
    "refunds": "re",
    "disputes": "du",
    "balance_transactions": "txn",
}
_EXPANDABLE: dict[str, dict[str, str]] = {
    "pi": {"latest_charge": "ch"},
    "ch": {"balance_transaction": "txn", "payment_intent": "pi"},
    "re": {"balance_transaction": "txn", "charge": "ch", "payment_intent": "pi"},
    "du": {"charge": "ch", "payment_intent": "pi"},
    "txn": {"source": "ch"},
}


def new_state() -> State:
    """An empty twin. `load` lays an older twin's state over this, so that new collections begin empty."""
    return {
        "counter": 0,
        "intents": {},
        "charges": {},
        "refunds": {},
        "disputes": {},
        "movements": {},
        "books": [],
        "events": [],
        "due": [],
        "next_refund_pends": False,
        "keys": {},
        "faults": [],
        "endpoint": None,
        "charges_enabled": True,
    }


class Store:
    """Records of all accounts: each has its `account`, the `object` as Stripe shows it, and what the twin keeps."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._origin = ""
        self._made = 0

    def new_id(self, prefix: str, now: int) -> str:
        """An id from a counter: a simulation repeats it, and a restarted twin does not give it twice."""
        if self._origin:
            self._made += 1
            return _identifier(prefix, f"{self._origin}:{self._made}")
        self.state["counter"] += 1
        return _identifier(prefix, f"{self.state['counter']}:{now}")

    @contextmanager
    def ids_from(self, origin: str) -> Iterator[None]:
        """Within, ids depend on `origin` alone.

        What time does is found by whoever asks first, and reading is not saved: a twin that restarts in between has to
        find the same objects again.
        """
        self._origin, self._made = origin, 0
        try:
            yield
        finally:
            self._origin = ""

    def add(self, item: Reply, account: str, **private: Any) -> Record:
        """Keep a new object."""
        record: Record = {"account": account, "object": item, **private}
        self.state[_collection(item["id"])][item["id"]] = record
        return record

    def find(self, ref: str) -> Record | None:
        """The record of any account, or None."""
        kind = _KINDS.get(ref.partition("_")[0])
        return None if kind is None else self.state[kind[0]].get(ref)

    def get(self, call: Call, kind: str, ref: str, *, param: str = "id") -> Record:
        """The account's own record. Raises `SandboxError` 404 for another account's, as for one that is not there."""
        collection, word = _KINDS[kind]
        record: Record | None = self.state[collection].get(ref)
        if record is None or record["account"] != call.account:
            raise SandboxError(404, f"No such {word}: '{ref}'", code="resource_missing", param=param)
        return record

    def records(self, kind: str) -> list[Record]:
        """All records of a kind, oldest first."""
        return list(self.state[_KINDS[kind][0]].values())

    def page(self, call: Call, kind: str, filters: frozenset[str] = frozenset()) -> Reply:
        """The account's objects, newest first, as one page of a list. Raises `SandboxError` for refused parameters."""
        check_known(call.form, filters | {"limit", "starting_after", "expand"})
        limit = integer(call.form, "limit") if "limit" in call.form else 10
        if not 1 <= limit <= 100:
            raise SandboxError(400, "Invalid limit: must be between 1 and 100.", param="limit")
        wanted = {name: self._filter(call, name) for name in filters if name in call.form}
        mine = [record["object"] for record in reversed(self.records(kind)) if record["account"] == call.account]
        found = [item for item in mine if all(item.get(name) == value for name, value in wanted.items())]
        after = call.form.get("starting_after")
        if after is not None:
            found = _behind(found, self.get(call, kind, str(after), param="starting_after")["object"])
        return {"object": "list", "url": call.path, "has_more": len(found) > limit, "data": found[:limit]}

    def _filter(self, call: Call, name: str) -> str:
        value = str(call.form[name])
        kind = {"payment_intent": "pi", "charge": "ch"}.get(name)
        if kind is not None:
            self.get(call, kind, value, param=name)
        return value

    def expanded(self, reply: Reply, form: Form) -> Reply:
        """The answer with the objects that `expand` names in the place of their ids; `check_expand` came before."""
        for path in _asked(form):
            reply = self._expand(reply, path.split("."))
        return reply

    def _expand(self, node: Reply, steps: list[str]) -> Reply:
        name, *rest = steps
        value = node[name]
        if isinstance(value, list):
            return {**node, name: [self._expand(item, rest) for item in value] if rest else value}
        record = self.find(value) if isinstance(value, str) else None
        value = value if record is None else record["object"]
        return {**node, name: self._expand(value, rest) if rest and isinstance(value, dict) else value}


def check_expand(call: Call) -> None:
    """Raise `SandboxError` for a property that the endpoint can't expand, whether it is null right now or not."""
    parts = call.path.split("/")
    kind, listed = _PATHS.get(parts[2], ""), call.method == "GET" and len(parts) == 3
    for path in _asked(call.form):
        steps = path.split(".")
        if listed and steps[0] == "data":
            steps = steps[1:]
        here = kind
        for step in steps:
            here = _EXPANDABLE.get(here, {}).get(step, "")
            if not here or len(steps) > _DEEPEST_EXPANSION:
                raise SandboxError(400, f"This property cannot be expanded ({step}).", param="expand")


def _asked(form: Form) -> list[str]:
    """`expand[]=a` and `expand[0]=a` alike."""
    asked = form.get("expand", [])
    return [str(path) for path in (asked.values() if isinstance(asked, dict) else asked)]


class Due:
    """What happens by itself when its time has come: banks that decide, reservations that end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deeds: dict[str, Callable[[str, int], None]] = {}

    def register(self, **deeds: Callable[[str, int], None]) -> None:
        """Name what can happen: each is called with the object's id and the time it was due, if it still can be."""
        self._deeds |= deeds

    def add(self, at: int, deed: str, ref: str) -> None:
        """Let `deed` happen to `ref` at `at` microseconds."""
        self._store.state["due"].append([at, deed, ref])

    def run(self, now: int) -> None:
        """Let everything happen that is due by `now`, in the order of time. One deed may bring another."""
        due = self._store.state["due"]
        while ripe := [item for item in due if item[0] <= now]:
            first = min(ripe, key=lambda item: item[0])
            due.remove(first)
            at, deed, ref = first
            with self._store.ids_from(f"{deed}:{ref}:{at}"):
                self._deeds[deed](ref, at)


def _identifier(prefix: str, seed: str) -> str:
    return f"{prefix}_{hashlib.sha256(f'{prefix}:{seed}'.encode()).hexdigest()[:24]}"


def _collection(ref: str) -> str:
    return _KINDS[ref.partition("_")[0]][0]


def _behind(found: list[Reply], last: Reply) -> list[Reply]:
    ids = [item["id"] for item in found]
    # An object that the filters leave out has no place in this list.
    return found[ids.index(last["id"]) + 1 :] if last["id"] in ids else []
