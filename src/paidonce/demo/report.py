"""The demo's words on the terminal, by Rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paidonce.demo.books import Books
from paidonce.demo.once import Outcome, tries_of
from paidonce.gateways.base import Provider
from paidonce.money import Money


def welcome(
    console: Console,
    *,
    shop_url: str,
    sandbox_url: str,
    data: str,
    logins: Sequence[tuple[str, str, str]],
    providers: Iterable[Provider],
    offline: frozenset[str],
) -> None:
    """Where the shop is, who can sign in, and what to try."""
    console.print(f"\n[bold]The shop is open:[/] [link={shop_url}]{shop_url}[/link]   (Ctrl-C closes it)")
    console.print(f"Interface: {shop_url}/docs   Offline gateways: {sandbox_url}   Data: {escape(data)}")
    console.print(f"Faults, refunds, disputes, webhooks: {sandbox_url}/_control", soft_wrap=True)
    people = _table("Sign in as", "who", "email", "password")
    for login in logins:
        people.add_row(*map(escape, login))
    console.print(people)
    for provider in providers:
        where = "offline, no money moves" if provider.name in offline else "real, with your test keys"
        tries = _table(f"Try at {provider.name} ({where})", "choose", "and then")
        for choice, then in tries_of(provider, offline=provider.name in offline):
            tries.add_row(escape(choice), escape(then))
        console.print(tries)
    console.print("Any date in the future and any security code will do. No real card may be entered here.\n")


def outcome(console: Console, lived: Outcome, books: Books, differences: Sequence[str]) -> None:
    """What happened, the books, and whether they add up."""
    for step in lived.steps:
        console.print(f"  • {escape(step)}")
    for table in (_orders(books), _payments(books), _stock(books), _journal(books)):
        console.print(table)
    for name, link in lived.links:
        console.print(f"[bold]{escape(name)}[/]: approve here, in a browser: {link}", soft_wrap=True)
    for problem in (*lived.problems, *differences):
        console.print(f"[bold red]✗[/] {escape(problem)}", soft_wrap=True)
    if not lived.problems and not differences:
        console.print(
            "[bold green]✓[/] It all adds up: orders, payments, stock, journal and the gateways' own records."
        )


def _orders(books: Books) -> Table:
    table = _table("Orders", "number", "status", "total", "lines")
    for order in books.orders:
        mine = [line for line in books.lines if line["order_id"] == order["id"]]
        lines = ", ".join(f"{line['quantity']} of {line['name']}" for line in mine)
        total = Money(order["total_minor"], order["currency"])
        table.add_row(escape(order["number"]), order["status"], str(total), escape(lines))
    return table


def _payments(books: Books) -> Table:
    numbers = {order["id"]: order["number"] for order in books.orders}
    table = _table("Payments", "order", "gateway", "status", "captured", "capture")
    for payment in books.payments:
        captured = Money(payment["captured_minor"], payment["currency"])
        table.add_row(
            escape(str(numbers.get(payment["order_id"], payment["order_id"]))),
            payment["gateway"],
            payment["status"],
            str(captured),
            escape(str(payment["capture_ref"] or "-")),
        )
    return table


def _stock(books: Books) -> Table:
    table = _table("Stock", "sku", "product", "at first", "adjusted", "sold", "back", "on hand", "held")
    for row in books.stock:
        moved = {kind: _moved(books, row["sku"], kind) for kind in ("initial", "adjustment", "sale", "restock")}
        changes = (moved["initial"], moved["adjustment"], -moved["sale"], moved["restock"])
        figures = (*changes, row["on_hand"], row["held"])
        table.add_row(escape(row["sku"]), escape(row["name"]), *map(str, figures))
    return table


def _moved(books: Books, sku: str, kind: str) -> int:
    return sum(move["quantity"] for move in books.movements if move["sku"] == sku and move["kind"] == kind)


def _journal(books: Books) -> Table:
    table = _table("Journal", "entry", "gateway's object", "debit", "credit", "amount")
    for entry in books.entries:
        postings = [posting for posting in books.postings if posting["entry_id"] == entry["id"]]
        debits = [posting for posting in postings if posting["amount_minor"] > 0]
        credits = [posting for posting in postings if posting["amount_minor"] < 0]
        table.add_row(
            entry["kind"],
            escape(entry["gateway_object"]),
            ", ".join(posting["account"] for posting in debits),
            ", ".join(posting["account"] for posting in credits),
            ", ".join(str(Money(posting["amount_minor"], posting["currency"])) for posting in debits),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for column in columns:
        # Ids are there to be copied, so they wrap rather than lose their end.
        table.add_column(column, overflow="fold")
    return table
