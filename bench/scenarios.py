"""What is measured: one scenario a row of the table, for each database and each number of buyers."""

from __future__ import annotations

from dataclasses import dataclass

BOTH = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`kind` is what the load does: checkout, known, repeated; or a measurement of its own: inflight, start, import."""

    name: str
    tells: str
    kind: str = "checkout"
    buyers: tuple[int, ...] = (64,)
    databases: tuple[str, ...] = BOTH
    latency_seconds: float = 0.0
    lines: int = 1
    hot: bool = False
    processes: int = 1
    orders_before: int = 0
    recent: bool = False
    peers: bool = False
    # The shortest selection, for a first look.
    quick: tuple[int, ...] = ()


SCENARIOS = (
    Scenario(
        "checkout",
        "a whole checkout: order, start, complete, webhook; one product out of 1,000",
        buyers=(1, 16, 64, 256, 1024),
        quick=(1, 64),
        peers=True,
    ),
    Scenario("latency-0", "512 buyers, and the gateway answers at once", buyers=(512,)),
    Scenario(
        "latency-200", "512 buyers, and each answer of the gateway takes 200 ms", buyers=(512,), latency_seconds=0.2
    ),
    Scenario("uniform", "32 buyers, each of one product out of 1,000", buyers=(32,)),
    Scenario("hot", "32 buyers, all of the same product", buyers=(32,), hot=True),
    Scenario("webhook-known", "a new event about a payment that is settled", kind="known", buyers=(16,), quick=(16,)),
    Scenario("webhook-repeated", "an event that was told before", kind="repeated", buyers=(16,)),
    Scenario("start-up", "from the command to the first answer of /readyz", kind="start", buyers=(0,), quick=(0,)),
    Scenario("import", "import paidonce", kind="import", buyers=(0,), databases=("none",), quick=(0,)),
    Scenario("lines-2", "orders of two products", buyers=(16,), lines=2),
    Scenario("lines-20", "orders of twenty products", buyers=(16,), lines=20),
    Scenario("processes-2", "two servers share the database", processes=2),
    Scenario(
        "recent-20k",
        "20,000 orders paid within the last two hours",
        buyers=(16,),
        orders_before=20_000,
        recent=True,
    ),
    Scenario("orders-10k", "10,000 paid orders in the database before", buyers=(16,), orders_before=10_000),
    Scenario("orders-1m", "1,000,000 paid orders in the database before", buyers=(16,), orders_before=1_000_000),
    Scenario(
        "in-flight",
        "all buyers start to pay at once while the gateway takes 5 s",
        kind="inflight",
        buyers=(10_000,),
        latency_seconds=5.0,
    ),
)


def chosen(only: list[str], *, quick: bool) -> list[Scenario]:
    """The scenarios named, or all. Raises `ValueError` for a name that there is not."""
    names = [scenario.name for scenario in SCENARIOS]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"there is no scenario {', '.join(unknown)}; there are {', '.join(names)}")
    if only:
        return [scenario for scenario in SCENARIOS if scenario.name in only]
    return [scenario for scenario in SCENARIOS if scenario.quick or not quick]
