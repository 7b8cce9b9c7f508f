"""The sandbox's own pages: where one lands, and the control page. Plain HTML with forms, and not a single script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from paidonce.gateways.base import BookEntry, Control, HttpResponse, SandboxCore
from paidonce.money import Money, MoneyError
from paidonce.sandbox.dials import MEANINGS, Fault
from paidonce.sandbox.webhooks import Delivery

_LAST_ENTRIES = 100

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--text:#1b1b1f;--edge:#8a8a94;--soft:#f4f4f7;--ink:#0b57d0;--bad:#b3261e;
--good:#146c2e}
@media (prefers-color-scheme:dark){:root{--paper:#17171b;--text:#e8e8ee;--edge:#74747e;--soft:#222228;--ink:#a8c7fa;
--bad:#f2b8b5;--good:#8fd9a8}}
*{box-sizing:border-box}html{background:var(--paper);color:var(--text)}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.25rem;margin-top:2.5rem}h3{font-size:1.05rem;margin-top:1.5rem}
a{color:var(--ink)}code{font-size:.9em;overflow-wrap:anywhere}td code{white-space:nowrap}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;width:100%}caption{text-align:left;font-weight:600}
th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--edge);vertical-align:top}
td.number,th.number{text-align:right;padding-right:0;font-variant-numeric:tabular-nums;white-space:nowrap}
fieldset,details,.notice{border:1px solid var(--edge);border-radius:.5rem;margin:.75rem 0;padding:.75rem 1rem}
details{background:var(--soft)}summary{cursor:pointer}
.fields{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.75rem 1rem;margin:.5rem 0}
.wide{grid-column:1/-1}
label{display:block;font-size:.9rem}
input,select,button{font:inherit;padding:.4rem .6rem;border:1px solid var(--edge);border-radius:.4rem}
input,select{width:100%;min-height:2.5rem}input[type=checkbox]{width:auto;min-height:0;margin-right:.4rem}
button{min-height:2.5rem;cursor:pointer}
:focus-visible{outline:3px solid var(--ink);outline-offset:2px}
.row{display:flex;flex-wrap:wrap;gap:.75rem;align-items:center}.row input{width:8rem}
.notice{border-left:.35rem solid var(--good)}.notice.bad{border-left-color:var(--bad)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem;margin:.25rem 0}dd{margin:0}
""".strip()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the control page shows. `address` is where it stands itself."""

    address: str
    dials: Mapping[str, Any]
    cores: Mapping[str, SandboxCore]
    shop_url: str | None
    waiting: int
    deliveries: Sequence[Delivery]
    notice: tuple[str, Mapping[str, str]] | None
    problem: str | None


def landing(gateways: Iterable[str]) -> HttpResponse:
    """What this is, and what is here."""
    mounted = "".join(f"<li><code>/{escape(name)}/</code></li>" for name in gateways)
    body = (
        "<h1>paidonce offline sandbox</h1><p>This is a stand-in for the payment gateways below. It is "
        "<strong>not</strong> a payment service: no money moves here, and no real card or account may be entered.</p>"
        f'<ul>{mounted}</ul><p><a href="_control">Control page</a>: faults, refunds, disputes, webhooks and books.</p>'
    )
    return _page(200, "paidonce offline sandbox", body)


def control(shown: Shown, *, status: int) -> HttpResponse:
    """The control page, which works as it stands: every button is a form of its own."""
    parts = [
        "<h1>Offline sandbox: control page</h1><p>Make things happen at the stand-in gateways, or go wrong on the way. "
        "No money moves here.</p>",
        _messages(shown),
        _dials(shown),
        _rule_form(shown),
        "<h2>At the gateways</h2><p>What a dashboard, a bank or time does.</p>",
        *(_controls(shown, name, core.controls) for name, core in shown.cores.items()),
        _deliveries(shown),
        "<h2>Books</h2><p>What has moved the merchant's money, by the gateways' own records.</p>",
        *(_books(name, core.books()) for name, core in shown.cores.items()),
    ]
    return _page(status, "Offline sandbox: control page", "".join(parts))


def _page(status: int, title: str, body: str) -> HttpResponse:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    )
    return HttpResponse(status, _HEADERS, page.encode())


def _messages(shown: Shown) -> str:
    if shown.problem is not None:
        return f'<div class="notice bad" role="alert"><strong>Nothing was done:</strong> {escape(shown.problem)}</div>'
    if shown.notice is None:
        return ""
    said, result = shown.notice
    rows = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in result.items())
    return f'<div class="notice" role="status">{escape(said)}{f"<dl>{rows}</dl>" if rows else ""}</div>'


# ── Dials ──────────


def _dials(shown: Shown) -> str:
    dials = shown.dials
    going = _table(
        "What goes wrong right now",
        ("fault", "for", "struck", "left"),
        [
            (escape(rule["fault"]), escape(_chosen(rule)), str(rule["struck"]), str(rule["left"] or "until cleared"))
            for rule in dials["rules"]
        ],
        empty="Nothing goes wrong right now.",
    )
    struck = ", ".join(f"{escape(fault)} {count}" for fault, count in dials["struck"].items())
    other = "off" if dials["webhooks"] == "on" else "on"
    switch = f'<input type="hidden" name="webhooks" value="{other}"><button>Switch webhooks {other}</button>'
    clear = '<input type="hidden" name="clear" value="on"><button>Clear all faults</button>'
    seed = (
        f'<label for="seed">Seed of chance</label><input id="seed" name="seed" inputmode="numeric" required '
        f'value="{dials["seed"]}"><button>Begin chance anew</button>'
    )
    forms = "".join(_form(shown, "dials", inner, kind="row") for inner in (switch, clear, seed))
    total = f"<p>Struck since the start: {struck}.</p>" if struck else ""
    state = f"<p>Webhooks are <strong>{dials['webhooks']}</strong>.</p>"
    return f'<h2>Fault dials</h2>{state}{going}{total}<div class="row">{forms}</div>'


def _chosen(rule: Mapping[str, Any]) -> str:
    """Which requests a rule looks at, in short."""
    names = ("gateway", "method", "path", "event", "next", "every", "probability", "seconds", "copies", "pages")
    return ", ".join(f"{name} {rule[name]}" for name in names if name in rule) or "every one"


def _rule_form(shown: Shown) -> str:
    def options(of_webhooks: bool) -> str:
        return "".join(
            f'<option value="{fault}">{fault}: {escape(MEANINGS[fault])}</option>'
            for fault in Fault
            if fault.of_webhooks is of_webhooks
        )

    gateways = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in shown.cores)
    fields = (
        '<div class="wide"><label for="fault">What shall go wrong</label><select id="fault" name="fault">'
        f'<optgroup label="Calls to a gateway">{options(False)}</optgroup>'
        f'<optgroup label="Webhooks">{options(True)}</optgroup></select></div>'
        '<div><label for="gateway">Gateway</label><select id="gateway" name="gateway"><option value="">any</option>'
        f"{gateways}</select></div>"
        + _field("next", "How often (empty: until cleared)", "1")
        + _field("every", "Every nth (2: every second)", "")
        + _field("probability", "Probability, 0 to 1", "")
        + _field("seconds", "Seconds (empty: as usual)", "")
        + _field("copies", "How many copies (duplicates)", "")
        + _field("method", "Calls: method", "")
        + _field("path", "Calls: part of the path", "")
        + _field("event", "Webhooks: part of the type", "")
        + '<div class="wide"><label><input type="checkbox" name="pages">Calls: also what browsers ask for</label></div>'
    )
    add = "<button>Add the fault</button>"
    inner = f'<fieldset><legend>Add a fault</legend><div class="fields">{fields}</div>{add}</fieldset>'
    return _form(shown, "dials", inner)


def _field(name: str, label: str, value: str, prefix: str = "") -> str:
    identifier = f"{prefix}{name}"
    return (
        f'<div><label for="{escape(identifier)}">{escape(label)}</label>'
        f'<input id="{escape(identifier)}" name="{escape(name)}" value="{escape(value)}" autocomplete="off"></div>'
    )


def _form(shown: Shown, target: str, inner: str, kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<form method="post" action="{escape(shown.address)}/{escape(target)}"{chosen}>{inner}</form>'


# ── Gateways, webhooks, books ──────────


def _controls(shown: Shown, gateway: str, controls: Sequence[Control]) -> str:
    forms = []
    for one in controls:
        prefix = f"{gateway}-{one.name}-"
        fields = "".join(_field(name, f"{name}: {word}", "", prefix) for name, word in one.params.items())
        inner = f'<div class="fields">{fields}</div><button>{escape(one.name)}</button>'
        about = f"<summary><strong>{escape(one.name)}</strong> {escape(one.summary)}</summary>"
        forms.append(f"<details>{about}{_form(shown, f'{gateway}/{one.name}', inner)}</details>")
    return f"<h3>{escape(gateway)}</h3>" + ("".join(forms) or "<p>It has no controls.</p>")


def _deliveries(shown: Shown) -> str:
    if shown.shop_url is None:
        to = "No shop is told: start the sandbox with <code>--shop-url</code>."
    else:
        to = f"To <code>{escape(shown.shop_url)}</code>; {shown.waiting} waiting."
    rows = [
        (
            escape(one.gateway),
            escape(one.type),
            f"<code>{escape(one.id)}</code>",
            escape(one.state),
            str(one.tries),
            "-" if one.status is None else str(one.status),
        )
        for one in shown.deliveries
    ]
    columns = ("gateway", "type", "id", "state", "tries", "last status")
    return f"<h2>Webhooks</h2><p>{to}</p>" + _table("The last webhooks, newest first", columns, rows, empty="None yet.")


def _books(gateway: str, entries: Sequence[BookEntry]) -> str:
    totals: dict[str, int] = {}
    for entry in entries:
        totals[entry.currency] = totals.get(entry.currency, 0) + entry.minor
    balance = ", ".join(_money(minor, currency) for currency, minor in sorted(totals.items()))
    rows = [
        (
            escape(entry.kind),
            f"<code>{escape(entry.object)}</code>",
            f"<code>{escape(entry.payment_id or '-')}</code>",
            _money(entry.minor, entry.currency),
        )
        for entry in reversed(entries[-_LAST_ENTRIES:])
    ]
    title = f"{gateway}: the last {len(rows)} of {len(entries)} entries, newest first"
    table = _table(title, ("kind", "object", "payment", "amount"), rows, empty="Nothing yet.", numbers=3)
    return f"<h3>{escape(gateway)}</h3><p>Balance: {balance or 'nothing'}.</p>{table}"


def _money(minor: int, currency: str) -> str:
    try:
        return escape(str(Money(minor, currency)))
    except MoneyError:
        return escape(f"{minor} {currency}")


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, numbers: int | None = None
) -> str:
    """A table of cells that are HTML already. It can be scrolled by keyboard where it is wider than the screen."""
    if not rows:
        return f"<p>{escape(empty)}</p>"
    kinds = [' class="number"' if at == numbers else "" for at in range(len(columns))]
    head = "".join(f'<th scope="col"{kind}>{escape(column)}</th>' for kind, column in zip(kinds, columns, strict=True))
    lines = ("".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    label = escape(title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
