"""What an idle site costs a day: bytes on its WAN wire, both ways, simulated with the real code.

    python -m benchmarks.idle_site [--devices 100] [--every "30 min"]

The mean of days 11 to 13 is taken: the questions that each device asks by itself now and then, with a TLS
handshake of its own, do not come before. Where each asks for itself it is the first day after the first hour.
The goal: a site of 100 devices that poll every 30 minutes costs at most 1.5 times what one device does.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from sim import world
from sim.scenario.reading import parse_scenario

GOAL = 1.5
RESTED_H, DAYS = 240, 3
DOCUMENT = """
duration = "{hours} h"
[[release]]
name = "2.0"
size = "1 MiB"
full = "1 MiB"
[[class]]
name = "box"
bases = "none"
[[site]]
name = "depot"
devices = {devices}
classes = "box"
[site.lan]
degree_max = {degree}
[site.wan]
rate = "1 Mbit/s"
delay = "50 ms"
[[order]]
release = "2.0"
[[order.phase]]
share = "100 %"
opens = "{end} s"
[polling]
every = "{every}"
jitter = "50 %"
lookout = {lookout}
"""


@dataclass(frozen=True, slots=True)
class Day:
    """Bytes of the site's WAN in a day."""

    down: int
    up: int

    @property
    def both(self) -> int:
        return self.down + self.up


def day(devices: int, every: str, *, lookout: bool, degree: int = 64, seed: int = 1) -> Day:
    """A mean day of a site to which nothing happens, once it has come to rest."""
    begin, end = (RESTED_H, RESTED_H + DAYS * 24) if lookout else (1, 25)
    first, all_ = (_bytes(devices, every, lookout, degree, seed, hours) for hours in (begin, end))
    days = (end - begin) / 24
    return Day(round((all_[0] - first[0]) / days), round((all_[1] - first[1]) / days))


def _bytes(devices: int, every: str, lookout: bool, degree: int, seed: int, hours: int) -> tuple[int, int]:
    text = DOCUMENT.format(
        hours=hours,
        devices=devices,
        degree=degree,
        end=hours * 3600 - 1,
        every=every,
        lookout=str(lookout).lower(),
    )
    scenario = parse_scenario(text.encode(), source="idle-site", directory=Path())
    outcome = world.run(scenario, seed)
    return sum(s.wan_down for s in outcome.sites), sum(s.wan_up for s in outcome.sites)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--every", default="30 min")
    arguments = parser.parse_args()
    one = day(1, arguments.every, lookout=True)
    print(f"{'site':34}  down kB  up kB  both kB  x one device")
    rows = [("1 device", one)]
    rows.append((f"{arguments.devices}, each asks", day(arguments.devices, arguments.every, lookout=False)))
    ours = day(arguments.devices, arguments.every, lookout=True)
    rows.append((f"{arguments.devices}, one asks for all", ours))
    for name, found in rows:
        print(
            f"{name:34}  {found.down / 1e3:7.1f}  {found.up / 1e3:5.0f}  {found.both / 1e3:7.1f}  "
            f"{found.both / one.both:12.2f}"
        )
    ratio = ours.both / one.both
    print(f"goal: at most {GOAL} times one device: {'reached' if ratio <= GOAL else 'MISSED'} ({ratio:.2f})")


if __name__ == "__main__":
    main()
