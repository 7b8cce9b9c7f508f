"""Plots as plain SVG: bars, each with its value and the range of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.rows import shown

_WIDTH, _LEFT, _RIGHT = 760, 250, 90
_BAR, _GAP, _TOP, _BOTTOM = 16, 6, 56, 16
_COLOURS = ("#4464ad", "#9aa5b1", "#c8553d", "#6b9080", "#8f6593")


@dataclass(frozen=True, slots=True)
class Bar:
    """One value with the least and largest of its runs; bars of one `group` stand together."""

    group: str
    series: str
    value: float
    least: float
    largest: float


def bars(title: str, unit: str, drawn: Sequence[Bar]) -> str:
    """A plot of horizontal bars."""
    series = list(dict.fromkeys(bar.series for bar in drawn))
    scale = (_WIDTH - _LEFT - _RIGHT) / (max((bar.largest for bar in drawn), default=1) or 1)
    parts, top, before = [], float(_TOP), ""
    for bar in drawn:
        top += _GAP * (2 if bar.group != before else 0)
        label = bar.group if bar.group != before else ""
        parts += _bar(bar, label, top, scale, _COLOURS[series.index(bar.series) % len(_COLOURS)])
        before, top = bar.group, top + _BAR + 2
    height = top + _BOTTOM
    legend = _legend(series)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}" font-family="system-ui, sans-serif" font-size="12" role="img">'
        f"<title>{escape(title)}</title>"
        '<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="12" y="22" font-size="15" font-weight="600" fill="#1f2933">{escape(title)}</text>'
        f'<text x="{_WIDTH - 12}" y="22" text-anchor="end" fill="#52606d">{escape(unit)}</text>'
        + legend
        + "".join(parts)
        + "</svg>\n"
    )


def _bar(bar: Bar, label: str, top: float, scale: float, colour: str) -> list[str]:
    middle, base = top + _BAR / 2, top + _BAR - 4
    end, first, last = (_LEFT + value * scale for value in (bar.value, bar.least, bar.largest))
    parts = [
        f'<rect x="{_LEFT}" y="{top:.1f}" width="{bar.value * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<path d="M{first:.1f} {middle:.1f}H{last:.1f}" stroke="#1f2933"/>',
        f'<text x="{max(end, last) + 6:.1f}" y="{base:.1f}" fill="#1f2933">{shown(bar.value)}</text>',
    ]
    if label:
        parts.append(f'<text x="{_LEFT - 8}" y="{base:.1f}" text-anchor="end" fill="#1f2933">{escape(label)}</text>')
    return parts


def _legend(series: Sequence[str]) -> str:
    parts, left = [], _LEFT
    for number, name in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<rect x="{left}" y="36" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + 15}" y="45" fill="#52606d">{escape(name)}</text>')
        left += 30 + 7 * len(name)
    return "".join(parts)
