"""The reports that a carrier takes home from sites without a WAN: kept durably until the coordinator has
them.

One report of each device, the newest, and only from the device itself, whose certificate its connection
showed: so nobody fills the satchel with reports of devices that it invents. Each is read, written and
fsynced before its device is told that it is carried; a carrier that is switched off on the way loses none.
Not for whose reports these are (`p2p.swarm.relay`), nor for when they are handed in (`handing_in`).
"""

from __future__ import annotations

import logging

from p2p.content import limits
from p2p.content import report as reports
from p2p.content.fields import dump_object, load_object
from p2p.errors import ContentError, StoreError
from p2p.ports import BlobStore

log = logging.getLogger(__name__)

INDEX = "index"
DOCUMENT = "slipstream-carried-reports"
VERSION = 1
_INDEX_SIZE_MAX = 512 << 10


class Satchel:
    """Reports by device. `store` keeps an index of them and each one, under its device's name after `r-`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._sequences: dict[str, int] = {}
        try:
            data = store.read(INDEX)
            if data is not None:
                self._sequences = _decode(data)
        except (StoreError, ContentError) as error:
            log.warning("reports that were carried for others are lost: %s", error)

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, device: str, sequence: int, line: bytes) -> bool:
        """Keep a device's report, in the place of an older one; whether it is kept (now, or a newer one
        is)."""
        held = self._sequences.get(device)
        if held is not None and held >= sequence:
            return True
        if held is None and len(self) >= limits.REPORTS_CARRIED_MAX:
            return False
        try:
            self._store.write(_name(device), line)
            self._write({**self._sequences, device: sequence})
        except StoreError as error:
            log.warning("a report of %s is not carried: %s", device, error.message)
            return False
        return True

    def batch(self) -> list[tuple[str, int, bytes]]:
        """Reports for one request: device, number, report. One that cannot be read is lost, and told."""
        found: list[tuple[str, int, bytes]] = []
        size = 0
        for device, sequence in list(self._sequences.items()):
            line = self._read(device)
            if line is None:
                self.remove(device, sequence)
                continue
            size += len(line)
            if found and (size > limits.REPORT_BATCH_CODED_MAX or len(found) >= limits.REPORTS_PER_BATCH_MAX):
                break
            found.append((device, sequence, line))
        return found

    def remove(self, device: str, sequence: int) -> None:
        """The coordinator has spoken of this one; a newer one of the same device stays."""
        if self._sequences.get(device) != sequence:
            return
        try:
            self._write({d: n for d, n in self._sequences.items() if d != device})
            self._store.delete(_name(device))
        except StoreError as error:  # it is handed in again, which changes nothing
            log.warning("a report of %s that was handed in is kept: %s", device, error.message)

    def _read(self, device: str) -> bytes | None:
        try:
            line = self._store.read(_name(device))
            if line is not None:
                reports.split(line)
        except (StoreError, ContentError) as error:
            log.warning("a report of %s that was carried is lost: %s", device, error)
            return None
        return line

    def _write(self, sequences: dict[str, int]) -> None:
        document = {"_type": DOCUMENT, "spec": VERSION, "reports": [
            {"device": device, "sequence": sequence} for device, sequence in sequences.items()
        ]}  # fmt: skip
        self._store.write(INDEX, dump_object(document))
        self._sequences = sequences


def _name(device: str) -> str:
    return f"r-{device}"


def _decode(data: bytes) -> dict[str, int]:
    fields = load_object(data, "carried reports", _INDEX_SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    found: dict[str, int] = {}
    for entry in fields.objects("reports", length_max=limits.REPORTS_CARRIED_MAX):
        found[entry.name("device")] = entry.integer("sequence", 0, reports.SEQUENCE_MAX)
        entry.finish()
    fields.finish()
    return found
