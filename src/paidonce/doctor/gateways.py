"""Each gateway: do its keys work, whose are they, what does its account lack, and do its clock and ours agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paidonce import guard
from paidonce.doctor import database
from paidonce.doctor.patient import Patient
from paidonce.errors import DatabaseError, GatewayBusy, GatewayError, OutcomeUnknown
from paidonce.gateways.base import Account, Checkup, Finding, Gateway, Health, Needs
from paidonce.money import Money, MoneyError, iso_exponent
from paidonce.ports import Database, Transaction

# In major units: an amount that any shop might ask for, and that every exponent can express.
_USUAL_MAJOR = 100
_PAID = "SELECT DISTINCT currency FROM payments"
_PAID_AND_PRICED = "SELECT currency FROM payments UNION SELECT currency FROM products"


async def look(name: str, patient: Patient) -> Sequence[Finding]:
    """All there is to say of the gateway `name`. A gateway's own findings are put below its name."""
    gateway = patient.gateways[name]
    currencies = await _currencies(patient)
    needs = Needs(
        webhook_url=patient.webhook_url(name),
        reachable=guard.is_public(patient.settings),
        currencies=currencies,
    )
    try:
        account = await gateway.account()
        told = await gateway.checkup(needs) if isinstance(gateway, Checkup) else ()
    except GatewayError as error:
        return [_refused(name, error), *_clock(name, patient)]
    own = [Finding(f"{name}.{one.check}", one.health, one.text, one.fix) for one in told]
    return [_keys(name, account, patient), *own, *_currency(name, gateway, currencies), *_clock(name, patient)]


def _keys(name: str, account: Account, patient: Patient) -> Finding:
    public = guard.is_public(patient.settings)
    if account.live and not public:
        return Finding(
            f"{name}.keys",
            Health.RED,
            f"LIVE: real money moves to account {account.id}, while the public address is this machine's own.",
            "Set PAIDONCE_PUBLIC_URL to the https address that buyers see, or use test keys.",
        )
    if public and not account.live:
        text = f"Test mode at a public address: whoever pays account {account.id} pays with nothing."
        return Finding(f"{name}.keys", Health.YELLOW, text, "Set the live keys before goods are sent.")
    mode = "LIVE: real money moves" if account.live else "test mode"
    return Finding(f"{name}.keys", Health.GREEN, f"The keys are right: account {account.id}, {mode}.")


def _refused(name: str, error: GatewayError) -> Finding:
    if isinstance(error, GatewayBusy | OutcomeUnknown):
        fix = "Look whether it can be reached from here (network, proxy, its own status page), and try again."
        return Finding(f"{name}.keys", Health.RED, f"No answer: {error}", fix)
    fix = "Copy its keys again from its dashboard, all of the same account and mode."
    return Finding(f"{name}.keys", Health.RED, f"The keys don't work: {error}", fix)


async def _currencies(patient: Patient) -> tuple[str, ...]:
    """What the shop has prices and payments in, as far as the database tells."""
    if patient.file is not None and not patient.file.exists():
        return ()
    try:
        async with database.opened(patient) as opened:
            return await _read_currencies(opened, hosted=patient.hosted)
    except DatabaseError:
        # The look at the database tells what is wrong with it.
        return ()


async def _read_currencies(opened: Database, *, hosted: bool) -> tuple[str, ...]:
    if not await database.is_current(opened):
        return ()

    async def read(tx: Transaction) -> tuple[str, ...]:
        sql = _PAID if hosted else _PAID_AND_PRICED
        return tuple(sorted(str(row["currency"]) for row in await tx.fetch_all(sql)))

    return await opened.read(read)


def _currency(name: str, gateway: Gateway, currencies: tuple[str, ...]) -> Iterator[Finding]:
    refused = []
    for currency in currencies:
        try:
            gateway.check_amount(Money(_USUAL_MAJOR * 10 ** iso_exponent(currency), currency))
        except MoneyError as error:
            refused.append(f"{currency} ({error})")
    if refused:
        yield Finding(
            f"{name}.currency",
            Health.YELLOW,
            f"It does not take {', '.join(refused)}, so it is not offered for such orders.",
            "Nothing has to be done if another gateway takes them.",
        )
    elif currencies:
        yield Finding(f"{name}.currency", Health.GREEN, f"It takes the shop's currencies: {', '.join(currencies)}.")


def _clock(name: str, patient: Patient) -> Iterator[Finding]:
    skew, limits = patient.dates.skew_seconds(), patient.limits
    if skew is None:
        return
    if abs(skew) < limits.skew_yellow_seconds:
        yield Finding(f"{name}.clock", Health.GREEN, "Its clock and the one here agree.")
        return
    words = "ahead of" if skew > 0 else "behind"
    yield Finding(
        f"{name}.clock",
        Health.RED if abs(skew) >= limits.skew_red_seconds else Health.YELLOW,
        f"The clock here is {abs(skew)} seconds {words} the gateway's; webhooks are refused from 300 seconds on.",
        "Let the system keep its time by NTP (timedatectl set-ntp true).",
    )
