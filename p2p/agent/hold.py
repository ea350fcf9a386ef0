"""The images that a carrier keeps for others: a file each, in a directory of its own, written as a slot is.

So the same holds for them as for slots: verified bytes go straight to their place, a journal that is fsynced
after them says what is there, and a carrier whose power is cut goes on from that; an image is whole only when
it was read back with its digest. Nothing ever runs from here. Not for which images these are
(`p2p.trust.cargo`).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from p2p.adapters.disk_quota import BLOCK
from p2p.adapters.slot_writer import FileSlotWriter, SlotImage, slot_error
from p2p.adapters.slots import FileSlots
from p2p.content.digests import DIGEST_SIZE, Digest
from p2p.errors import SlotError, StoreError
from p2p.ports import BootState
from p2p.trust.cargo import Cargo

log = logging.getLogger(__name__)

PLACE = "image"
"""The name of the one place of each."""


class _NeverRun:
    """A boot environment that starts from none of these."""

    def read(self) -> BootState:
        return BootState(active="")

    def arm(self, slot: str, attempts: int) -> None:
        raise StoreError("what is carried for others is never run")

    def started(self) -> None:
        raise StoreError("what is carried for others is never run")

    def commit(self) -> None:
        raise StoreError("what is carried for others is never run")

    def rollback(self) -> None:
        raise StoreError("what is carried for others is never run")


class Hold:
    """Images below `directory`, by digest. Calls block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._slots: dict[Digest, FileSlots] = {}

    def names(self) -> list[Digest]:
        """All of which anything is here, whole or not."""
        try:
            found = [entry.name for entry in self._directory.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise slot_error("what is carried", "list", error) from error
        digests = []
        for name in found:
            with contextlib.suppress(ValueError):
                data = bytes.fromhex(name)
                if len(data) == DIGEST_SIZE and data.hex() == name:
                    digests.append(Digest(data))
        return sorted(digests)

    def is_whole(self, image: Digest) -> bool:
        """Whether it was read back whole, and is still there."""
        held = self._of(image).image_in(PLACE)
        return held is not None and held[0] == image

    def taken(self, image: Digest) -> int:
        """Bytes that the files of an image, whole or not, take up on the medium already."""
        try:
            return sum(entry.stat().st_blocks * BLOCK for entry in (self._directory / image.hex()).rglob("*"))
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise slot_error(f"carried image {image.hex()[:12]}", "look at", error) from error

    def reader(self, image: Digest) -> SlotImage:
        """Raises `SlotError` where it is not whole."""
        return self._of(image).open_reader(PLACE)

    def writer(self, image: Digest, size: int) -> FileSlotWriter:
        """Begins with an image, or goes on with it. Raises `SlotFull`, `SlotError`."""
        try:
            (self._directory / image.hex()).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise slot_error(f"carried image {image.hex()[:12]}", "make room for", error) from error
        return self._of(image).open_writer(PLACE, image, size)

    def bases_for(self, cargo: Cargo, quota: int) -> dict[Digest, Digest]:
        """By image of a cargo, an older one that is whole here, of which a published delta makes it.

        What of the quota the cargo leaves is for these: the image comes over the WAN as a delta, and devices
        that run the older one are given its patches. One that cannot be looked at is none.
        """
        room = quota - sum(parcel.size for parcel in cargo.parcels)
        kept = {parcel.image for parcel in cargo.parcels}
        found: dict[Digest, Digest] = {}
        for parcel in cargo.parcels:
            for pack in sorted(parcel.payload.packs, key=lambda pack: pack.frames.size):
                if pack.base is None or (size := self._size_of_whole(pack.base)) is None:
                    continue
                if pack.base not in kept:
                    if size > room:
                        continue
                    kept.add(pack.base)
                    room -= size
                found[parcel.image] = pack.base
                break
        return found

    def _size_of_whole(self, image: Digest) -> int | None:
        try:
            return self.taken(image) if self.is_whole(image) else None
        except SlotError as error:
            log.warning("%s", error.message)
            return None

    def mend(self, image: Digest, size: int, right: Iterable[tuple[int, int]]) -> None:
        """An image is whole no more: only these ranges of it are right, and the rest has to come again.

        A cut in the middle of this leaves all of it to come again. Raises `SlotFull`, `SlotError`.
        """
        writer = self.writer(image, size)
        try:
            for start, stop in right:
                writer.found(start, stop)
            writer.checkpoint()
        finally:
            writer.close()

    def drop(self, image: Digest) -> None:
        """Nothing of it is kept. A cut leaves what is dropped again at the next start."""
        self._slots.pop(image, None)
        try:
            shutil.rmtree(self._directory / image.hex())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise slot_error(f"carried image {image.hex()[:12]}", "drop", error) from error

    def _of(self, image: Digest) -> FileSlots:
        found = self._slots.get(image)
        if found is None:
            directory = self._directory / image.hex()
            places = {PLACE: str(directory / "image")}
            slots = FileSlots("carried", places, str(directory / "state"), _NeverRun())
            found = self._slots.setdefault(image, slots)  # there must be only one, also for two threads
        return found
