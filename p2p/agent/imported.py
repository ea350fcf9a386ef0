"""The bundle that was imported to this device, as the running agent uses it: one more source.

`slipstream bundle import` lays it down, verified as far as a device can (`p2p.bundles.importing`); here it
is believed no more than a peer. Its metadata goes to the trust client, its frames through the same checks as
those of the WAN. It is looked at anew whenever the agent asks what is meant. A bundle that cannot be read
is as good as none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from p2p.adapters.bundle_files import KEEP_NAME, BundleReader, BundleWriter
from p2p.content.bundle import FAT32_PART_SIZE, OBJECTS, TABLE_NAME, Kind
from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.errors import ContentError, LocalError, OperatorError, SlipstreamError
from p2p.trust.documents import stated_version

log = logging.getLogger(__name__)

LEFT_S = 30 * 86_400.0
"""After so long nobody goes on with an import that was cut."""

SMALL = (Kind.METADATA, Kind.DOCUMENT, Kind.INDEX)


class ImportedBundle:
    """What was imported into `directory`. `timestamp_version`: what its timestamp says, 0 without one.

    Calls block; what is there may be asked from several threads, also while one looks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reader: BundleReader | None = None
        self._seen: tuple[int, int, int] | None = None
        self._timestamp: bytes | None = None
        self._trouble = ""
        self.timestamp_version = 0

    def look(self) -> bool:
        """See what is there now; True if it is another bundle than at the last look, or the first."""
        seen = self._there()
        if seen == self._seen:
            return False
        self._seen = seen
        self._reader, self._timestamp, self.timestamp_version = None, None, 0
        if seen is None:
            return False
        try:
            self._reader = BundleReader.open(str(self._directory))
        except (ContentError, LocalError, OperatorError) as error:
            if error.message != self._trouble:
                log.warning("the imported bundle is of no use: %s", error.message)
            self._trouble = error.message
            if isinstance(error, LocalError):
                self._seen = None  # it may be read another time: nobody would import it again for that
            return False
        self._trouble = ""
        self._timestamp = self._whole(self._reader.table.timestamp.ref.sha256)
        if self._timestamp is not None:  # else its frames may be right all the same
            self.timestamp_version = stated_version(self._timestamp) or 0
        return True

    def timestamp(self) -> bytes | None:
        """Its timestamp, unverified."""
        return self._timestamp

    def root(self, version: int) -> bytes | None:
        """A root, unverified."""
        reader = self._reader
        found = None if reader is None else reader.table.root(version)
        return None if found is None else self._whole(found.ref.sha256)

    def object(self, digest: Digest) -> bytes | None:
        """A small object whose digest is right."""
        reader = self._reader
        found = None if reader is None else reader.find(digest)
        return self._whole(digest) if found is not None and found.kind in SMALL else None

    def frames(self, pack: PackRef) -> Callable[[int, int], bytes] | None:
        """Reads of a pack's frames object, unverified, where it is here.

        They raise `ContentError` and `StoreError`.
        """
        reader = self._reader
        found = None if reader is None else reader.find(pack.frames.sha256)
        if reader is None or found is None or found.kind is not Kind.FRAMES or found.ref != pack.frames:
            return None

        def read(offset: int, length: int) -> bytes:
            return b"".join(reader.parts(found, offset, offset + length, step=length))

        return read

    def drop(self, product: str, version: str) -> None:
        """A release is committed: its frames have been of use. Blocks; a disk that fails keeps them."""
        reader = self._reader
        prefix = f"{product}/{version}/"
        if reader is None or not any(o.name.startswith(prefix) for o in reader.table.of(Kind.FRAMES)):
            return
        if (self._directory / KEEP_NAME).exists():
            return
        left = tuple(
            o for o in reader.table.objects if o.kind is not Kind.FRAMES or not o.name.startswith(prefix)
        )
        try:
            writer = BundleWriter(reader.directory, reader.table.part_size)
            with writer.locked():
                if self._there() == self._seen:  # nor has another been imported, which `look` shall see
                    writer.commit(replace(reader.table, objects=left))
        except LocalError as error:
            log.info("imported frames are kept: %s", error.message)

    def tidy(self, now: float) -> None:
        """Remove what an import has left that was cut and not gone on with for long. Blocks; never raises.

        `now`: seconds since 1970, as files have it.
        """
        if not (self._directory / OBJECTS).is_dir():
            return
        try:
            writer = BundleWriter(str(self._directory), FAT32_PART_SIZE)
            with writer.locked():
                table = None
                if (self._directory / TABLE_NAME).exists():
                    table = BundleReader.open(str(self._directory)).table
                left = [Path(path) for path in writer.left_over(table)]
                newest = max((path.lstat().st_mtime for path in left), default=now)
                if now - newest > LEFT_S:
                    for path in left:
                        path.unlink()
                    log.info("removed what is left of an import that was cut %.0f days ago",
                             (now - newest) / 86_400)  # fmt: skip
        except (ContentError, LocalError, OperatorError, OSError) as error:
            message = error.message if isinstance(error, SlipstreamError) else str(error)
            log.info("what an import may have left stays: %s", message)

    def _there(self) -> tuple[int, int, int] | None:
        try:
            found = (self._directory / TABLE_NAME).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _whole(self, digest: Digest) -> bytes | None:
        reader = self._reader  # which another thread may replace
        found = None if reader is None else reader.find(digest)
        if reader is None or found is None:
            return None
        try:
            return reader.whole(found)
        except (ContentError, LocalError) as error:
            log.warning("imported bundle: %s", error.message)
            return None
