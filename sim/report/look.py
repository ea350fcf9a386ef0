"""Colours and the common look of all charts. Okabe and Ito's palette, told apart by the colour-blind.

Charts name colours as CSS variables (`var(--fetched)`): a page resolves them for a light or a dark screen and
for paper without drawing anew. `with_colours` puts the light ones in for PNGs.
"""

from __future__ import annotations

import json
import re
from typing import Any

WIDTH = 900
"""Of a whole chart's plotting area, in px; pages are laid out for 1200."""

LIGHT = {
    "ink": "#1b1b1b",
    "muted": "#5c5c5c",
    "grid": "#e4e4e4",
    "paper": "#ffffff",
    "c1": "#0072b2",
    "c2": "#d55e00",
    "c3": "#009e73",
    "c4": "#cc79a7",
    "c5": "#e69f00",
    "c6": "#56b4e9",
    "c7": "#7a6a00",
    "c8": "#1b1b1b",
    "fetched": "#d55e00",
    "rode": "#56b4e9",
    "made": "#c4c4c4",
    "wasted": "#7b1fa2",
    "band": "#b9d6e8",
}
DARK = {
    **LIGHT,
    "ink": "#ececec",
    "muted": "#a8a8a8",
    "grid": "#383838",
    "paper": "#181818",
    "c1": "#4da6dc",
    "c2": "#f0803c",
    "c3": "#2fc598",
    "c4": "#e39dc4",
    "c7": "#f0e442",
    "c8": "#ececec",
    "fetched": "#f0803c",
    "rode": "#3f8fc0",
    "made": "#5a5a5a",
    "wasted": "#d78cf0",
    "band": "#24445a",
}
SERIES = tuple(f"var(--c{n})" for n in range(1, 9))
"""Colours of lines, in the order in which they are used."""

PLAIN = ",~r"
"""Numbers on axes: `1,200`, `0.05`; never `1e+3`."""

_VARIABLE = re.compile(r'"var\(--([a-z0-9]+)\)"')


def ink(name: str) -> str:
    """The colour of that name in `LIGHT` and `DARK`, as charts write it; raises `KeyError`."""
    return f"var(--{name})" if name in LIGHT else LIGHT[name]


def css_variables(colours: dict[str, str]) -> str:
    """The body of a CSS rule that gives the colours their values."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def with_colours(spec: dict[str, Any], colours: dict[str, str]) -> dict[str, Any]:
    """A copy of a chart's specification with plain colours in place of variables."""
    text = _VARIABLE.sub(lambda m: f'"{colours[m[1]]}"' if m[1] in colours else m[0], json.dumps(spec))
    result: dict[str, Any] = json.loads(text)
    return result


def config() -> dict[str, Any]:
    """Vega-Lite's `config` for every chart: quiet axes, no frame, type that is read at 1200 px."""
    axis = {
        "labelColor": ink("muted"),
        "titleColor": ink("ink"),
        "gridColor": ink("grid"),
        "domainColor": ink("muted"),
        "tickColor": ink("muted"),
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 220,
        "titlePadding": 8,
    }
    return {
        "background": None,
        "font": "system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelColor": ink("ink"),
            "titleColor": ink("ink"),
            "labelFontSize": 12,
            "labelLimit": 260,
            "symbolStrokeWidth": 3,
            "symbolBaseFillColor": ink("ink"),
            "symbolBaseStrokeColor": ink("ink"),
        },
        "title": {
            "anchor": "start",
            "color": ink("ink"),
            "fontSize": 15,
            "fontWeight": 600,
            "subtitleColor": ink("muted"),
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
            "offset": 14,
        },
        "text": {"color": ink("ink"), "fontSize": 12},
        "line": {"strokeWidth": 2},
        "concat": {"spacing": 40},
    }
