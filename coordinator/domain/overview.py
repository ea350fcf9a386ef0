"""Counting a fleet: what operators are shown of devices, sites and bytes. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DeviceView", "fleet_overview", "site_overview"]


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as last heard of. Times in seconds since 1970; `status` as reported (may be empty).

    `seen_at`: when it said so itself; `via`: the peer that handed that in, if one did; `received_at`: when it
    came here. `quiet_s`: for how long it then said it might not be heard of.
    `revoked`: why, None while it is one of the fleet.
    """

    device: str
    site: str
    groups: tuple[str, ...]
    hardware: str
    certificate_until: int
    seen_at: int | None
    address: str | None
    status: dict[str, Any]
    via: str | None = None
    received_at: int | None = None
    quiet_s: int = 0
    revoked: str | None = None

    def online(self, now: float, online_s: float) -> bool:
        """Whether it has been heard of as lately as it should have been."""
        return self.seen_at is not None and now - self.seen_at <= online_s + self.quiet_s

    def to_json(self, now: float, online_s: float) -> dict[str, Any]:
        """The facts of one device."""
        return {
            "device": self.device,
            "site": self.site,
            "groups": list(self.groups),
            "hardware": self.hardware,
            "certificate_until": self.certificate_until,
            "revoked": self.revoked,
            "online": self.online(now, online_s),
            "seen_s_ago": None if self.seen_at is None else max(0, int(now - self.seen_at)),
            "received_s_ago": None if self.received_at is None else max(0, int(now - self.received_at)),
            "via": self.via,
            "quiet_s": self.quiet_s,
            "address": self.address,
            "status": self.status,
        }


def site_overview(site: str, devices: Sequence[DeviceView], now: float, online_s: float) -> dict[str, Any]:
    """Counts and byte sums of one site, without devices that are revoked."""
    return {"site": site} | _counts(devices, now, online_s)


def fleet_overview(devices: Iterable[DeviceView], now: float, online_s: float) -> dict[str, Any]:
    """Counts and byte sums of the fleet, and of each of its sites."""
    everything = list(devices)
    by_site: dict[str, list[DeviceView]] = defaultdict(list)
    for device in everything:
        by_site[device.site].append(device)
    return _counts(everything, now, online_s) | {
        "sites": [site_overview(site, found, now, online_s) for site, found in sorted(by_site.items())]
    }


def _counts(devices: Sequence[DeviceView], now: float, online_s: float) -> dict[str, Any]:
    revoked = sum(d.revoked is not None for d in devices)
    devices = [d for d in devices if d.revoked is None]
    ledgers = [d.status.get("ledger") or {} for d in devices]
    return {
        "devices_enrolled": len(devices),
        "devices_revoked": revoked,
        "devices_online": sum(d.online(now, online_s) for d in devices),
        "releases": dict(sorted(Counter(d.status.get("release") or "unknown" for d in devices).items())),
        "states": dict(sorted(Counter(d.status.get("state") or "unknown" for d in devices).items())),
        "wan_bytes": sum(ledger.get("wan", 0) for ledger in ledgers),
        "peer_bytes": sum(_sum(ledger.get("peers")) for ledger in ledgers),
        "base_bytes": sum(ledger.get("base", 0) for ledger in ledgers),
        "wasted_bytes": sum(ledger.get("wasted", 0) for ledger in ledgers),
    }


def _sum(counts: dict[str, int] | int | None) -> int:
    """Bytes by device added up; a report that a peer handed in has the sum already."""
    return counts if isinstance(counts, int) else sum((counts or {}).values())
