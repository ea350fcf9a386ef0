"""The reports that a carrier takes home from sites without a WAN, and the certificates that it brings back:
kept durably until the coordinator, or the device, has them.

One report of each device, the newest, and only from the device itself, whose certificate its connection
showed: so nobody fills the satchel with reports of devices that it invents. Each is read, written and
fsynced before its device is told that it is carried; a carrier that is switched off on the way loses none.
Everything here blocks, and is called from one thread at a time. Not for whose reports these are
(`p2p.swarm.relay`), nor for when they are handed in (`homebound`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from p2p.content import limits
from p2p.content import report as reports
from p2p.content.report import Report
from p2p.errors import ContentError, StoreError
from p2p.ports import BlobStore

log = logging.getLogger(__name__)

REPORT, CERTIFICATE = "r-", "c-"
"""What a value of the store is, before the name of its device."""


class NamedStore(BlobStore, Protocol):
    """A store that can say what it holds."""

    def names(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Carried:
    """A report that is carried: its device, its number and the signed line."""

    device: str
    sequence: int
    line: bytes


class Satchel:
    """Reports and certificates by device. What cannot be read is lost, and told; the rest stays."""

    def __init__(self, store: NamedStore) -> None:
        self._store = store
        self._sequences: dict[str, int] = {}
        self._certificates: dict[str, None] = {}
        try:
            names = store.names()
        except StoreError as error:
            log.warning("reports that were carried for others are lost: %s", error.message)
            return
        for name in names:
            if name.startswith(CERTIFICATE):
                self._certificates[name.removeprefix(CERTIFICATE)] = None
            elif name.startswith(REPORT) and len(self._sequences) < limits.REPORTS_CARRIED_MAX:
                device = name.removeprefix(REPORT)
                held = self._read(device)
                if held is not None:
                    self._sequences[device] = held.sequence

    def __len__(self) -> int:
        return len(self._sequences)

    def sequence(self, device: str) -> int:
        """The number of the report of a device that is carried; 0: none is."""
        return self._sequences.get(device, 0)

    def add(self, carried: Carried) -> bool:
        """Keep a report, in the place of an older one; whether it is kept (now, or a newer one is)."""
        device = carried.device
        if self.sequence(device) >= carried.sequence:
            return True
        if device not in self._sequences and len(self) >= limits.REPORTS_CARRIED_MAX:
            return False
        try:
            self._store.write(REPORT + device, carried.line)
        except StoreError as error:
            log.warning("a report of %s is not carried: %s", device, error.message)
            return False
        self._sequences[device] = carried.sequence
        return True

    def batch(self) -> list[Carried]:
        """Reports for one request, those that have waited longest first."""
        found: list[Carried] = []
        size = 0
        for device in list(self._sequences):
            held = self._read(device)
            if held is None:
                del self._sequences[device]
                continue
            size += len(held.line)
            if found and (size > limits.REPORT_BATCH_CODED_MAX or len(found) >= limits.REPORTS_PER_BATCH_MAX):
                break
            found.append(held)
        return found

    def remove(self, answered: Iterable[Carried]) -> bool:
        """The coordinator has spoken of these; a newer one of the same device stays. False: some stay, as the
        disk fails."""
        for carried in answered:
            if self.sequence(carried.device) != carried.sequence:
                continue
            try:
                self._store.delete(REPORT + carried.device)
            except StoreError as error:  # it is handed in again, which changes nothing
                log.warning("a report of %s that was handed in is kept: %s", carried.device, error.message)
                return False
            del self._sequences[carried.device]
        return True

    # Certificates on their way back

    def keep_certificate(self, device: str, pem: bytes) -> None:
        """What the coordinator made out for a device, for when this carrier next meets it."""
        if len(pem) > limits.CERTIFICATE_SIZE_MAX:
            return
        self._certificates.pop(device, None)
        while len(self._certificates) >= limits.REPORTS_CARRIED_MAX:
            self.drop_certificate(next(iter(self._certificates)))
        try:
            self._store.write(CERTIFICATE + device, pem)
        except StoreError as error:  # it asks for another with its next report
            log.warning("the new certificate of %s is not carried: %s", device, error.message)
        else:
            self._certificates[device] = None

    def certificate(self, device: str) -> bytes:
        """That of a device; empty: there is none. Unverified: it judges itself."""
        if device not in self._certificates:
            return b""
        try:
            return self._store.read(CERTIFICATE + device) or b""
        except StoreError as error:
            log.warning("the new certificate of %s is lost: %s", device, error.message)
            return b""

    def drop_certificate(self, device: str) -> None:
        """It has it."""
        if device not in self._certificates:
            return
        del self._certificates[device]
        try:
            self._store.delete(CERTIFICATE + device)
        except StoreError as error:
            log.warning("the certificate of %s is kept: %s", device, error.message)

    def _read(self, device: str) -> Carried | None:
        try:
            line = self._store.read(REPORT + device)
            if line is None:
                return None
            report = Report.parse(reports.split(line)[1])
        except (StoreError, ContentError) as error:
            log.warning("a report of %s that was carried is lost: %s", device, error)
            return None
        if report.device != device:
            log.warning("a report of %s that was carried is %s's: it is left out", device, report.device)
            return None
        return Carried(device, report.sequence, line)
