"""One node to one or several: MB/s and CPU-seconds per GB, beside libtorrent in the same run.

    python -m benchmarks.peer_throughput [--size-mib 512] [--rounds 3] [--json]
    python -m benchmarks.peer_throughput --receivers 8 --size-mib 128
    python -m benchmarks.peer_throughput --link-mbit 100 --size-mib 64

Each contender is a process that has a file of random bytes, and one or more that fetch, verify and
write it over another file of that size, as into a slot, all on a file system in memory. (Into a new file,
a third of the receiver's time is the kernel finding pages for it, whoever the contender.) Contenders take
turns; medians are compared. Several receivers begin together; their bytes are added up. Slipstream's have
the sender alone to take from; libtorrent's hear of each other and exchange pieces, and where the name says
"sender alone" they are kept from that.

All are on loopback, or with `--link-mbit` (root only) in network namespaces, the sender behind a link of that
rate whose packets have 1,500 bytes and come one by one (`benchmarks.rig.network`). What kernel threads do for
the link is counted for whom they interrupt, if at all.

- `slipstream`: TLS 1.3 both ways with device certificates, the wire codec, 16 wants in flight, SHA-256 of
  every piece before it is written. What runs over the stream is a `Workload` (`benchmarks.peer_workloads`):
  the agent's own connections, serving and storing, or the bare codec to compare with.
- `libtorrent`: tuned (`benchmarks.peer_ends.TUNED`), TCP only, one peer; v1 and v2 torrents, plain and with
  its RC4 encryption forced. It authenticates nobody. The fastest of its variants is what the goal is held
  against; behind a link, where all are as fast as that, the one that takes the least processor time.

Time runs from the first request to the last piece of the last receiver, verified and handed to the file. CPU
is user and system time of all processes over the same span (threads included), per GB received.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.peer_workloads import PIECE, WORKLOADS
from benchmarks.rig.network import SiteNetwork
from benchmarks.rig.network import unavailable as no_network
from coordinator.publishing.authority import FleetAuthority
from p2p.adapters.identity import make_key
from p2p.content.digests import sha256

CHILD_S_MAX = 60.0
GOAL = 2.5
"""Times the bytes a second of the fastest rival, at no more processor time a byte."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the processes run: what to put before the command of each, and where the sender listens."""

    receivers: tuple[tuple[str, ...], ...]
    sender: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    link_mbit: int | None = None

    @classmethod
    def on_loopback(cls, receivers: int) -> Places:
        return cls(((),) * receivers)

    @classmethod
    def across(cls, network: SiteNetwork) -> Places:
        """The sender is where the origin would be, behind the link."""
        receivers = tuple(device.prefix for device in network.devices)
        link_mbit = network.rate_bit_s // 1_000_000
        return cls(receivers, network.origin.prefix, network.origin.address, link_mbit)


def run_slipstream(directory: Path, workload: str, places: Places) -> dict[str, float]:
    """One transfer to each."""
    return _run("slipstream", directory, ["--workload", workload], places)


def run_libtorrent(
    directory: Path, version: str, places: Places, *, encrypted: bool = False, alone: bool = False
) -> dict[str, float]:
    """One transfer to each; `alone`: receivers do not hear of each other."""
    flags = [flag for flag, wanted in (("--encrypted", encrypted), ("--alone", alone)) if wanted]
    torrent = ["--torrent", str(directory / f"{version}.torrent")]
    return _run("libtorrent", directory, torrent + flags, places)


def _run(contender: str, directory: Path, options: list[str], places: Places) -> dict[str, float]:
    """A sender, and receivers that begin when all are ready."""
    common = [str(directory), "--host", places.host, *options]
    receivers = len(places.receivers)
    source = directory / "source"
    targets = [directory / f"receiver-{n}" for n in range(receivers)]
    for target in targets:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        _make_slot(target / "source", source.stat().st_size)
    with ExitStack() as stack:
        sender = stack.enter_context(_child(places.sender, f"{contender}-sender", *common))
        port = _hear(sender)["port"]
        _tell(sender)
        _hear(sender)
        fetchers = [
            stack.enter_context(
                _child(prefix, f"{contender}-fetcher", *common, "--port", str(port), "--target", str(target))
            )
            for prefix, target in zip(places.receivers, targets, strict=True)
        ]
        for fetcher in fetchers:
            _hear(fetcher)
        for fetcher in fetchers:
            _tell(fetcher)
        received = [_hear(fetcher) for fetcher in fetchers]
        _tell(sender)
        sent = _hear(sender)
    for target in targets:
        _same(source, target / "source")
        shutil.rmtree(target)
    gigabytes = receivers * source.stat().st_size / 1e9
    seconds = max(r["ended"] for r in received) - min(r["began"] for r in received)
    return {
        "MB_per_s": gigabytes * 1000 / seconds,
        "send_cpu_s_per_GB": sent["cpu_s"] / gigabytes,
        "receive_cpu_s_per_GB": sum(r["cpu_s"] for r in received) / gigabytes,
    }


def _make_slot(path: Path, size: int) -> None:
    """A file of zeros with all its pages in place."""
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(bytes(min(PIECE, size - start)))


def _same(one: Path, other: Path) -> None:
    if subprocess.run(["cmp", "-s", one, other], check=False).returncode:
        raise SystemExit(f"{other.name}: what arrived is not what was sent")


@contextmanager
def _child(prefix: tuple[str, ...], role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.peer_ends", "--role", role, "--directory", *arguments]
    command = [*prefix, *command]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(CHILD_S_MAX, process.kill)
        watchdog.start()
        try:
            yield process
            process.communicate()
        finally:
            watchdog.cancel()
            process.kill()


def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = _pipe(process.stdout).readline()
    if not line:
        raise SystemExit(f"{process.args}: ended without an answer")
    found: dict[str, Any] = json.loads(line)
    return found


def _tell(process: subprocess.Popen[str]) -> None:
    pipe = _pipe(process.stdin)
    pipe.write("\n")
    pipe.flush()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def prepare(directory: Path, size: int) -> None:
    digests = []
    with (directory / "source").open("wb") as file:
        for _ in range(size // PIECE):
            data = os.urandom(PIECE)
            digests.append(sha256(data).hex())
            file.write(data)
    (directory / "digests").write_text("\n".join(digests))
    make_credentials(directory)


def _make_torrents(directory: Path, piece_size: int) -> None:
    import libtorrent as lt

    for version, flag in (("v1", lt.create_torrent.v1_only), ("v2", lt.create_torrent.v2_only)):
        entry = lt.create_file_entry("source", (directory / "source").stat().st_size)
        torrent = lt.create_torrent([entry], piece_size, flag)
        lt.set_piece_hashes(torrent, str(directory))
        (directory / f"{version}.torrent").write_bytes(lt.bencode(torrent.generate()))


def make_credentials(directory: Path) -> None:
    """A fleet of two devices."""
    now = datetime.now(UTC)
    (directory / "ca").mkdir()
    authority = FleetAuthority.create(directory, None, "benchmark", now)
    for device in ("one", "two"):
        key = make_key(directory / f"{device}.key")
        certificate = authority.issue(key.public_key(), device, "bench", (), now, 30)
        (directory / f"{device}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def measure(
    size: int, rounds: int, workload: str, piece_size: int, directory: Path, places: Places
) -> dict[str, Any]:
    """All contenders in turn, `rounds` times; medians per contender and our ratio to the fastest rival."""
    prepare(directory, size)
    contenders: dict[str, Callable[[], dict[str, float]]] = {
        "slipstream": lambda: run_slipstream(directory, workload, places)
    }
    unavailable = None
    try:
        _make_torrents(directory, piece_size)
    except ImportError as error:
        unavailable = f"libtorrent: {error} (pip install libtorrent)"
    else:
        contenders |= _rivals(directory, places)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            runs[name].append(run())
    medians = {
        name: {key: statistics.median(r[key] for r in of_one) for key in of_one[0]}
        for name, of_one in runs.items()
    }
    rivals = {name: m["MB_per_s"] for name, m in medians.items() if name != "slipstream"}
    fastest = max(rivals, key=lambda name: rivals[name]) if rivals else None
    return {
        "bytes": size,
        "rounds": rounds,
        "receivers": len(places.receivers),
        "link_mbit": places.link_mbit,
        "workload": workload,
        "medians": medians,
        "fastest_rival": fastest,
        "ratio": medians["slipstream"]["MB_per_s"] / rivals[fastest] if fastest else None,
        "goal": GOAL,
        "unavailable": unavailable,
    }


def _rivals(directory: Path, places: Places) -> dict[str, Callable[[], dict[str, float]]]:
    ways: dict[str, dict[str, bool]] = {"": {}, " encrypted": {"encrypted": True}}
    if len(places.receivers) > 1:
        ways[" sender alone"] = {"alone": True}
    return {
        f"libtorrent {version}{name}": partial(run_libtorrent, directory, version, places, **way)
        for version in ("v1", "v2")
        for name, way in ways.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--receivers", type=int, default=1)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="links")
    parser.add_argument("--link-mbit", type=int, metavar="N", help="behind a link of N Mbit/s (root only)")
    parser.add_argument("--torrent-piece-kib", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with ExitStack() as stack:
        places = Places.on_loopback(options.receivers)
        if options.link_mbit is not None:
            least = math.ceil(8 * 1.05 * (options.size_mib << 20) * options.receivers / CHILD_S_MAX / 1e6)
            if options.link_mbit <= least:
                parser.error(
                    f"--link-mbit: more than {least}, or it takes {CHILD_S_MAX:g} s: --size-mib less"
                )
            if reason := no_network():
                parser.error(f"--link-mbit: {reason}")
            network = SiteNetwork(devices=options.receivers, rate_bit_s=options.link_mbit * 1_000_000)
            places = Places.across(stack.enter_context(network))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=in_memory)))
        size, piece_size = options.size_mib << 20, options.torrent_piece_kib << 10
        result = measure(size, options.rounds, options.workload, piece_size, directory, places)
    print(json.dumps(result, indent=2) if options.json else _table(result))


def _cpu_both(median: dict[str, float]) -> float:
    return median["send_cpu_s_per_GB"] + median["receive_cpu_s_per_GB"]


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'':24}{'MB/s':>8}{'CPU s/GB send':>16}{'receive':>10}"]
    for name, median in result["medians"].items():
        sent, received = median["send_cpu_s_per_GB"], median["receive_cpu_s_per_GB"]
        lines.append(f"{name:24}{median['MB_per_s']:8.0f}{sent:16.2f}{received:10.2f}")
    if result["ratio"] is None:
        lines.append(result["unavailable"])
        return "\n".join(lines)
    cpu = {name: _cpu_both(median) for name, median in result["medians"].items()}
    ours, fastest = cpu.pop("slipstream"), result["fastest_rival"]
    least = min(cpu, key=lambda name: cpu[name])
    ratio = f"{result['ratio']:.2f} x {fastest} (goal {result['goal']:g}), at {ours / cpu[fastest]:.2f} x its"
    if result["link_mbit"] is not None:
        ratio = f"as fast as the link at best, at {ours / cpu[least]:.2f} x {least}'s"
    lines.append(f"slipstream is {ratio} processor time per GB of both ends (goal 1)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
