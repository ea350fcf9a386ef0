"""`slipstream sim plan` as a user would try it, from a library scenario to files that can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2p.errors import OperatorError
from sim.cli.plan import plan
from sim.fleet.outcome import PlanOutcome, Way


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plan, arguments, catch_exceptions=False)


def test_a_ready_scenario_is_reckoned_and_the_error_stated() -> None:
    said = run("retail-chain", "--plan", "night: window=22:00-06:00")
    assert said.exit_code == 0
    for way in Way:
        assert said.output.count(f"\n{way}") == 2
    assert "as written" in said.output and "plan 'night'" in said.output
    assert "not fitted to" in said.output
    assert said.output.count("asking (polls and check-ins") == 2


def test_the_outcome_is_kept_with_a_report_and_read_again(tmp_path: Path) -> None:
    said = run("ship-satellite", "--out", str(tmp_path), "--json")
    facts = json.loads(said.stdout)
    kept = json.loads((tmp_path / "plan.json").read_text())
    outcome = PlanOutcome.from_json(kept)
    assert kept == {k: v for k, v in facts.items() if k != "kept"}
    assert outcome.of(Way.SLIPSTREAM).wan_bytes < outcome.of(Way.DELTA).wan_bytes
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_same_seed_gives_the_same_bill() -> None:
    first, again, other = (run("retail-chain", "--seed", s, "--json").stdout for s in ("4", "4", "5"))
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "give the fleet once"),
        (("retail-chain", "--fleet", "fleet.toml"), "give the fleet once"),
        (("retail-chain", "--product", "os"), "choose from a repository"),
        (("retail-chain", "--plan", "night"), "a name and a colon"),
        (("retail-chain", "--repo", "/nonexistent"), "not a Slipstream repository"),
    ],
)
def test_what_cannot_be_planned_is_said(arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        run(*arguments)
