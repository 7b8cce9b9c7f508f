"""How the offline PayPal shows its objects: orders, authorizations, captures, refunds, disputes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from paidonce.gateways.paypal.sandbox import units
from paidonce.gateways.paypal.sandbox.state import State
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

MERCHANT_ID = "SANDBXMERCHNT"
PAYER_ID = "SANDBXBUYER22"
PAYABLE = ("CREATED", "SAVED", "PAYER_ACTION_REQUIRED")


class Shapes:
    """Describes the state's objects as PayPal's API does. Links lead below `base_url`."""

    def __init__(self, state: State, base_url: str) -> None:
        self._state = state
        self._base_url = base_url

    def order(self, order: Json) -> Json:
        """An order with its payments."""
        unit: Json = {"reference_id": "default", **order["unit"], "payee": payee()}
        payments: Json = {}
        if order["authorization"] is not None:
            payments["authorizations"] = [self.authorization(order)]
        if order["capture"] is not None:
            payments["captures"] = [self.capture(order)]
        if refunds := self._state.refunds_of(order):
            payments["refunds"] = [self.refund(order, refund) for refund in refunds]
        if payments:
            unit["payments"] = payments
        full: Json = {
            "id": order["id"],
            "intent": order["intent"],
            "status": order["status"],
            "purchase_units": [unit],
            "create_time": time(order["created"]),
            "update_time": time(order["updated"]),
            "links": self._order_links(order),
        }
        if order["funding"] is not None:
            full["payment_source"] = {"paypal": _wallet()}
            full["payer"] = {
                "email_address": "buyer@sandbox.example",
                "payer_id": PAYER_ID,
                "name": {"given_name": "Sandbox", "surname": "Buyer"},
            }
        return full

    def reversal(self, order: Json) -> Json:
        """What a webhook tells of an approval that was taken back."""
        unit = {name: order["unit"][name] for name in ("reference_id", "custom_id") if name in order["unit"]}
        return {"order_id": order["id"], "purchase_units": [unit], "payment_source": {"paypal": _wallet()}}

    def authorization(self, order: Json, *, alone: bool = False) -> Json:
        """The order's authorization; `alone` it names its order and its payee as well."""
        held = order["authorization"]
        here = f"/v2/payments/authorizations/{held['id']}"
        actions = [("capture", "POST"), ("void", "POST")] if held["status"] == "CREATED" else []
        full: Json = {
            "id": held["id"],
            "status": held["status"],
            "amount": units.shown(order_units(order), currency(order)),
            **_our_ids(order),
            "seller_protection": {"status": "NOT_ELIGIBLE"},
            "expiration_time": time(held["expires"]),
            "create_time": time(held["created"]),
            "update_time": time(held["updated"]),
            "links": [
                self._link(here, "self"),
                *(self._link(f"{here}/{rel}", rel, method) for rel, method in actions),
                self._link(f"/v2/checkout/orders/{order['id']}", "up"),
            ],
        }
        if held["reason"]:
            full["status_details"] = {"reason": held["reason"]}
        return full | self._related(order) if alone else full

    def capture(self, order: Json, *, alone: bool = False) -> Json:
        """The order's capture; `alone` it names its order and its payee as well."""
        capture = order["capture"]
        here, up = f"/v2/payments/captures/{capture['id']}", f"/v2/checkout/orders/{order['id']}"
        if order["authorization"] is not None:
            up = f"/v2/payments/authorizations/{order['authorization']['id']}"
        full: Json = {
            "id": capture["id"],
            "status": capture["status"],
            "amount": units.shown(capture["amount"], currency(order)),
            "final_capture": True,
            "seller_protection": {"status": "NOT_ELIGIBLE"},
            **_our_ids(order),
            "create_time": time(capture["created"]),
            "update_time": time(capture["updated"]),
            "links": [self._link(here, "self"), self._link(f"{here}/refund", "refund", "POST"), self._link(up, "up")],
        }
        if capture["reason"]:
            full["status_details"] = {"reason": capture["reason"]}
        if capture["fee"] is not None:
            full["seller_receivable_breakdown"] = {
                "gross_amount": full["amount"],
                "paypal_fee": units.shown(capture["fee"], currency(order)),
                "net_amount": units.shown(capture["amount"] - capture["fee"], currency(order)),
            }
        return full | self._related(order) if alone else full

    def refund(self, order: Json, refund: Json) -> Json:
        """One refund of the order's capture."""
        kind = currency(order)
        earlier = [one for one in self._state.refunds_of(order) if one["created"] <= refund["created"]]
        amount = units.shown(refund["amount"], kind)
        full: Json = {
            "id": refund["id"],
            "status": refund["status"],
            "amount": amount,
            **_our_ids(order),
            "seller_payable_breakdown": {
                "gross_amount": amount,
                "paypal_fee": units.shown(0, kind),
                "net_amount": amount,
                "total_refunded_amount": units.shown(
                    sum(one["amount"] for one in earlier if one["status"] != "FAILED"), kind
                ),
            },
            "create_time": time(refund["created"]),
            "update_time": time(refund["updated"]),
            "links": [
                self._link(f"/v2/payments/refunds/{refund['id']}", "self"),
                self._link(f"/v2/payments/captures/{order['capture']['id']}", "up"),
            ],
        }
        if refund["custom_id"] is not None:
            # A refund without a text of its own repeats the payment's.
            full["custom_id"] = refund["custom_id"]
        if refund["reason"]:
            full["status_details"] = {"reason": refund["reason"]}
        return full

    def listed_dispute(self, dispute: Json) -> Json:
        """A dispute as a list shows it."""
        order = self._state.orders[dispute["order"]]
        full: Json = {
            "dispute_id": dispute["id"],
            "create_time": time(dispute["created"], fraction=True),
            "update_time": time(dispute["updated"], fraction=True),
            "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
            "status": dispute["status"],
            "dispute_state": dispute["state"],
            "dispute_amount": units.shown(dispute["amount"], currency(order)),
            "dispute_life_cycle_stage": dispute["stage"],
            "dispute_channel": "INTERNAL",
            "links": [self._link(f"/v1/customer/disputes/{dispute['id']}", "self")],
        }
        return full

    def dispute(self, dispute: Json) -> Json:
        """A dispute whole, with its transaction and outcome."""
        order = self._state.orders[dispute["order"]]
        full = self.listed_dispute(dispute)
        full.pop("dispute_state")
        capture, unit = order["capture"], order["unit"]
        transaction: Json = {
            "seller_transaction_id": capture["id"],
            "create_time": time(capture["created"], fraction=True),
            "transaction_status": "COMPLETED",
            "gross_amount": units.shown(capture["amount"], currency(order)),
            "buyer": {"name": "Sandbox Buyer"},
            "seller": {"merchant_id": MERCHANT_ID, "name": "Sandbox Merchant"},
        }
        if "custom_id" in unit:
            transaction["custom"] = unit["custom_id"]
        full["disputed_transactions"] = [transaction]
        if dispute["outcome"] is not None:
            outcome: Json = {"outcome_code": dispute["outcome"]}
            if dispute["outcome"] == "RESOLVED_BUYER_FAVOUR":
                outcome["amount_refunded"] = full["dispute_amount"]
            full["dispute_outcome"] = outcome
        return full

    def disputes(self, found: list[Json], query: Json, following: Json | None) -> Json:
        """One page of the list, with a link to the next if there is one."""
        links = [self._link(f"/v1/customer/disputes?{urlencode(query)}", "self")]
        if following is not None:
            links.append(self._link(f"/v1/customer/disputes?{urlencode(following)}", "next"))
        return {"items": [self.listed_dispute(dispute) for dispute in found], "links": links}

    def _order_links(self, order: Json) -> list[Json]:
        here = f"/v2/checkout/orders/{order['id']}"
        links = [self._link(here, "self")]
        if order["status"] in PAYABLE:
            rel = "payer-action" if order["status"] == "PAYER_ACTION_REQUIRED" else "approve"
            links.append(self._link(f"/checkoutnow?{urlencode({'token': order['id']})}", rel))
        if order["status"] == "APPROVED":
            step = "authorize" if order["intent"] == "AUTHORIZE" else "capture"
            links.append(self._link(f"{here}/{step}", step, "POST"))
        return links

    def _link(self, path: str, rel: str, method: str = "GET") -> Json:
        return {"href": self._base_url + path, "rel": rel, "method": method}

    def _related(self, order: Json) -> Json:
        return {"payee": payee(), "supplementary_data": {"related_ids": {"order_id": order["id"]}}}


def currency(order: Json) -> str:
    """The order's currency."""
    code: str = order["unit"]["amount"]["currency_code"]
    return code


def order_units(order: Json) -> int:
    """What the order is for."""
    return units.of(order["unit"]["amount"], "amount")


def payee() -> Json:
    """The merchant."""
    return {"email_address": "merchant@sandbox.example", "merchant_id": MERCHANT_ID}


def time(at: Microseconds, *, fraction: bool = False) -> str:
    """A time as PayPal writes it."""
    text = datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at % SECOND // 1000:03}Z" if fraction else text + "Z"


def _our_ids(order: Json) -> Json:
    return {name: order["unit"][name] for name in ("custom_id", "invoice_id") if name in order["unit"]}


def _wallet() -> Json:
    return {
        "email_address": "buyer@sandbox.example",
        "account_id": PAYER_ID,
        "account_status": "VERIFIED",
        "name": {"given_name": "Sandbox", "surname": "Buyer"},
    }
