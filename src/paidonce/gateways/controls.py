"""What a twin is asked to make happen, checked: for gateways' sandboxes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from paidonce.gateways.base import Control


def given(
    controls: Sequence[Control], name: str, params: Mapping[str, str], *, optional: Collection[str] = ()
) -> dict[str, str]:
    """The parameters of the control `name`, without empty ones. Raises `ValueError` naming what is wrong."""
    control = next((one for one in controls if one.name == name), None)
    if control is None:
        raise ValueError(f"there is no control {name!r}; known are {', '.join(one.name for one in controls)}")
    found = {key: value.strip() for key, value in params.items() if value.strip()}
    unknown = sorted(found.keys() - control.params.keys())
    missing = [key for key in control.params if key not in found and key not in optional]
    if unknown or missing:
        takes, wrong, lacks = (", ".join(names) or "nothing" for names in (control.params, unknown, missing))
        raise ValueError(f"{name} takes: {takes}; unknown: {wrong}; missing: {lacks}")
    return found
