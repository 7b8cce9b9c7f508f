"""Runs the contract suite as somebody outside would: in a process of its own, from the gateway's folder."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What a run said, and how each gateway's tests ended: the first line of the reason, or None for a success."""

    output: str
    outcomes: dict[str, dict[str, str | None]]

    def failed(self, gateway: str) -> dict[str, str]:
        """The tests that `gateway` failed, with the reasons."""
        return {test: reason for test, reason in self.outcomes[gateway].items() if reason is not None}

    def passed(self, gateway: str) -> set[str]:
        """The tests that `gateway` passed."""
        return {test for test, reason in self.outcomes[gateway].items() if reason is None}

    def told(self, gateway: str) -> str:
        """What the summary says of `gateway`; empty if it says nothing."""
        return self.output.partition(f"what {gateway} does not do: ")[2].partition("\n====")[0]


def run_suite(folder: Path, *gateways: str, options: tuple[str, ...] = ()) -> Run:
    """Test the gateways whose packages lie in `folder`."""
    results = folder / "results.xml"
    # -P: as for the command `pytest`, the current folder is not on the path by itself.
    command = [sys.executable, "-P", "-m", "pytest", "-p", "paidonce.contract.plugin", "-p", "no:cacheprovider"]
    command += ["--pyargs", "paidonce.contract", f"--junit-xml={results}", *options]
    command += [f"--gateway={gateway}" for gateway in gateways]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PAIDONCE"))}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    outcomes: dict[str, dict[str, str | None]] = {gateway: {} for gateway in gateways}
    for case in ET.parse(results).iter("testcase"):  # noqa: S314
        name, _, values = case.attrib["name"].removesuffix("]").partition("[")
        gateway, _, rest = values.partition("-")
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        reason = bad[0].attrib["message"].removeprefix("Failed: ").splitlines()[0] if bad else None
        outcomes[gateway][f"{name}[{rest}]" if rest else name] = reason
    return Run(ran.stdout + ran.stderr, outcomes)
