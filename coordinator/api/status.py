"""What a device says of itself, in a check-in or in a report that somebody hands in for it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from p2p.content import limits
from p2p.content.digests import parse_digest
from p2p.content.fields import Fields, load_object
from p2p.content.report import SEQUENCE_MAX
from p2p.errors import ContentError

STATUS_BODY_MAX = 64 * 1024
LEDGER_PEERS_MAX = 1024
COUNT_MAX = 1 << 62
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Status:
    """The body of a check-in or a report. Keys that this version does not know are ignored, not stored."""

    listen_host: str | None
    listen_port: int
    release: str | None
    slot: str | None
    state: str
    images: dict[str, str]
    armed: dict[str, str]
    ledger: dict[str, Any]
    role: str | None
    wants_roster: bool = True
    sequence: int | None = None
    """The device's count of its reports: of those that are not newer, none is taken any more."""

    quiet_s: int = 0
    """For how long nothing may be heard of it though all is well; 0: it comes as often as it was told to."""

    revocations: int | None = None
    """The version of the revocation list that it knows."""

    certificate_until: int | None = None
    """When the certificate ends that it has; None: it does not take renewed ones in answers."""

    @classmethod
    def parse(cls, body: bytes) -> Status:
        """Raises `ContentError` naming the key."""
        return cls.read(load_object(body, "body", STATUS_BODY_MAX))

    @classmethod
    def read(cls, fields: Fields) -> Status:
        """As `parse`, of an object that has been opened."""
        images = _digests(fields, "images")
        armed = _digests(fields, "armed") if "armed" in fields else {}
        return cls(
            listen_host=_host(fields.optional_text("listen_host")),
            listen_port=fields.integer("listen_port", 0, 65_535),
            release=_short(fields, "release"),
            slot=_short(fields, "slot"),
            state=_short(fields, "state", needed=True) or "",
            images=images,
            armed=armed,
            ledger=_ledger(fields.object("ledger")) if "ledger" in fields else {},
            role=_short(fields, "role"),
            wants_roster=fields.boolean("roster", default=True),
            sequence=fields.integer("sequence", 0, SEQUENCE_MAX) if "sequence" in fields else None,
            quiet_s=fields.integer("quiet_s", 0, limits.REPORT_QUIET_MAX_S) if "quiet_s" in fields else 0,
            revocations=_optional_count(fields, "revocations"),
            certificate_until=_optional_count(fields, "certificate_until"),
        )

    @property
    def image(self) -> str | None:
        """What peers of a one-payload product look for: its first payload by name, as it will be next."""
        images = self.armed or self.images
        return images[min(images)] if images else None

    def to_json(self) -> dict[str, Any]:
        return {
            "listen_host": self.listen_host,
            "listen_port": self.listen_port,
            "release": self.release,
            "slot": self.slot,
            "state": self.state,
            "images": self.images,
            "armed": self.armed,
            "ledger": self.ledger,
            "role": self.role,
            "revocations": self.revocations,
        }


def _optional_count(fields: Fields, key: str) -> int | None:
    return fields.integer(key, 0, COUNT_MAX) if key in fields else None


def _digests(fields: Fields, key: str) -> dict[str, str]:
    """Digests by payload."""
    found = fields.text_map(key)
    for payload, digest in found.items():
        parse_digest(digest, f"{fields.what}.{key}.{payload[:64]}")
    return found


def _ledger(fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("wan", "wasted", "base", "patched", "chunks", "zero", "resumed", "imported"):
        found[key] = fields.integer(key, 0, COUNT_MAX) if key in fields else 0
    for key in ("peers", "sent"):
        if fields.holds(key, int):  # a sum, as reports that peers hand in have it
            found[key] = fields.integer(key, 0, COUNT_MAX)
            continue
        counts = fields.raw_object(key) if key in fields else {}
        if len(counts) > LEDGER_PEERS_MAX or not all(
            type(n) is int and 0 <= n <= COUNT_MAX and len(name) <= 128 for name, n in counts.items()
        ):
            raise ContentError(f"body.ledger.{key}: not a short table of byte counts")
        found[key] = counts
    return found


def _host(value: str | None) -> str | None:
    """A host that peers may be told to connect to: an address, or a plain host name."""
    if value is None:
        return None
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        if not _HOST.fullmatch(value):
            raise ContentError("body.listen_host: neither an address nor a host name") from None
        return value
    return None if address.is_unspecified else str(address)


def _short(fields: Fields, key: str, *, needed: bool = False) -> str | None:
    value = fields.text(key) if needed else fields.optional_text(key)
    if value is not None and len(value) > 64:
        raise ContentError(f"{fields.what}.{key}: longer than 64 characters")
    return value
