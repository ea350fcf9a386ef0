"""Renewal of device certificates, in the answers to what devices say of themselves anyway.

A device names the end of its certificate in its status (`certificate_until`). Once less than half of what a
new one would get is left, the answer has a new one: same key, what the coordinator's records say of site and
groups. A device that got none of it, as an answer was lost, says the old end again and gets the same one. Not
for another key: that is an enrolment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.db.models import Device
from coordinator.db.revocations import note_certificate
from coordinator.publishing.authority import FleetAuthority


@dataclass(frozen=True, slots=True)
class Renewing:
    """`days`: how long a certificate is good for."""

    database: Database
    authority: FleetAuthority
    days: int

    def wanted(self, device: Device, until: int | None, now: float) -> bool:
        """Whether a device should get one. `until`: the end of the one that it has, if it says so."""
        if until is None or device.revoked_at is not None:
            return False
        return until < device.not_after or self._is_due(device, now)

    def certificate_for(self, device_id: str, now: float) -> str | None:
        """The device's certificate (PEM), a new one if it is time for that; None if it is out of the fleet.

        The new one is on record, to be revoked with the device, before anybody has it.
        """
        with self.database.write() as session:
            device = session.get(Device, device_id)
            if device is None or device.revoked_at is not None:
                return None
            if not self._is_due(device, now):
                return device.certificate
            key = serialization.load_pem_public_key(device.key.encode())
            assert isinstance(key, ec.EllipticCurvePublicKey)  # nothing else was enrolled
            when = datetime.fromtimestamp(int(now), UTC)
            certificate = self.authority.issue(key, device.id, device.site, device.groups, when, self.days)
            note_certificate(session, device.id, certificate, int(now))
            before = device.not_after
            device.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()
            device.not_after = int(certificate.not_valid_after_utc.timestamp())
            audit.append(
                session, int(now), "coordinator", "device.renewed", device.id,
                {"serial": f"{certificate.serial_number:x}", "until": device.not_after, "before": before},
            )  # fmt: skip
            return device.certificate

    def _is_due(self, device: Device, now: float) -> bool:
        """Half of what a new one would have is left, or less. The CA's own end bounds that."""
        wanted = datetime.fromtimestamp(int(now), UTC) + timedelta(days=self.days)
        end = min(wanted, self.authority.certificate.not_valid_after_utc).timestamp()
        return end > device.not_after and device.not_after - now <= (end - now) / 2
