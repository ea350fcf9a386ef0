"""What a virtual carrier takes along without running it: the real second trust client, the real choice.

The counterpart of `p2p.agent.carrying`, in callbacks: what is signed about the product that others run is
read as it is there, `p2p.trust.cargo` says what of it is taken along, and each image is made in a file of
the carrier's disk, written and journalled as a slot is. One at a time: a virtual device has one slot under
way.
Not for what the carrier runs itself (`lifecycle`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.errors import LocalError, OriginError, SlipstreamError
from p2p.ports import BootState
from p2p.swarm.events import ImageTask
from p2p.trust import Need, Steps, TrustClient
from p2p.trust.bundling import survey_releases
from p2p.trust.cargo import Cargo, Parcel, load
from p2p.trust.documents import Reader
from sim.world.boot import STATE, Machine
from sim.world.character import Character
from sim.world.disk import VirtualSlots
from sim.world.metadata import MetadataAnswers, Then, drive
from sim.world.witness import Making, Swarm

if TYPE_CHECKING:
    from sim.world.lifecycle import Lifecycle

OWN_PRODUCT = OWN_HARDWARE = "vehicle"
"""What a carrier runs itself, and nobody publishes."""

PLACE = "image"
HOLD = "/carrying"
RETRY_S = 60.0
"""As `p2p.agent.carrying` has it."""


class _NeverRun:
    """A boot environment that starts nothing from the hold."""

    def read(self) -> BootState:
        return BootState(active="")

    def _refuse(self) -> None:
        raise AssertionError("what is carried for others is never run")

    def arm(self, slot: str, attempts: int) -> None:
        self._refuse()

    started = commit = rollback = _refuse


class Carrying:
    """The cargo of one device: images of `product` within `quota` bytes, on the disk of its machine."""

    def __init__(
        self, quota: int, product: str, character: Character, machine: Machine, swarm: Swarm, reader: Reader
    ) -> None:
        self._quota = quota
        self._product = product
        self._character = character
        self._machine = machine
        self._swarm = swarm
        self._reader = reader
        self._served: set[Digest] = set()
        self._making: Digest | None = None
        self._cargo = Cargo()
        self._seen = -1
        self._looking = False

    def open(self, life: Lifecycle) -> None:
        """The agent starts: what is whole in the hold is given again, once it is known what it is."""
        self._life = life
        store = self._machine.disk.blobs(f"{STATE}/carrying")
        character = self._character
        self._client = TrustClient(
            store, character.root, build_time=character.build_time, reader=self._reader
        )

    def stop(self) -> None:
        """The agent ends."""
        self._served.clear()
        self._making, self._seen, self._looking = None, -1, False

    def look(self) -> None:
        """The device's own question was answered: what is signed may have changed."""
        version = self._life.timestamp()
        if self._looking or version == self._seen:
            return
        self._looking = True
        answers = MetadataAnswers(self._swarm, wan=False)

        def answer(need: Need, then: Then) -> None:
            then = self._life.still(then)
            if need.digest is not None:
                answers.answer(need, then)
            elif need.error is not None:
                then(OriginError("bad-bytes", need.error.message))
            elif need.role == "root":
                then(self._life.trust.held_root(need.version or 0))
            else:
                then(self._life.trust.held_timestamp())

        def loaded(cargo: Cargo) -> None:
            self._looking, self._seen, self._cargo = False, version, cargo
            self._arrange()

        def failed(error: SlipstreamError) -> None:
            self._looking = False
            self._life.after_disk(RETRY_S, self.look)

        drive(self._load(), answer, loaded, failed)

    # Inside

    def _load(self) -> Steps[Cargo]:
        client = self._client
        yield from client.refresh(self._life.clock.read(self._life.now))
        found = yield from survey_releases(client, self._product)
        client.prune(set(found.documents))
        surveys = {self._product: found}
        return load(surveys, (self._product,), self._quota, OWN_PRODUCT, OWN_HARDWARE)

    def _arrange(self) -> None:
        """Drop what is no cargo any more, give what is whole, and begin with what is missing."""
        wanted = {parcel.image for parcel in self._cargo.parcels}
        disk = self._machine.disk
        try:
            for name in sorted(disk.names_in(HOLD)):
                image = Digest(bytes.fromhex(name.partition(".")[0]))
                if image not in wanted:
                    self._drop(image)
            for parcel in self._cargo.parcels:
                slots = self._slots(parcel.image)
                held = slots.image_in(PLACE) if disk.exists(slots.path(PLACE)) else None
                if held is None:
                    self._begin(parcel, slots)
                elif parcel.image not in self._served:
                    self._served.add(parcel.image)
                    self._swarm.serve(self._task(parcel), slots.path(PLACE))
        except (LocalError, OSError):
            self._seen = -1
            self._life.after_disk(RETRY_S, self.look)

    def _begin(self, parcel: Parcel, slots: VirtualSlots) -> None:
        if self._making is not None:
            return
        writer = slots.open_writer(PLACE, parcel.image, parcel.payload.image.size)
        self._making = parcel.image
        making = Making(
            self._task(parcel),
            writer,
            slots.path(PLACE),
            None,
            self._life.still(self._verified, parcel),
            self._life.still(self._failed, parcel),
        )
        self._life.after_disk(0.0, self._swarm.make, making)
        self._writer = writer

    def _verified(self, parcel: Parcel) -> None:
        if self._making != parcel.image:
            return
        try:
            self._writer.seal()
            self._writer.close()
        except LocalError as error:
            self._failed(parcel, error, block=False)
            return
        self._making = None
        self._served.add(parcel.image)
        self._swarm.made(parcel.image)
        self._life.after_disk(0.0, self._arrange)

    def _failed(self, parcel: Parcel, error: LocalError, block: bool) -> None:
        self._making, self._seen = None, -1
        self._swarm.drop(parcel.image)
        self._writer.close()
        self._life.after_disk(RETRY_S, self.look)

    def _drop(self, image: Digest) -> None:
        self._served.discard(image)
        self._swarm.drop(image)
        if self._making == image:
            self._making = None
            self._writer.close()
        disk = self._machine.disk
        disk.remove(f"{STATE}/carrying-{image.hex()}/{PLACE}.json")
        disk.remove(f"{STATE}/carrying-{image.hex()}/{PLACE}.journal")
        disk.remove(self._path(image))

    def _task(self, parcel: Parcel) -> ImageTask:
        payload = parcel.payload
        return ImageTask(payload.image.sha256, payload.image.size, None, payload.packs)

    @staticmethod
    def _path(image: Digest) -> str:
        return f"{HOLD}/{image.hex()}.img"

    def _slots(self, image: Digest) -> VirtualSlots:
        disk, path = self._machine.disk, self._path(image)
        disk.make_directories(HOLD)
        disk.add_slot(path)
        return VirtualSlots(disk, "carried", {PLACE: path}, f"{STATE}/carrying-{image.hex()}", _NeverRun())
