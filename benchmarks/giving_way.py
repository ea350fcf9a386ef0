"""Do updates give way? A device fetches over a shaped link, and another of its site downloads meanwhile.

    python -m benchmarks.giving_way                        (root)
    python -m benchmarks.giving_way --queue 50,400 --congestion bbr --repeat 3

One device fetches as the agent does (`HttpOrigin`, two ranges at a time), another plainly with the machine's
TCP. Both ask one server beyond the same link, whose queue is real (tbf). Three spans are measured, by what
each program received: the update is alone, then the other downloads all it can, then it has stopped. What is
said is ratios: how much of the link's payload rate each had.
"""

from __future__ import annotations

import http.server
import json
import socketserver
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.table import Table

from benchmarks.rig.network import Namespace, SiteNetwork, unavailable
from benchmarks.rig.processes import Child, Children, RigError
from p2p.adapters.background import Background
from p2p.adapters.http import HttpClient
from p2p.adapters.origin import HttpOrigin
from p2p.adapters.url import parse_url
from p2p.content.limits import MIB
from p2p.swarm.courtesy import TARGET_S, Courtesy

PORT = 8080
RATE = 16_000_000
WIRE = 1448 / 1514
"""Payload of a full Ethernet frame."""

PAYLOAD = RATE / 8 * WIRE
FIRST_S = 15.0

ALONE_S, SHARED_S, AFTER_S, SETTLE_S = 8.0, 16.0, 8.0, 3.0
"""The three spans, and how much of the beginning of each does not count: TCP takes so long to share."""

RANGE = 2 * MIB
FETCHES = 2
TELL_S = 0.1

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the link's payload rate, 1.0 being all of it, in each span."""

    queue_ms: float
    congestion: str
    target_ms: float | None
    """None: it does not give way."""
    alone: float
    """The update's while nobody else was there."""
    yielded: float
    """The update's while the other downloaded."""
    other: float
    """The other's meanwhile."""
    after: float
    """The update's when the other had stopped."""


def measure(queue_ms: float, congestion: str, target_s: float | None, logs: Path) -> Shares:
    """One run. Raises `RigError`."""
    with (
        SiteNetwork(
            devices=2, rate_bit_s=RATE, queue_ms=queue_ms, congestion=congestion, far=True
        ) as network,
        Children(logs) as children,
    ):
        updating, other = network.devices
        url = serve(children, network.origin)
        target = "off" if target_s is None else str(target_s)
        fetch = _start(children, "fetch", updating, url, target)
        began = first_at(fetch.log)
        time.sleep(max(0.0, began + ALONE_S - time.monotonic()))
        plain = download(children, other, url)
        joined = first_at(plain.log)
        time.sleep(max(0.0, joined + SHARED_S - time.monotonic()))
        left = time.monotonic()
        plain.kill()
        time.sleep(AFTER_S)
        ended = time.monotonic()
        spans = ((began + SETTLE_S, joined), (joined + SETTLE_S, left), (left + SETTLE_S, ended))
        update = samples(fetch.log)
        alone, yielded, after = (rate(update, *span, PAYLOAD) for span in spans)
        return Shares(
            queue_ms,
            congestion,
            None if target_s is None else target_s * 1000,
            alone,
            yielded,
            rate(samples(plain.log), *spans[1], PAYLOAD),
            after,
        )


def serve(children: Children, where: Namespace) -> str:
    """Start a server of zeros; returns its URL."""
    _start(children, "serve", where)
    time.sleep(1.0)
    return f"http://{where.address}:{PORT}"


def download(children: Children, where: Namespace, url: str) -> Child:
    """Start a download that never ends."""
    return _start(children, "download", where, url)


def _start(children: Children, role: str, where: Namespace, *arguments: str) -> Child:
    command = [sys.executable, "-m", "benchmarks.giving_way", "--as", role, *arguments]
    return children.start(role, command, prefix=where.prefix)


def first_at(log: Path) -> float:
    """When the first bytes came, as `time.monotonic` has it."""
    until = time.monotonic() + FIRST_S
    while time.monotonic() < until:
        if log.exists() and (found := samples(log)):
            return found[0][0]
        time.sleep(0.05)
    raise RigError(f"nothing came; see {log}")


def samples(log: Path) -> list[tuple[float, int]]:
    """Times, and the bytes that had come since the one before."""
    found = []
    for line in log.read_text().splitlines():
        at, _, count = line.partition(" ")
        if count.isdecimal():
            found.append((float(at), int(count)))
    return found


def rate(found: Sequence[tuple[float, int]], since: float, until: float, payload: float) -> float:
    """Share of a link that carries `payload` bytes per second."""
    return sum(count for at, count in found if since < at <= until) / (until - since) / payload


# What runs inside the namespaces


class _Zeros(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        block = bytes(64 << 10)
        asked = self.headers.get("Range")
        if asked is None:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            while True:
                self.wfile.write(block)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        size = int(last) + 1 - int(first)
        self.send_response(206)
        self.send_header("Content-Length", str(size))
        self.send_header("Content-Range", f"bytes {first}-{last}/*")
        self.end_headers()
        while size:
            size -= self.wfile.write(block[:size])

    def log_message(self, *_: object) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up


def _told() -> Callable[[int], None]:
    """Adds up what comes and prints it now and then."""
    count, at = 0, time.monotonic()

    def came(size: int) -> None:
        nonlocal count, at
        count += size
        now = time.monotonic()
        if now - at >= TELL_S:
            print(f"{now:.3f} {count}", flush=True)
            count, at = 0, now

    return came


async def _download(url: str) -> None:
    client, came = HttpClient(), _told()
    async with client.request("GET", parse_url(url)) as response:
        async for part in response:
            came(len(part))


async def _fetch(url: str, target: str) -> None:
    background = None
    if target != "off":
        background = Background(courtesy=lambda: Courtesy(float(target)))
    origin = HttpOrigin(url, HttpClient(background=background))
    came = _told()

    async def ranges() -> None:
        while True:
            async with origin.stream(bytes(32), 0, RANGE) as parts:
                async for part in parts:
                    came(len(part))

    async with trio.open_nursery() as nursery:
        for _ in range(FETCHES):
            nursery.start_soon(ranges)


def _inside(role: str, *arguments: str) -> None:
    if role == "serve":
        _Server(("", PORT), _Zeros).serve_forever()
    elif role == "fetch":
        trio.run(_fetch, *arguments)
    else:
        trio.run(_download, *arguments)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--queue", default="50,100,400", show_default=True, metavar="LIST", help="Queues, milliseconds."
)
@click.option("--congestion", default="cubic,bbr", show_default=True, metavar="LIST", help="TCP, both ways.")
@click.option(
    "--target", default=f"off,{TARGET_S * 1000:g}", show_default=True, metavar="LIST", help="Milliseconds."
)
@click.option("--repeat", default=1, show_default=True, help="Runs of each.")
@click.option("--json", "as_json", is_flag=True, help="Every run as JSON.")
@click.option("--as", "role", hidden=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(
    queue: str,
    congestion: str,
    target: str,
    repeat: int,
    as_json: bool,
    role: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Measure how much of a link an update leaves to others, and how much it takes when it is alone."""
    if role is not None:
        _inside(role, *arguments)
        return
    if arguments:
        raise click.UsageError(f"unexpected: {' '.join(arguments)}")
    reason = unavailable()
    if reason:
        raise click.ClickException(reason)
    runs: list[Shares] = []
    with tempfile.TemporaryDirectory(prefix="giving-way-") as directory:
        cases = [
            (float(q), c, None if t == "off" else float(t) / 1000)
            for c in congestion.split(",")
            for q in queue.split(",")
            for t in target.split(",")
        ]
        for number, case in enumerate(case for case in cases for _ in range(repeat)):
            runs.append(measure(*case, Path(directory) / str(number)))
    if as_json:
        print(json.dumps([asdict(run) for run in runs]))
        return
    table = Table("TCP", "queue", "target", "update alone", "update beside it", "the other", "update after")
    for run in runs:
        table.add_row(
            run.congestion,
            f"{run.queue_ms:g} ms",
            "off" if run.target_ms is None else f"{run.target_ms:g} ms",
            *(f"{share:.0%}" for share in (run.alone, run.yielded, run.other, run.after)),
        )
    out.print(table)


if __name__ == "__main__":
    main()
