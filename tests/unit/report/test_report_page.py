"""The page stands alone, says what is wrong first, and nothing in an outcome becomes markup or script."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from p2p.errors import OperatorError
from sim.outcome import Violation
from sim.report import compose, subject, write
from sim.report.page import page, script_json
from sim.scenario.model import Expect
from tests.unit.report.samples import depot, device, plan, renamed, run

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADS = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}
EVIL = '</script><script>alert(1)</script><img src="http://evil.example/x" onerror=alert(2)>&amp;\u2028'


class Document(HTMLParser):
    """The page as a browser sees it: elements, scripts and text; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif inside != "style":
            self.text.append(data)
            if inside in ("td", "th"):
                self.rows[-1][-1] += data

    @property
    def specs(self) -> list[dict[str, Any]]:
        return [json.loads(text) for attrs, text in self.scripts if attrs.get("type") == "application/json"]

    def facts(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.rows if len(row) == 2}


def document(*outcomes: Any) -> Document:
    return Document(page(*compose(outcomes)))


def test_the_page_loads_nothing() -> None:
    text = page(*compose([depot(), plan("a", "b")]))
    found = Document(text)
    assert [(tag, attrs) for tag, attrs in found.tags if LOADS & set(attrs)] == []
    assert {tag for tag, _ in found.tags}.isdisjoint(
        {"link", "img", "iframe", "object", "embed", "base", "form"}
    )
    [policy] = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'")
    assert "http:" not in policy
    own = [re.search(r"<style>(.*?)</style>", text, re.S), *found.specs]
    assert "//" not in json.dumps(own[1:])
    assert own[0] is not None
    assert "url(" not in own[0][1]
    assert "@import" not in own[0][1]


def test_every_chart_has_its_data_in_the_page_and_a_place_to_be_drawn() -> None:
    found = document(depot())
    figures = [a["id"] for tag, a in found.tags if tag == "figure"]
    places = [a["data-name"] for _, a in found.tags if "data-name" in a]
    assert figures == places == ["completion", "egress", "sites", "devices", "timeline-1-depot-0"]
    assert len(found.specs) == len(figures)
    assert all("config" in spec and "$schema" not in spec for spec in found.specs)
    library = max((text for _, text in found.scripts), key=len)
    assert len(library) > 300_000
    assert "vegaEmbed" in library


def test_facts_come_first() -> None:
    facts = document(subject(depot(), expect=Expect(amplification_max=1.05))).facts()
    assert facts["scenario"] == "depot-night"
    assert facts["seed"] == "7"
    assert facts["trace digest"] == "5a" * 32
    assert facts["again with"] == "slipstream sim run depot-night --seed 7"
    assert facts["WAN bytes ÷ floor"] == "1.020"
    assert facts["devices finished"] == "4 of 4"
    assert (facts["time to 50 %"], facts["time to 100 %"]) == ("20 s", "40 s")


def test_expectations_are_met_or_missed() -> None:
    rows = document(
        subject(depot(), expect=Expect(amplification_max=1.01, finished_by_s=41.0, finished_share=1.0))
    ).rows
    assert ["amplification at most", "1.010", "1.020", "missed"] in rows
    assert ["finished by", "41 s", "40 s", "met"] in rows
    assert ["share of devices finished", "100 %", "100 %", "met"] in rows


def test_violations_come_with_the_command_that_shows_them_again() -> None:
    broken = replace(
        depot(), violations=(Violation("floor-never-falls", 12.3, "depot/0", None, "the floor fell to 3"),)
    )
    found = document(subject(broken, replay="slipstream sim replay 'a b.run.json'"))
    row = [
        "floor-never-falls",
        "12.3 s",
        "depot/0",
        "–",
        "the floor fell to 3",
        "slipstream sim replay 'a b.run.json'",
    ]
    assert row in found.rows
    assert "1 violation, no expectations stated, every device finished." in " ".join(found.text)


def test_the_models_error_is_in_every_page_of_a_plan() -> None:
    facts = document(plan()).facts()
    assert facts["model error, bytes"] == "median 0.4 %, 90 % of the sites at most 1.2 %, worst 2.1 %"
    assert facts["model error, time"] == "median 5 %, 90 % of the sites at most 10.1 %, worst 13 %"
    assert facts["of the real code's"] == "in one run of each of 120 sites held out of the fit"
    assert facts["bytes, of the mean"] == (
        "median 0.3 %, 90 % of the sites at most 1.1 %, worst 2 % against the mean of 5 runs of each"
    )
    assert facts["time, of the mean"].startswith("median 4 %")
    assert facts["note"] == "clocks are right"


@pytest.mark.parametrize("where", ["device", "site", "scenario", "message", "replay"])
def test_hostile_names_stay_text(where: str) -> None:
    one = depot()
    asked = subject(one)
    if where == "device":
        asked = subject(renamed(one, "depot/0/b", EVIL))
    elif where == "site":
        named = replace(one.sites[0], site=EVIL, group=EVIL)
        devices = tuple(replace(d, site=EVIL) for d in one.devices)
        spans = one.timelines["depot/0"]
        asked = subject(replace(one, sites=(named,), devices=devices, timelines={EVIL: spans}))
    elif where == "scenario":
        asked = subject(replace(one, scenario=EVIL))
    elif where == "message":
        asked = subject(replace(one, violations=(Violation(EVIL, 1.0, EVIL, EVIL, EVIL),)))
    else:
        asked = subject(one, replay=EVIL)
    plain, found = document(one), document(asked)
    kinds = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in found.tags} <= kinds | {"thead"}
    assert len(found.scripts) == len(plain.scripts)
    assert not any("onerror" in attrs for _, attrs in found.tags)
    assert EVIL in "".join(found.text) or any(EVIL in json.dumps(s, ensure_ascii=False) or
        json.dumps(EVIL)[1:-1] in json.dumps(s) for s in found.specs)  # fmt: skip


def test_json_in_a_script_can_neither_end_it_nor_break_a_line() -> None:
    text = script_json({"a": EVIL, "b": "<!--"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": EVIL, "b": "<!--"}


def test_many_runs_show_the_worst_and_count_the_rest() -> None:
    runs = [
        subject(
            depot(scenario=f"r{n}", seed=n, down=1_000_000 + 1000 * n), expect=Expect(amplification_max=1.1)
        )
        for n in range(150)
    ]
    found = document(*runs)
    text = " ".join(found.text)
    assert "150 runs: 49 of 300 expectations missed, every device finished" in text.replace(
        "no violations, ", ""
    )
    assert "The 40 worst of 150 runs." in text
    table = [row for row in found.rows if row[0].startswith("r1") and len(row) > 5]
    assert table[0][0] == "r149"
    assert sum(row[-1] == "missed" for row in found.rows) == 49


def test_runs_of_one_scenario_and_seed_are_told_apart_by_their_folders() -> None:
    _, _, [section] = compose(
        [subject(depot(), folder="wan=1"), subject(depot(), folder="wan=2"), subject(depot())]
    )
    labels = [row[0] for row in section.tables[0].rows]
    assert labels == ["wan=1 · seed 7", "wan=2 · seed 7", "depot-night · seed 7"]
    _, _, [section] = compose([depot(), depot()])
    assert len({row[0] for row in section.tables[0].rows}) == 2


def test_a_failed_run_says_never() -> None:
    facts = document(run(device("a", None))).facts()
    assert facts["time to 100 %"] == "never"
    assert facts["devices finished"] == "0 of 1"


def test_nothing_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="nothing to report on"):
        write([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
