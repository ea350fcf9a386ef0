"""One device alone with an origin: its life with the real code, and a swarm that just writes images."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec, encode_manifest
from p2p.content.order import Member
from p2p.errors import LocalError, OriginError, SlipstreamError
from p2p.install import Release
from p2p.swarm.events import ImageTask
from p2p.trust import Decision, Meant
from sim.world.boot import PAYLOAD, Machine
from sim.world.character import Character
from sim.world.disk import VirtualDisk
from sim.world.kernel import Kernel
from sim.world.lifecycle import Lifecycle
from sim.world.medium import content
from sim.world.metadata import Answer, Then
from sim.world.trust import DeviceClock, RememberingReader, VirtualRepository
from sim.world.witness import Making, Witness

SIZE = 1_000_000
PIECE = 100_000
PIECE_S = 0.5
REBOOT_S = 20.0
BASE = sha256(b"image 1")
READER = RememberingReader()


def manifest(version: int = 2, *, size: int = SIZE, hardware: str = "board") -> Manifest:
    image = ObjectRef(sha256(f"image {version}".encode()), size)
    return Manifest(
        "gw",
        f"{version}",
        version,
        (hardware,),
        (PayloadSpec(PAYLOAD, "rootfs-image", image, (PackRef(None, image, image),)),),
    )


class Log(Witness):
    """Remembers all, and holds every step to what must always be so."""

    def __init__(self, repository: VirtualRepository) -> None:
        self.repository = repository
        self.lines: list[str] = []
        self.floor = 0
        self.grounds: dict[Digest, Meant] = {}
        self.refusals: list[str] = []
        self.decisions: list[Decision] = []
        self.committed_counter = 0

    def turned(self, device: str, state: str, reason: str) -> None:
        self.lines.append(state)

    def booted(self, device: str, slot: str | None, right: bool) -> None:
        assert slot is not None
        assert right, f"{device} runs slot {slot}, which holds no whole image"
        self.lines.append(f"booted {slot}")

    def decided(self, device: str, decision: Decision) -> None:
        self.decisions.append(decision)

    def refused(self, device: str, error: SlipstreamError) -> None:
        self.refusals.append(getattr(error, "reason", type(error).__name__))

    def begun(self, device: str, meant: Meant) -> None:
        objects = self.repository.objects
        assert sha256(encode_manifest(meant.manifest)) == meant.manifest_digest == meant.order.manifest
        assert meant.manifest_digest in objects
        assert meant.order_digest in objects
        self.grounds[meant.manifest_digest] = meant

    def installed(self, device: str, release: Release, slot: str, right: bool) -> None:
        assert right
        assert release.manifest in self.grounds
        self.lines.append(f"installed {slot}")

    def committed(self, device: str, release: Release | None, slot: str) -> None:
        assert release is not None
        assert release.manifest in self.grounds
        self.committed_counter = max(self.committed_counter, release.counter)
        self.lines.append(f"committed {release.version} {slot}")

    def rolled_back(self, device: str, manifest: Digest, reason: str) -> None:
        assert manifest in self.grounds
        self.lines.append(f"rolled back: {reason}")

    def floor_moved(self, device: str, product: str, old: int, new: int) -> None:
        assert new > old, "the floor fell"
        self.floor = new
        self.lines.append(f"floor {new}")

    def power_lost(self, device: str) -> None:
        self.lines.append("power lost")


class Origin:
    """What the device can reach. `stale`: metadata files that are served in place of the newest."""

    def __init__(self, repository: VirtualRepository) -> None:
        self.repository = repository
        self.down = False
        self.out: set[str] = set()
        """Metadata that it does not give just now."""
        self.stale: dict[str, bytes] = {}
        self.asked: list[str] = []


class LoneSwarm:
    """A `Swarm` with an origin and no peers, but for `peers`: device to the files that it gives."""

    def __init__(self, kernel: Kernel, origin: Origin) -> None:
        self.kernel = kernel
        self.origin = origin
        self.peers: dict[str, dict[str, bytes]] = {}
        self.claims: dict[str, tuple[int, int]] = {}
        self.serving: dict[Digest, str] = {}
        self.held: dict[str, int] = {}
        self.life: Lifecycle | None = None
        self.spoil: Callable[[int], bool] = lambda offset: False
        self.makings: list[Digest] = []
        self.told = 0
        """How often the site was told that the origin has nothing newer."""
        self._generation = 0

    @property
    def news(self) -> Mapping[str, tuple[int, int]]:
        return self.claims

    def started(self) -> None:
        self._generation += 1

    def stopped(self, why: str) -> None:
        self._generation += 1
        self.serving.clear()

    def again(self) -> None:
        self.kernel.after(REBOOT_S, self._start, self._generation)

    def _start(self, generation: int) -> None:
        if generation == self._generation and self.life is not None:
            self.life.power_on()

    def polled(self) -> None: ...

    def answered(self) -> None:
        self.told += 1

    told_of_origin = False

    def asks_at(self, asked_at: float, pause_s: float, jitter: float) -> float:
        return asked_at + pause_s * (0.5 + jitter)

    def before_reboot(self, images: tuple[Digest, ...], then: Callable[[], None]) -> None:
        then()

    def object(self, digest: Digest, size: int, path: str, then: Then) -> None:
        self._answer(None if self.origin.down else self.origin.repository.objects.get(digest), then)

    def from_origin(self, name: str, size_max: int, then: Then) -> None:
        self.origin.asked.append(name)
        path = f"metadata/{name}"
        if self.origin.down or name in self.origin.out:
            self._answer(OriginError("unreachable", name), then)
            return
        data = self.origin.stale.get(path, self.origin.repository.files.get(path))
        self._answer(OriginError("not-found", name) if data is None else data, then)

    def from_peer(self, device: str, name: str, then: Then) -> None:
        self._answer(self.peers[device].get(name), then)

    def make(self, making: Making) -> None:
        self.makings.append(making.task.image)
        self._after(0.01, self._write, making, 0)

    def made(self, image: Digest) -> None:
        pass

    def serve(self, task: ImageTask, path: str) -> None:
        self.serving[task.image] = path

    def drop(self, image: Digest) -> None:
        self.serving.pop(image, None)
        self._generation += 1

    def hold(self, name: str, version: int, data: bytes) -> None:
        self.held[name] = version

    def _write(self, making: Making, offset: int) -> None:
        writer = making.writer
        try:
            while offset < writer.size and writer.done.covers(offset, min(offset + PIECE, writer.size)):
                offset += PIECE
            if offset < writer.size:
                stop = min(offset + PIECE, writer.size)
                writer.write(offset, content(stop - offset, right=not self.spoil(offset)))
                if offset // PIECE % 3 == 2:
                    writer.checkpoint()
                self._after(PIECE_S, self._write, making, stop)
                return
            right = writer.digest() == making.task.image
        except LocalError as error:
            making.failed(error, False)
            return
        if right:
            making.verified()
        else:
            making.failed(LocalError("read back wrong"), True)

    def _answer(self, data: Answer, then: Then) -> None:
        self._after(0.02, then, data)

    def _after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        self.kernel.after(seconds, self._fire, self._generation, call, arguments)

    def _fire(self, generation: int, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if generation == self._generation and self.life is not None:
            self.life.guard(call, *arguments)


class Solo:
    """The whole: `run` steps virtual time. `product` releases and orders are published to `repository`."""

    def __init__(
        self,
        *,
        seed: int = 1,
        clock_error_s: float = 0.0,
        reboots: bool = True,
        repository: VirtualRepository | None = None,
        **character: Any,
    ) -> None:
        self.kernel = Kernel(seed)
        self.repository = repository or VirtualRepository(seed, ["gw"])
        self.origin = Origin(self.repository)
        self.disk = VirtualDisk()
        self.machine = Machine(self.disk, reboots=reboots, capacity=character.pop("capacity", 0))
        self.machine.factory({PAYLOAD: (BASE, SIZE)})
        self.swarm = LoneSwarm(self.kernel, self.origin)
        self.log = Log(self.repository)
        self.clock = DeviceClock(clock_error_s)
        self.life = self.swarm.life = Lifecycle(
            Character(
                Member("d1", "s1", hardware="board"),
                "gw",
                self.repository.root,
                **({"poll_s": 60.0} | character),
            ),
            self.machine,
            self.swarm,
            self.kernel,
            random.Random(seed),
            reader=READER,
            clock=self.clock,
            witness=self.log,
        )

    def publish(self, version: int = 2, **order: Any) -> Any:
        release = manifest(version, size=order.pop("size", SIZE))
        self.repository.publish_release(release, self.kernel.now)
        return self.repository.publish_order(release, self.kernel.now, **order)

    def run(self, seconds: float) -> None:
        self.kernel.run(self.kernel.now + seconds)

    @property
    def settled(self) -> bool:
        """Nothing is on trial, armed or to be rolled back, and the active slot holds a whole image."""
        boot = self.machine.boot.read()
        held = self.machine.slots()[PAYLOAD].image_in(boot.active)
        return (
            boot.trial is None
            and boot.failed is None
            and held is not None
            and self.machine.holds(PAYLOAD, boot.active, *held)
        )
