"""What a small update costs a site on its WAN wire, everything counted, simulated with the real code.

    python -m benchmarks.small_update [--devices 24,500] [--delta "100 KiB"]

A site whose devices have been up for three hours gets a release of which it needs one delta. Counted is all
that crosses its WAN, both ways, from the order on for two hours: metadata, index, frames, TLS, polls, and all
check-ins and reports. What it would have asked without a release is in it, and shown. The goal is at most 1.3
times the pack with 24 devices, and twice the pack with 500.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sim import world
from sim.scenario import quantities
from sim.scenario.reading import parse_scenario

GOALS = {24: 1.3, 500: 2.0}
DOCUMENT = """
duration = "{duration} s"
[[release]]
name = "2.0"
size = "32 MiB"
full = "16 MiB"
[[release.delta]]
base = "1.0"
stored = "{delta}"
patched = "10 %"
[[class]]
name = "box"
bases = "1.0"
[[site]]
name = "depot"
devices = {devices}
classes = "box"
[site.wan]
rate = "1 Mbit/s"
delay = "50 ms"
[[release]]
name = "3.0"
size = "1 MiB"
full = "1 MiB"
[[order]]
release = "2.0"
[[order.phase]]
share = "100 %"
opens = "{opens} s"
[[order]]
release = "3.0"
[[order.phase]]
share = "100 %"
opens = "{last} s"
[polling]
every = "30 min"
jitter = "50 %"
"""
"""The second order comes in the last second of each run, which would end before reports are in otherwise."""

OPENS_S, AFTER_S = 3 * 3600, 2 * 3600


def cost(devices: int, delta: str, seed: int) -> tuple[int, int, int]:
    """Bytes of the WAN, both ways, from the order on; of the same time at rest; devices that are done."""

    def run(opens_s: int, duration_s: int) -> tuple[int, int]:
        text = DOCUMENT.format(
            devices=devices, delta=delta, opens=opens_s, duration=duration_s, last=duration_s - 1
        )
        found = world.run(parse_scenario(text.encode(), source="small-update", directory=Path()), seed)
        done = sum(d.finished_s is not None for d in found.devices)
        return sum(s.wan_down + s.wan_up for s in found.sites), done

    end = OPENS_S + AFTER_S
    before, _ = run(OPENS_S - 1, OPENS_S)
    rest, _ = run(end - 1, end)
    total, done = run(OPENS_S, end)
    return total - before, rest - before, done


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", default="24,500")
    parser.add_argument("--delta", default="100 KiB")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    pack = quantities.size(arguments.delta)
    if not pack:
        parser.error(f"--delta {arguments.delta}: not a size such as '100 KiB'")
    print(f"{'devices':>8}  done  bytes kB  at rest kB  x the pack  goal")
    for devices in map(int, arguments.devices.split(",")):
        spent, rest, done = cost(devices, arguments.delta, arguments.seed)
        ratio, goal = spent / pack, GOALS.get(devices)
        verdict = "" if goal is None else f"{goal}: {'reached' if ratio <= goal else 'MISSED'}"
        print(f"{devices:8}  {done:4}  {spent / 1e3:8.1f}  {rest / 1e3:10.1f}  {ratio:10.2f}  {verdict}")


if __name__ == "__main__":
    main()
