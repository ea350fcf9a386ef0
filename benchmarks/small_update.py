"""What a small update costs a site on its WAN wire, everything counted, simulated with the real code.

    python -m benchmarks.small_update [--devices 24,500] [--delta "100 KiB"] [--seeds 1-8]

A site whose devices have been up for three hours gets a release of which it needs one delta. Counted is all
that crosses its WAN, both ways, from the order on for two hours: metadata, index, frames, TLS, polls, and all
check-ins and reports. What it would have asked without a release is in it, and shown. The goal is at most 1.3
times the pack with 24 devices, and twice the pack with 500.
"""

from __future__ import annotations

import argparse

from benchmarks.rig.calm_site import CalmSite
from sim.scenario import quantities

GOALS = {24: 1.3, 500: 2.0}
OPENS_S, AFTER_S = 3 * 3600, 2 * 3600


def cost(devices: int, delta: str, seed: int) -> tuple[int, int, int]:
    """Bytes of the WAN, both ways, from the order on; of the same time at rest; devices that are done."""
    end = OPENS_S + AFTER_S
    before = CalmSite(devices, delta=delta, opens_s=OPENS_S - 1).crossed(OPENS_S, seed)
    rest = CalmSite(devices, delta=delta, opens_s=end - 1).crossed(end, seed)
    all_ = CalmSite(devices, delta=delta, opens_s=OPENS_S).crossed(end, seed)
    return all_.both - before.both, rest.both - before.both, all_.done


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", default="24,500")
    parser.add_argument("--delta", default="100 KiB")
    parser.add_argument("--seeds", default="1", help="'1' or '1-8': the mean is compared with the goal")
    arguments = parser.parse_args()
    pack = quantities.size(arguments.delta)
    if not pack:
        parser.error(f"--delta {arguments.delta}: not a size such as '100 KiB'")
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    print(f"{'devices':>8}  done  bytes kB  at rest kB  x the pack  worst  goal")
    for devices in map(int, arguments.devices.split(",")):
        found = [cost(devices, arguments.delta, seed) for seed in seeds]
        spent, rest = (sum(one[n] for one in found) / len(found) for n in (0, 1))
        done, worst = min(one[2] for one in found), max(one[0] for one in found) / pack
        ratio, goal = spent / pack, GOALS.get(devices)
        verdict = "" if goal is None else f"{goal}: {'reached' if ratio <= goal else 'MISSED'}"
        print(
            f"{devices:8}  {done:4}  {spent / 1e3:8.1f}  {rest / 1e3:10.1f}  {ratio:10.2f}  {worst:5.2f}  "
            f"{verdict}"
        )


if __name__ == "__main__":
    main()
