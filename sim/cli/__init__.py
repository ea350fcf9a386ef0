"""The `slipstream sim` commands, each a module that is imported when it is used."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from p2p.cli import LazyGroup

__all__ = ["sim"]

_COMMANDS = {
    "list": "sim.cli.library:list_scenarios",
    "plan": "sim.cli.plan:plan",
    "replay": "sim.cli.replay:replay",
    "report": "sim.cli.report:report",
    "run": "sim.cli.run:run",
    "show": "sim.cli.library:show",
    "soak": "sim.cli.soak:soak_command",
    "sweep": "sim.cli.sweep:sweep_command",
}

sim = LazyGroup(
    name="sim",
    path="sim",
    entries={name: EntryPoint(name, value, "slipstream.commands") for name, value in _COMMANDS.items()},
    help="""Simulate releases on fleets: the real swarm code in virtual time.

    \b
    Examples:
      slipstream sim list
      slipstream sim run bench-8 --out runs
      slipstream sim run my-fleet.toml --seed 7 --json
    """,
)
