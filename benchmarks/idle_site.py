"""What an idle site costs a day: bytes on its WAN wire, both ways, simulated with the real code.

    python -m benchmarks.idle_site [--devices 100] [--every "30 min"]

The mean of days 11 to 13 is taken: the questions that each device asks by itself now and then, with a TLS
handshake of its own, do not come before. Where each asks for itself it is the first day after the first hour.
The goal: a site of 100 devices that poll every 30 minutes costs at most 1.5 times what one device does.
"""

from __future__ import annotations

import argparse

from benchmarks.rig.calm_site import CalmSite, Crossed

GOAL = 1.5
RESTED_H, DAYS = 240, 3


def day(site: CalmSite, seed: int = 1) -> Crossed:
    """A mean day of a site to which nothing happens, once it has come to rest."""
    begin, end = (RESTED_H, RESTED_H + DAYS * 24) if site.lookout else (1, 25)
    first, all_ = (site.crossed(hours * 3600, seed) for hours in (begin, end))
    days = (end - begin) / 24
    return Crossed(round((all_.down - first.down) / days), round((all_.up - first.up) / days), all_.done)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--every", default="30 min")
    arguments = parser.parse_args()
    n, every = arguments.devices, arguments.every
    one = day(CalmSite(1, every))
    print(f"{'site':34}  down kB  up kB  both kB  x one device")
    rows = [("1 device", one)]
    rows.append((f"{n}, each asks", day(CalmSite(n, every, lookout=False))))
    ours = day(CalmSite(n, every))
    rows.append((f"{n}, one asks for all", ours))
    for name, found in rows:
        print(
            f"{name:34}  {found.down / 1e3:7.1f}  {found.up / 1e3:5.0f}  {found.both / 1e3:7.1f}  "
            f"{found.both / one.both:12.2f}"
        )
    ratio = ours.both / one.both
    print(f"goal: at most {GOAL} times one device: {'reached' if ratio <= GOAL else 'MISSED'} ({ratio:.2f})")


if __name__ == "__main__":
    main()
