"""What the agent weighs on its device: memory and processor time at rest, bytes written for an update.

    python -m benchmarks.agent_weight                      (root; 12 minutes, nearly all of them waiting)
    python -m benchmarks.agent_weight --devices 4 --minutes 2 --mib 16
    python -m benchmarks.agent_weight --devices 4 --minutes 0.2 --changed 60 --plain    (a large delta)

Whole agents of one site in network namespaces, each connected to all others, with nothing to install, started
as the unit in `deploy` starts them. Two are there before the others: what one has grown by when these are
connected to it is told as memory of a connection. After the first minute their memory (resident, and
proportional: what is shared with other agents counted once), their processor time and how often they were
woken are read from `/proc`. Then each gets a release that is new to it, a part of it as patches of what it
runs, and what its process had written to the file system is held against the size of the image.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from benchmarks.rig.fleet import Device, Fleet, enroll
from benchmarks.rig.images import edited_image, random_image
from benchmarks.rig.network import SiteNetwork, unavailable
from benchmarks.rig.processes import Children, RigError, until

RATE = 50_000_000
TWO_S, FIRST_S = 30.0, 60.0
POLL_S = 1800
"""As a device asks by default."""
UPDATE_S = 300.0
RESIDENT_GOAL, CORE_GOAL, WRITTEN_GOAL = 48.0, 0.2, 1.05
MIB = 1 << 20
ALL = 100

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Weight:
    """One agent. Memory in MiB, `core` in percent of one, `woken` times an hour (all its threads),
    `written` bytes per byte of the image; `peak` and `after`: memory during the update, and then."""

    device: str
    resident: float
    proportional: float
    private: float
    core: float
    woken: float
    written: float
    peak: float
    after: float


@dataclass(frozen=True, slots=True)
class _Look:
    """What `/proc` says of a process at one time."""

    at: float
    cpu_s: float
    woken: int
    written: int

    @classmethod
    def at_process(cls, pid: int) -> _Look:
        proc = Path(f"/proc/{pid}")
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        woken = sum(_number(task / "status", "voluntary_ctxt_switches") for task in (proc / "task").iterdir())
        written = _number(proc / "io", "write_bytes") - _number(proc / "io", "cancelled_write_bytes")
        return cls(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), woken, written)


@dataclass(frozen=True, slots=True)
class Measured:
    """All agents, and KiB by which one grew for each connection after its first (NaN with only two)."""

    agents: list[Weight]
    connection: float


def measure(
    devices: int, minutes: float, size: int, changed: int, directory: Path, *, plain: bool, full: bool
) -> Measured:
    """Agents at rest for so long, then an update to an image of `size` bytes, so many percent of them new.

    `plain`: compressors halve what is new, else nothing does; `full`: no delta is published. Raises
    `RigError`.
    """
    with ExitStack() as stack:
        children = stack.enter_context(Children(directory / "logs"))
        network = stack.enter_context(SiteNetwork(devices=devices, rate_bit_s=RATE))
        fleet = Fleet(directory / "fleet", children)
        fleet.init()
        _, url = fleet.serve(network.origin.address, prefix=network.origin.prefix)
        old = random_image(directory / "old.img", size, 1)
        new = edited_image(directory / "new.img", old, 2, changed=size * changed // ALL, runs=20, plain=plain)
        release = fleet.publish("2.0", new, [] if full else [old])
        agents = []
        for number, namespace in enumerate(network.devices):
            device = Device(f"box-{number}", "depot", directory / f"box-{number}",
                            prefix=namespace.prefix, host=namespace.address)  # fmt: skip
            device.configure(fleet, url, old, {"coordinator": {"poll_s": POLL_S}})
            agents.append(device)
        enroll(children, zip(agents, fleet.vouchers("depot", devices), strict=True))
        fleet.wake(agents[:2])
        time.sleep(TWO_S)
        two = _resident(agents[0])
        fleet.wake(agents[2:])
        until(
            "the connections of the first agent",
            lambda: len(agents[0].status().get("peers", ())) >= devices - 1,
            FIRST_S,
        )
        time.sleep(FIRST_S)
        connection = 1024 * (_resident(agents[0]) - two) / (devices - 2) if devices > 2 else math.nan
        pids = {a.id: a.child.pid for a in agents if a.child is not None}
        begun = {name: _Look.at_process(pid) for name, pid in pids.items()}
        time.sleep(60 * minutes)
        rested = {name: _Look.at_process(pid) for name, pid in pids.items()}
        memory = {name: Path(f"/proc/{pid}/smaps_rollup") for name, pid in pids.items()}
        sizes = {name: [_number(rollup, key) / 1024 for key in ("Rss", "Pss", "Private_Dirty")]
                 for name, rollup in memory.items()}  # fmt: skip
        fleet.order(release)
        for agent in agents:
            agent.ask_now()
        running = [agent.child for agent in agents if agent.child is not None]
        until(
            "the update of every device",
            lambda: sum(agent.watch(release) for agent in agents) == devices,
            UPDATE_S,
            alive=running,
        )
        wrong = [agent.id for agent in agents if not agent.right(release)]
        if wrong:
            raise RigError(f"{', '.join(wrong)} installed something else")
        found = []
        for name, pid in pids.items():
            first, last = begun[name], rested[name]
            hours = (last.at - first.at) / 3600
            found.append(
                Weight(
                    name,
                    *sizes[name],
                    core=100 * (last.cpu_s - first.cpu_s) / (last.at - first.at),
                    woken=(last.woken - first.woken) / hours,
                    written=(_Look.at_process(pid).written - last.written) / release.size,
                    peak=_number(Path(f"/proc/{pid}/status"), "VmHWM") / 1024,
                    after=_number(Path(f"/proc/{pid}/status"), "VmRSS") / 1024,
                )
            )
        return Measured(found, connection)


def _resident(agent: Device) -> float:
    """MiB of a running agent."""
    if agent.child is None:
        raise RigError(f"{agent.id} does not run")
    return _number(Path(f"/proc/{agent.child.pid}/smaps_rollup"), "Rss") / 1024


def _number(path: Path, key: str) -> int:
    """The number that follows a key in one of the kernel's tables."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RigError(f"{path} does not tell {key}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", default=8, show_default=True, help="Agents at rest beside each other.")
@click.option("--minutes", default=10.0, show_default=True, help="At rest, after the first minute.")
@click.option("--mib", default=64, show_default=True, help="Size of the image.")
@click.option("--changed", type=click.IntRange(1, ALL - 1), default=10, show_default=True,
              metavar="PERCENT", help="Of the image.")  # fmt: skip
@click.option("--plain", is_flag=True, help="Compressors halve what is new; else nothing does.")
@click.option("--full", is_flag=True, help="No delta is published: what stands in the base is looked for.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def main(
    devices: int, minutes: float, mib: int, changed: int, plain: bool, full: bool, as_json: bool
) -> None:
    """Weigh agents at rest, and count what an update writes."""
    reason = unavailable()
    if reason:
        raise click.ClickException(reason)
    with tempfile.TemporaryDirectory(prefix="agent-weight-", dir=".") as directory:
        where = Path(directory).resolve()
        found = measure(devices, minutes, mib * MIB, changed, where, plain=plain, full=full)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    agents = found.agents
    table = Table("", "median", "worst", "goal", "")
    rows = [
        ("resident, MiB", [w.resident for w in agents], RESIDENT_GOAL),
        ("of that its part, MiB", [w.proportional for w in agents], None),
        ("of that written to, MiB", [w.private for w in agents], None),
        ("a connection takes, KiB", [found.connection], None),
        ("% of a core at rest", [w.core for w in agents], CORE_GOAL),
        ("woken in an hour", [w.woken for w in agents], None),
        ("written per byte of the image", [w.written for w in agents], WRITTEN_GOAL),
        ("resident at most, MiB", [w.peak for w in agents], None),
        ("resident after the update, MiB", [w.after for w in agents], None),
    ]
    for what, values, goal in rows:
        worst = max(values)
        goals = ("", "") if goal is None else (f"{goal:g}", "reached" if worst <= goal else "missed")
        table.add_row(what, f"{median(values):,.3g}", f"{worst:,.3g}", *goals)
    out.print(table)


if __name__ == "__main__":
    main()
