"""A site to which nothing happens but what is asked about: one thin link, devices that ask at their pace.

`idle_site` and `small_update` count the bytes of its WAN, simulated with the real code. A run ends when every
device is done with the last order and has reported, so that one comes in its last second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sim import world
from sim.outcome import RunOutcome
from sim.scenario.reading import parse_scenario

SITE = """
duration = "{seconds} s"
[[class]]
name = "box"
bases = "{base}"
[[site]]
name = "depot"
devices = {devices}
classes = "box"
[site.lan]
degree_max = {degree}
[site.wan]
rate = "1 Mbit/s"
delay = "50 ms"
[polling]
every = "{every}"
jitter = "50 %"
lookout = {lookout}
"""
UPDATE = """
[[release]]
name = "2.0"
size = "32 MiB"
full = "16 MiB"
[[release.delta]]
base = "1.0"
stored = "{delta}"
patched = "10 %"
[[order]]
release = "2.0"
[[order.phase]]
share = "100 %"
opens = "{opens} s"
"""
LAST = """
[[release]]
name = "3.0"
size = "1 MiB"
full = "1 MiB"
[[order]]
release = "3.0"
[[order.phase]]
share = "100 %"
opens = "{last} s"
"""


@dataclass(frozen=True, slots=True)
class Crossed:
    """Bytes that crossed a WAN, on the wire, and how many devices were done then."""

    down: int
    up: int
    done: int

    @property
    def both(self) -> int:
        return self.down + self.up


@dataclass(frozen=True, slots=True)
class CalmSite:
    """`every`: the pause between polls; `lookout`: one device asks for all; `degree`: connections of each.

    `delta`: size of the delta that brings its devices to a release that is ordered `opens_s` seconds after
    the start of a run; none without it.
    """

    devices: int
    every: str = "30 min"
    lookout: bool = True
    degree: int = 64
    delta: str | None = None
    opens_s: int = 0

    def document(self, seconds: int) -> str:
        """The scenario of a run of so many seconds."""
        text = SITE + (UPDATE if self.delta else "") + LAST
        return text.format(
            seconds=seconds,
            base="1.0" if self.delta else "none",
            devices=self.devices,
            degree=self.degree,
            every=self.every,
            lookout=str(self.lookout).lower(),
            delta=self.delta,
            opens=self.opens_s,
            last=seconds - 1,
        )

    def run(self, seconds: int, seed: int) -> RunOutcome:
        """So many seconds of it."""
        scenario = parse_scenario(self.document(seconds).encode(), source="calm-site", directory=Path())
        return world.run(scenario, seed)

    def crossed(self, seconds: int, seed: int) -> Crossed:
        """What crosses its WAN in so many seconds, both ways."""
        outcome = self.run(seconds, seed)
        done = sum(d.finished_s is not None for d in outcome.devices)
        return Crossed(sum(s.wan_down for s in outcome.sites), sum(s.wan_up for s in outcome.sites), done)
