"""One HTML file that stands alone: tables, then charts with the library that draws them. Text in, text out.

It loads nothing: its content policy forbids every address, its scripts are within it. All text that
comes from outcomes is escaped; data of charts is JSON in which no tag can begin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import vl_convert

from sim.report.facts import Table
from sim.report.look import DARK, LIGHT, css_variables
from sim.report.picture import VEGALITE, Picture

SHORT = 30
"""Cells of words up to so many characters stay on one line."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, tables and pictures. `remarks`: what was left out, or how to read what follows."""

    title: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    remarks: tuple[str, ...] = ()


def page(title: str, summary: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    body = "\n".join(_section(section) for section in sections)
    drawn = any(section.pictures for section in sections)
    library = f"<script>{_library()}</script>\n<script>{_DRAW}</script>" if drawn else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{_paragraph(summary, "summary")}</header>
<noscript><p class="note">The charts need JavaScript; the tables do not.</p></noscript>
{body}
{library}
</body>
</html>
"""


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no tag, comment or line separator can begin in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"] if section.title else ["<section>"]
    parts += [_paragraph(remark, "note") for remark in section.remarks]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(shown) for shown in section.pictures]
    return "\n".join([*parts, "</section>"])


def _paragraph(text: str, kind: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def _table(table: Table) -> str:
    facts = ' class="facts"' if not table.headings else ""
    lines = [f"<h3>{escape(table.title)}</h3>", _paragraph(table.note, "note")]
    lines += [f'<div class="wide"><table{facts}>']
    if table.headings:
        cells = "".join(
            f'<th scope="col"{_kind(table, n)}>{escape(heading)}</th>'
            for n, heading in enumerate(table.headings)
        )
        lines.append(f"<thead><tr>{cells}</tr></thead>")
    lines.append("<tbody>")
    for number, row in enumerate(table.rows):
        bad = ' class="bad"' if number in table.bad else ""
        if table.headings:
            cells = "".join(f"<td{_kind(table, n, cell)}>{escape(cell)}</td>" for n, cell in enumerate(row))
        else:
            cells = f'<th scope="row">{escape(row[0])}</th><td>{escape(row[1])}</td>'
        lines.append(f"<tr{bad}>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _kind(table: Table, column: int, cell: str = "") -> str:
    if column not in table.texts:
        return ' class="figure"'
    return ' class="short"' if len(cell) <= SHORT else ""


def _figure(shown: Picture) -> str:
    name = escape(shown.name, quote=True)
    spec = script_json({**shown.spec, "description": shown.title})
    return f"""<figure id="{name}">
<h3>{escape(shown.title)}</h3>
<div class="chart" data-name="{name}"></div>
<figcaption>{escape(shown.caption)}</figcaption>
<script type="application/json">{spec}</script>
</figure>"""


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, of the version that also draws the PNGs."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGALITE)
    return bundle.replace("</script", "<\\/script")


_DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
for (const figure of document.querySelectorAll("figure")) {
  const target = figure.querySelector(".chart");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = {mode: "vega-lite", renderer: "svg", actions: false, ast: true,
                   tooltip: {theme: dark ? "dark" : "light"}};
  vegaEmbed(target, spec, options).catch((error) => { target.textContent = "not drawn: " + error.message; });
}
"""

_STYLE = f"""
:root{{color-scheme:light dark;{css_variables(LIGHT)}--bad:#b3261e}}
@media screen and (prefers-color-scheme:dark){{:root{{{css_variables(DARK)}--bad:#ff8a80}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:1160px;padding:24px 28px 60px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,"Liberation Sans","DejaVu Sans",sans-serif}}
h1{{font-size:26px;margin:0 0 4px;line-height:1.25}}
h2{{font-size:20px;margin:40px 0 8px;padding-top:14px;border-top:1px solid var(--grid)}}
h3{{font-size:16px;margin:26px 0 8px;line-height:1.35}}
.summary{{font-size:17px;margin:0 0 8px}}
.note,figcaption{{color:var(--muted);font-size:13.5px;max-width:90ch;margin:6px 0}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}}
th,td{{padding:4px 14px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}}
thead th{{font-weight:600;color:var(--muted);vertical-align:bottom}}
.figure{{text-align:right;white-space:nowrap}}
.short{{white-space:nowrap}}
.facts th{{font-weight:400;color:var(--muted);white-space:nowrap;padding-right:28px}}
.facts td{{overflow-wrap:anywhere}}
.bad td:first-child{{box-shadow:-8px 0 0 -4px var(--bad)}}
.bad td{{color:var(--bad)}}
figure{{margin:0 0 34px;break-inside:avoid}}
.chart{{overflow-x:auto}}
.chart svg{{display:block;max-width:100%;height:auto}}
@media print{{body{{max-width:none;padding:0;font-size:11pt}}.wide,.chart{{overflow:visible}}
h2,h3{{break-after:avoid}}tr{{break-inside:avoid}}@page{{size:A4 landscape;margin:14mm}}}}
"""
