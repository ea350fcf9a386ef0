"""One chart of a report with the words that go with it, and its PNG."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from sim.report.look import LIGHT, config, with_colours

VEGALITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The version of Vega-Lite that both the page and the PNGs are drawn with."""
PNG_SCALE = 2.0


@dataclass(frozen=True, slots=True)
class Picture:
    """`name`: of its file, unique in a report. `title` says what is seen, `caption` how to read it and
    what was left out. `spec` is a Vega-Lite specification with its data; its colours are variables."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def picture(name: str, title: str, caption: str, chart: Any) -> Picture:
    """An Altair chart as a `Picture`; the chart is checked against Vega-Lite's schema."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("$schema", None)  # an address; the page and the PNGs name the version themselves
    datasets: dict[str, str] = {}
    _set_apart(spec, datasets)
    spec["datasets"] = {short: json.loads(text) for text, short in datasets.items()}
    spec["config"] = config()
    return Picture(name, title, caption, spec)


Drawn = Any
"""A chart of Altair's before it is a `Picture`: its own annotations lose the type on the way."""


def rows(values: list[dict[str, Any]]) -> alt.NamedData:
    """Data of a chart, for `picture` to set apart.

    Until then the rows, as JSON, are the name of the data: Altair would check each of them against the
    schema, which takes far longer than all else.
    """
    return alt.NamedData(name=json.dumps(values, allow_nan=False))


def _set_apart(spec: Any, datasets: dict[str, str]) -> None:
    """Give data short names, in the order of their first use; equal data are one."""
    if isinstance(spec, list):
        for below in spec:
            _set_apart(below, datasets)
    elif isinstance(spec, dict):
        for key, below in spec.items():
            if key == "data" and isinstance(below, dict) and "name" in below:
                below["name"] = datasets.setdefault(below["name"], f"rows-{len(datasets) + 1}")
            else:
                _set_apart(below, datasets)


def png(shown: Picture) -> bytes:
    """The picture on white, with its title and caption, at two pixels per px."""
    spec = with_colours(shown.spec, LIGHT)
    spec["title"] = {
        "text": textwrap.wrap(shown.title, 110),
        "subtitle": textwrap.wrap(shown.caption, 140),
    }
    spec["config"]["background"] = LIGHT["paper"]
    spec["padding"] = 16
    return vl_convert.vegalite_to_png(spec, vl_version=VEGALITE, scale=PNG_SCALE, allowed_base_urls=[])
