"""A device's hardware as its software finds it: boot loader, boot environment, slots and stores.

`FileBoot`, the slots and the installer are the real ones, on a virtual disk. What is modelled is the
boot loader's part: which slot it starts, and that it counts the starts that come to nothing. Not for
what runs then (`sim.world.lifecycle`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2p.adapters.boot import FileBoot
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.installer import Installer
from p2p.content.digests import Digest
from p2p.install import Release
from p2p.ports import Boot, BootState
from p2p.trust import ReleaseFloors, Revocations
from sim.world.disk import VirtualDisk, VirtualSlots

PAYLOAD = "rootfs"
SLOTS = ("a", "b")
ATTEMPTS = 3
ENVIRONMENT = "/boot/slipstream.env"
STATE = "/state"


@dataclass(frozen=True, slots=True)
class Started:
    """What the boot loader came to: the slot that runs (None: none does), and starts that failed before."""

    slot: str | None
    failed: int = 0


def slot_to_start(state: BootState) -> str:
    """What a boot loader starts: the slot on trial while it has an attempt left, else the active one."""
    return state.trial if state.trial is not None and state.attempts_left > 0 else state.active


def start(boot: Boot, boots: Callable[[str], bool]) -> Started:
    """Start a slot; `boots` says whether it comes up. A trial that does not costs an attempt each time."""
    failed = 0
    while True:
        state = boot.read()
        if state.trial is not None and not state.attempts_left:
            boot.started()  # none is left: fall back
            state = boot.read()
        slot = slot_to_start(state)
        if boots(slot):
            return Started(slot, failed)
        if slot == state.active:
            return Started(None, failed)
        failed += 1
        boot.started()


class Machine:
    """One device's hardware. `capacity`: bytes of each slot's partition; 0: slots are files.

    `reboots`: whether a new slot needs a reboot (else every start of the agent counts as one).
    """

    def __init__(
        self,
        disk: VirtualDisk,
        *,
        payloads: tuple[str, ...] = (PAYLOAD,),
        capacity: int = 0,
        attempts: int = ATTEMPTS,
        reboots: bool = True,
    ) -> None:
        self.disk = disk
        self.attempts = attempts
        self.reboots = reboots
        self.boots = 0
        self._payloads = payloads
        for payload in payloads:
            for slot in SLOTS:
                disk.add_slot(self.path(payload, slot), capacity)

    @staticmethod
    def path(payload: str, slot: str) -> str:
        """Where a slot lies."""
        return f"/slots/{payload}-{slot}.img"

    @property
    def boot(self) -> FileBoot:
        """The boot environment."""
        return FileBoot(ENVIRONMENT, files=self.disk)

    def factory(self, images: Mapping[str, tuple[Digest, int]]) -> None:
        """The device as it is shipped: slot a of each payload holds an image (digest and bytes)."""
        for payload, (image, size) in images.items():
            self.disk.flash(self.path(payload, "a"), image, size)
            self.slots()[payload].adopt("a", size)
        self.disk.take_s()

    def start(self, boots: Callable[[str], bool]) -> Started:
        """Power on."""
        self.boots += 1
        return start(self.boot, boots)

    def slots(self) -> dict[str, VirtualSlots]:
        """The slots by payload, opened anew."""
        boot = self.boot
        return {
            name: VirtualSlots(
                self.disk,
                name,
                {slot: self.path(name, slot) for slot in SLOTS},
                f"{STATE}/slots/{name}",
                boot,
            )
            for name in self._payloads
        }

    def installer(self, raise_floor: Callable[[Release], None], starts: int) -> Installer:
        """The installer, opened anew; `starts` counts the starts of the agent."""
        return Installer(
            self.disk.blobs(f"{STATE}/install"),
            self.slots(),
            self.boot,
            attempts=self.attempts,
            boot_id=f"{self.boots}" if self.reboots else f"{self.boots}.{starts}",
            reboots=self.reboots,
            raise_floor=raise_floor,
        )

    def trust_store(self) -> DirectoryBlobStore:
        """Where trusted metadata is kept."""
        return self.disk.blobs(f"{STATE}/trust")

    def floors(self) -> ReleaseFloors:
        """The release-counter floors, in two directories."""
        return ReleaseFloors(self.disk.blobs(f"{STATE}/floor"), self.disk.blobs(f"{STATE}/floor.2"))

    def revocations(self) -> Revocations:
        """What is known to be revoked, in two directories."""
        return Revocations(self.disk.blobs(f"{STATE}/revoked"), self.disk.blobs(f"{STATE}/revoked.2"))

    def holds(self, payload: str, slot: str, image: Digest, size: int) -> bool:
        """Whether a slot really holds an image, whole and right: a check may know, no device does."""
        return self.disk.exists(path := self.path(payload, slot)) and self.disk.right(path, image).covers(
            0, size
        )
