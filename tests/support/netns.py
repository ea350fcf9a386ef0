"""Sites in network namespaces for tests: a published release, and a site whose devices run it in.

The rig is the benchmarks' (`benchmarks.rig`); here it is only arranged for short tests. A release is made
once per test module, a network and its devices once per test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig.fleet import Device, Fleet, Release, enroll
from benchmarks.rig.network import QUEUE_MS, SiteNetwork, WireBytes
from benchmarks.rig.processes import Children, until

DEVICES = 4
FINISH_S = 90
"""Far more than any of these takes; only a site that hangs comes near it."""


@dataclass
class Published:
    """A repository with one release that nobody is ordered to install yet, and what devices hold."""

    fleet: Fleet
    release: Release
    bases: Sequence[Path]


@dataclass
class RunningSite:
    """A site whose devices have been at work before and now have an order."""

    network: SiteNetwork
    children: Children
    devices: list[Device]
    release: Release
    before: WireBytes

    def start(self) -> None:
        self.before = self.network.wire_bytes()
        for device in self.devices:
            device.start(self.children)

    @property
    def wire(self) -> int:
        """Bytes into the site since `start`, Ethernet headers included."""
        return (self.network.wire_bytes() - self.before).down

    def finish(self, devices: Sequence[Device] | None = None) -> None:
        """Wait until they have committed."""
        waited_for = list(self.devices if devices is None else devices)
        self.wait("end of the update", lambda: all(device.watch(self.release) for device in waited_for))

    def wait(self, what: str, happened: Callable[[], bool]) -> None:
        alive = [device.child for device in self.devices if device.child is not None]
        until(what, happened, FINISH_S, alive=alive)

    def all_right(self, devices: Sequence[Device] | None = None) -> bool:
        return all(device.right(self.release) for device in (self.devices if devices is None else devices))

    def ledger(self, device: Device) -> dict[str, int]:
        found = device.status()["ledger"]
        return {"wan": found["wan"], "peers": sum(found["peers"].values()), "wasted": found["wasted"]}


@contextmanager
def running_site(
    published: Published,
    directory: Path,
    *,
    rate_bit_s: int,
    devices: int = DEVICES,
    queue_ms: float = QUEUE_MS,
    far: bool = False,
) -> Iterator[RunningSite]:
    """A network, its coordinator and enrolled devices, each on the next of the published bases."""
    with ExitStack() as stack:
        network = stack.enter_context(
            SiteNetwork(devices=devices, rate_bit_s=rate_bit_s, queue_ms=queue_ms, far=far)
        )
        children = stack.enter_context(Children(directory / "logs"))
        fleet = Fleet(published.fleet.directory, children)
        _, url = fleet.serve(network.origin.address, prefix=network.origin.prefix)
        made = []
        for number, namespace in enumerate(network.devices):
            name = f"{directory.name}-{number + 1}"
            device = Device(
                name, directory.name, directory / name, prefix=namespace.prefix, host=namespace.address
            )
            factory: Path | bytes = b"factory\n"
            if published.bases:
                factory = published.bases[number % len(published.bases)]
            device.configure(fleet, url, factory)
            made.append(device)
        enroll(children, zip(made, fleet.vouchers(directory.name, len(made)), strict=True))
        fleet.introduce(made)
        fleet.order(published.release, directory.name)
        yield RunningSite(network, children, made, published.release, network.wire_bytes())
