"""What the pay page needs in the shop's Content-Security-Policy, for projects that have one."""

from __future__ import annotations

from paidonce.contrib.django.integrity import of_static_files
from paidonce.contrib.django.runtime import runtime


def sources() -> dict[str, list[str]]:
    """The sources that the gateways' components load from, by directive, beside the shop's own (`'self'`).

    Add them to the policy of the pay page alone, each to what stands in its directive already. Among those of scripts
    is the hash of the tag's import map, which a policy without a nonce has to allow by it.
    """
    merged: dict[str, list[str]] = {"script-src": [of_static_files().import_map_source]}
    for component in runtime().wiring.components.values():
        for directive, wanted in component.csp.items():
            kept = merged.setdefault(directive, [])
            kept += [source for source in wanted if source not in kept]
    return merged
