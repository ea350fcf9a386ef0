"""A device's signed reports: the signature by its key, and the count that makes each newer than the last.

The count is kept on disk in steps, so that most reports write nothing and a restart skips a few numbers. One
that is lost, or cannot be read, goes on from what the coordinator knows (`at_least`). Not for what a report
says (`p2p.agent`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from p2p.content import report as reports
from p2p.content.report import Report
from p2p.errors import StoreError
from p2p.ports import BlobStore

log = logging.getLogger(__name__)

STEP = 32
"""Numbers that one write to the medium is good for."""

NAME = "sequence"


class ReportCount:
    """The numbers of one device's reports. For several threads."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        try:
            held = store.read(NAME) or b"0"
        except StoreError as error:  # no reason not to update
            log.warning("this device's count of its reports begins anew: %s", error.message)
            held = b"0"
        self._last = int(held) if held.isdigit() and len(held) < 20 else 0
        self._reserved = self._last
        self._known = 0
        """What the coordinator is known to know of."""
        self._turn = threading.Lock()

    def next(self) -> int:
        """A number that was never used; raises `StoreError` if that cannot be made sure. Blocks."""
        with self._turn:
            last = max(self._last, self._known)
            if last >= reports.SEQUENCE_MAX:
                raise StoreError("this device has used up the numbers of its reports")
            if last >= self._reserved:
                reserved = min(last + STEP, reports.SEQUENCE_MAX)
                self._store.write(NAME, str(reserved).encode())
                self._reserved = reserved
            self._last = last + 1
            return self._last

    def at_least(self, sequence: int) -> None:
        """The coordinator knows of a report with this number. Waits for nobody."""
        self._known = max(self._known, min(sequence, reports.SEQUENCE_MAX - 1))


def signed_report(
    key: ec.EllipticCurvePrivateKey, device: str, sequence: int, signed_at: float, status: Mapping[str, Any]
) -> bytes:
    """A report of `device` as it travels."""
    document = Report(device, sequence, max(0, int(signed_at)), dict(status)).encode()
    r, s = utils.decode_dss_signature(key.sign(reports.signed_bytes(document), ec.ECDSA(hashes.SHA256())))
    half = reports.SIGNATURE_SIZE // 2
    return reports.join(r.to_bytes(half, "big") + s.to_bytes(half, "big"), document)


def compact(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without what its reader takes for granted, and with the sums of what goes by peer."""
    short = {key: value for key, value in status.items() if value not in (None, {}, "idle") or key == "state"}
    ledger = {
        key: sum(value.values()) if isinstance(value, Mapping) else value
        for key, value in status.get("ledger", {}).items()
    }
    short["ledger"] = {key: value for key, value in ledger.items() if value}
    return short
