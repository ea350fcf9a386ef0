"""How the swarm holds over random sites: devices, bases, lost gateways, hostile peers, a crowd, a van.

    python -m benchmarks.strength                     # every group, the number of sites that CI can afford
    python -m benchmarks.strength --sites 100         # as many random sites of each group
    python -m benchmarks.strength --only hostile --seed 7 --sites 1 --json

Each group draws sites from a seed and runs the real code on them in virtual time (`sim.world`), held to
every rule of `sim.checks`. It prints the median and the worst beside the goal, and the seed of the worst:
the same seed draws the same site again. Exit code 1: a run broke a rule, or a device did not finish.

- **frames**: stored frame bytes that crossed the WAN, per byte of the smallest pack (index and frames) that
  one of the devices could have used; **wire**: everything that crossed it towards the site (TLS, metadata,
  polls, check-ins, acknowledgements, headers of Ethernet, IP and TCP), per byte of the same with manifest.
- **contacts**: with a van of five-minute stops between two sites without a WAN, how many more stops than the
  bytes of one image need at the rate of the local network.
- The price of the headers alone is 1.046 of every figure on the wire.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from p2p.content.limits import KIB, MIB
from sim.checks.checked import run_checked
from sim.outcome import RunOutcome
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Fault,
    FaultKind,
    Lan,
    Manner,
    Order,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    Stop,
    SyntheticRelease,
    Uptime,
    Wan,
    Who,
)

BASES_MAX = 8
MIXED = tuple(manner for manner in Manner if manner is not Manner.FLOOD)
CROWD = 500
CROWD_STARTS_S = 30.0
ROUND_S, CONTACT_S = 3600.0, 300.0
"""A van comes by once an hour, for five minutes."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to. `paid`: stored frames per byte of the smallest usable pack; `ideal_s`: when the
    last device has started, or that pack has crossed the link after the first has, whichever is later."""

    group: str
    seed: int
    devices: int
    paid: float
    wire: float
    seconds: float
    ideal_s: float
    unfinished: int
    broke: tuple[str, ...]
    contacts: int | None = None
    """More than the fewest that the bytes allow, at the site that needed most."""


# Sites


def any_site(seed: int, devices: int) -> Scenario:
    """Devices of 1 to 8 different bases, of which none, some or all have a published delta."""
    rng = random.Random(f"strength/{devices}/{seed}")
    bases = [f"base-{n}" for n in range(rng.randint(1, min(BASES_MAX, devices)))]
    known = rng.choice((0.0, 0.5, 1.0))
    size = _log_uniform(rng, 4 * MIB, (16 if devices > 100 else 48) * MIB) // KIB * KIB
    full = int(size * rng.uniform(0.4, 1.0))
    deltas = tuple(
        DeltaSpec(base, max(64 * KIB, int(full * rng.uniform(0.02, 0.3))), rng.uniform(0.3, 0.9))
        for base in bases
        if rng.random() < known
    )
    published = [delta.base for delta in deltas]
    shares: dict[str, float] = {}
    for base in bases:
        name = base if base in published else NO_BASE
        shares[name] = shares.get(name, 0.0) + 1 / len(bases)
    device = DeviceClass("device", {base: round(n, 4) for base, n in shares.items()}, reboot_s=0.0)
    rate = float(_log_uniform(rng, 60_000, 2_500_000))
    return _site(f"site-{devices}-{seed}", device, devices, SyntheticRelease("new", size, full, deltas),
                 Wan(rate, delay_s=rng.choice((0.01, 0.05, 0.3))), at_rest=rng.random() < 0.5)  # fmt: skip


def killed_site(seed: int) -> Scenario:
    """A gateway, the busiest, goes for good at any moment of an image of at least 24 MiB."""
    rng = random.Random(f"strength/killed/{seed}")
    size = _log_uniform(rng, 24 * MIB, 64 * MIB) // KIB * KIB
    device = DeviceClass("device", {NO_BASE: 1.0}, reboot_s=0.0)
    rate = float(_log_uniform(rng, 250_000, 2_500_000))
    site = _site(f"killed-{seed}", device, rng.choice((3, 8, 24)), SyntheticRelease("new", size, size),
                 Wan(rate, delay_s=0.02), at_rest=True)  # fmt: skip
    fault = Fault(FaultKind.LEAVE, at_s=rng.uniform(1.0, size / rate), who=Who.GATEWAY)
    return replace(site, faults=(fault,))


def hostile_site(seed: int) -> Scenario:
    """Nine of ten peers are hostile, in any mix of manners."""
    rng = random.Random(f"strength/hostile/{seed}")
    devices = rng.choice((10, 10, 20))
    size = _log_uniform(rng, 8 * MIB, 32 * MIB) // KIB * KIB
    delta = DeltaSpec("old", max(512 * KIB, size // 10), 0.6)
    device = DeviceClass("device", rng.choice(({NO_BASE: 1.0}, {"old": 1.0})), reboot_s=0.0)
    rate = float(_log_uniform(rng, 250_000, 2_500_000))
    site = _site(f"hostile-{seed}", device, devices, SyntheticRelease("new", size, size, (delta,)),
                 Wan(rate, delay_s=0.02), at_rest=rng.random() < 0.5)  # fmt: skip
    counts: dict[Manner, int] = {}
    for _ in range(devices * 9 // 10):
        manner = rng.choice(MIXED)
        counts[manner] = counts.get(manner, 0) + 1
    faults = tuple(Fault(FaultKind.HOSTILE, manner=manner, count=n) for manner, n in counts.items())
    return replace(site, faults=faults)


def crowd_site(seed: int) -> Scenario:
    """Power comes back: 500 devices with few connections each start within half a minute."""
    rng = random.Random(f"strength/crowd/{seed}")
    size = _log_uniform(rng, 8 * MIB, 24 * MIB) // KIB * KIB
    device = DeviceClass("device", {NO_BASE: 1.0}, uptime=Uptime(start_spread_s=CROWD_STARTS_S), reboot_s=0.0)
    rate = float(_log_uniform(rng, 60_000, 500_000))
    return _site(f"crowd-{seed}", device, CROWD, SyntheticRelease("new", size, size),
                 Wan(rate, delay_s=0.02), at_rest=False)  # fmt: skip


def van_sites(seed: int) -> Scenario:
    """Two sites without a WAN, and a van that fetches in a depot and stops at each for five minutes."""
    rng = random.Random(f"strength/van/{seed}")
    size = _log_uniform(rng, 8 * MIB, 96 * MIB) // KIB * KIB
    lan = Lan(rate=float(_log_uniform(rng, 100_000, 1_000_000)), delay_s=0.002)
    devices = rng.randint(2, 8)
    wan = Wan(2_500_000.0, delay_s=0.02)
    stops = (
        Stop(0.0, 0.25 * ROUND_S, None, wan),
        Stop(0.4 * ROUND_S, CONTACT_S, "island/0"),
        Stop(0.6 * ROUND_S, CONTACT_S, "island/1"),
    )
    return Scenario(
        name=f"van-{seed}",
        description="Two random sites of the strength benchmark, and a van.",
        duration_s=30 * ROUND_S,
        releases=(SyntheticRelease("new", size, size),),
        classes=(
            DeviceClass("device", {NO_BASE: 1.0}, reboot_s=0.0),
            DeviceClass("carrier", {NO_BASE: 1.0}, reboot_s=0.0, carrier=True),
        ),
        sites=(
            SiteGroup("island", 2, SiteSize(low=devices, high=devices), {"device": 1.0}, lan),
            SiteGroup("van", 1, SiteSize(low=1, high=1), {"carrier": 1.0}, lan, None, stops, ROUND_S),
        ),
        orders=(Order("new"),),
        polling=Polling(300.0),
    )


def contacts_over(scenario: Scenario, outcome: RunOutcome) -> int:
    """How many more stops than the bytes need, at the site that needed most."""
    island, van = scenario.sites
    fewest = math.ceil(scenario.releases[0].size / (island.lan.rate * CONTACT_S))
    over = []
    for number, stop in enumerate(van.timetable[1:]):
        here = [d.verified_s or math.inf for d in outcome.devices if d.site == f"island/{number}"]
        last = max(here)
        made = math.inf if last == math.inf else 1 + int((last - stop.at_s) / ROUND_S)
        over.append(made - fewest)
    return int(min(max(over), 999))


def _site(
    name: str, device: DeviceClass, devices: int, release: SyntheticRelease, wan: Wan, *, at_rest: bool
) -> Scenario:
    lan = Lan(rate=125e6, degree_max=32)
    size = SiteSize(low=devices, high=devices)
    return Scenario(
        name=name,
        description="A random site of the strength benchmark.",
        duration_s=7200.0 + 8 * release.full_stored / wan.rate,
        releases=(release,),
        classes=(device,),
        sites=(SiteGroup("site", 1, size, {device.name: 1.0}, lan, wan),),
        orders=(Order(release.name),),
        polling=Polling(600.0, at_rest=at_rest),
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Sites of one kind. `share`: of the `--sites` asked for, as large ones take longer."""

    name: str
    make: Callable[[int], Scenario]
    goal: float
    of_time: bool = False
    of_contacts: bool = False
    share: float = 1.0


def _sized(devices: int) -> Callable[[int], Scenario]:
    return lambda seed: any_site(seed, devices)


GROUPS = (
    Group("2 devices", _sized(2), 1.05),
    Group("8 devices", _sized(8), 1.05),
    Group("24 devices", _sized(24), 1.05),
    Group("500 devices", _sized(500), 1.05, share=0.1),
    Group("gateway lost", killed_site, 1.10),
    Group("nine of ten hostile", hostile_site, 1.10),
    Group("crowd of 500", crowd_site, 1.25, of_time=True, share=0.1),
    Group("van, two islands", van_sites, 1, of_contacts=True),
)


# Running


def run(group: str, seed: int) -> Figures:
    """One site, in a process of its own."""
    scenario = next(g for g in GROUPS if g.name == group).make(seed)
    outcome = run_checked(scenario, seed)
    honest = [d for d in outcome.devices if d.state != "hostile"]
    staying = [d for d in honest if d.state != "down"]
    site = outcome.sites[-1]
    floor = site.floor_bytes or 0
    release = scenario.releases[0]
    assert isinstance(release, SyntheticRelease)
    packs = {delta.base: delta.stored for delta in release.deltas}
    least = min(packs.get(d.base, release.full_stored) for d in honest)
    verified = [d.verified_s for d in staying if d.verified_s is not None]
    starts = [max(0.0, d.started_s) for d in honest if d.started_s is not None]
    wan = scenario.sites[-1].wan or scenario.sites[-1].timetable[0].wan
    assert wan is not None
    return Figures(
        group, seed, len(outcome.devices),
        paid=sum(d.frames_wan for d in honest) / least,
        wire=site.wan_down / floor if floor else math.nan,
        seconds=max(verified, default=math.nan),
        ideal_s=max(max(starts), min(starts) + least / wan.rate),
        unfinished=len(staying) - len(verified),
        broke=tuple(f"{v.check}: {v.message}" for v in outcome.violations),
        contacts=contacts_over(scenario, outcome) if scenario.sites[-1].timetable else None,
    )  # fmt: skip


def measure(groups: tuple[Group, ...], first: int, sites: int, jobs: int) -> list[Figures]:
    """All runs, in the order of groups and seeds."""
    todo = [(g.name, first + n) for g in groups for n in range(max(1, round(sites * g.share)))]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run, *one) for one in todo]
        done = track(as_completed(waiting), "sites", total=len(waiting), console=Console(stderr=True))
        found = {(f.group, f.seed): f for f in (future.result() for future in done)}
    return [found[one] for one in todo]


def table(groups: tuple[Group, ...], found: list[Figures]) -> Table:
    """Median and worst of each group."""
    made = Table("group", "sites", "frames: median", "worst (seed)", "wire: median", "worst (seed)",
                 "seconds over the bound: median", "worst (seed)", "goal", "")  # fmt: skip
    for group in groups:
        runs = [f for f in found if f.group == group.name]
        times = _spread(runs, lambda f: f.seconds - f.ideal_s, digits=1)
        frames = _spread(runs, lambda f: f.paid)
        if group.of_contacts:
            worst, what = max(float(f.contacts or 0) for f in runs), "contacts more than the fewest"
        elif group.of_time:
            worst, what = max(f.seconds / f.ideal_s for f in runs), "time ÷ bound"
        else:
            worst, what = max(f.paid for f in runs), "frames"
        goal = f"{what} ≤ {group.goal}"
        reached = f"{'reached' if worst <= group.goal else 'missed'}: {worst:.3g}"
        made.add_row(
            group.name, str(len(runs)), *frames, *_spread(runs, lambda f: f.wire), *times, goal, reached
        )
    return made


def _spread(runs: list[Figures], value: Callable[[Figures], float], digits: int = 3) -> tuple[str, str]:
    worst = max(runs, key=value)
    return f"{statistics.median(map(value, runs)):.{digits}f}", f"{value(worst):.{digits}f} ({worst.seed})"


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


@click.command(help=__doc__)
@click.option("--only", help="Groups whose names contain this, comma-separated.")
@click.option("--sites", default=10, show_default=True, help="Random sites of each group.")
@click.option("--seed", "first", default=0, show_default=True, help="The first seed.")
@click.option("--jobs", default=1, show_default=True, help="Processes at once.")
@click.option("--json", "as_json", is_flag=True, help="Every run, as JSON lines.")
def main(only: str | None, sites: int, first: int, jobs: int, as_json: bool) -> None:
    wanted = [part.strip() for part in (only or "").split(",")]
    groups = tuple(g for g in GROUPS if any(part in g.name for part in wanted))
    if not groups:
        raise click.BadParameter(f"no group of {', '.join(g.name for g in GROUPS)}", param_hint="--only")
    found = measure(groups, first, sites, jobs)
    if as_json:
        for one in found:
            click.echo(json.dumps({name: getattr(one, name) for name in Figures.__slots__}))
    else:
        out.print(table(groups, found))
    wrong = [f for f in found if f.broke or f.unfinished]
    for one in wrong:
        said = "; ".join((f"{one.unfinished} not finished", *one.broke))
        click.echo(f"{one.group}, seed {one.seed}: {said}", err=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
