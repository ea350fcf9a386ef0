"""Orders and phase states: who may install which release, and how far that has been opened.

An **order** is signed by the people allowed to deploy (a TUF role of its own, with its own
threshold). A **phase state** is signed by the coordinator's online key and can only open, pause or
abort an order that those people signed. A device installs only what a valid manifest and a valid
order name, in a phase that is open. Both are TUF targets; see `docs/spec/manifest.md`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.content.fields import Fields, dump_object, load_object
from p2p.content.manifest import COUNTER_MAX
from p2p.content.times import format_time, parse_time
from p2p.errors import ContentError

ORDER_DOCUMENT = "slipstream-order"
PHASES_DOCUMENT = "slipstream-phases"
VERSION = 1
PHASES_MAX = 64


class PhaseStatus(StrEnum):
    """What the coordinator says of an order."""

    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Member:
    """What a device knows of itself, from its own certificate, to decide whether it is meant."""

    device: str
    site: str
    groups: frozenset[str] = frozenset()
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is meant: everybody, or whoever is in any of the lists."""

    all: bool = False
    groups: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def includes(self, member: Member) -> bool:
        return (
            self.all
            or member.device in self.devices
            or member.site in self.sites
            or not member.groups.isdisjoint(self.groups)
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of an order: an audience and the share of its sites, in percent, that it opens."""

    name: str
    audience: Audience
    sites_percent: int = 100


@dataclass(frozen=True, slots=True)
class StaleException:
    """Devices that may go by what the online key signed although it has expired, until `until` (POSIX s)."""

    devices: tuple[str, ...]
    until: float


@dataclass(frozen=True, slots=True)
class Order:
    """Lets one release be installed by an audience.

    `sequence` orders the orders of a product: of those that mean a device, the highest counts.
    `manifest` is the digest of the manifest that the signers saw; `counter` its release counter.
    `allow_downgrade` lists devices that may go below their floor, until `expires` of the TUF role.
    `allow_stale` lists those that may install it from expired metadata (`docs/spec/trust.md` section 7).
    """

    id: str
    product: str
    version: str
    counter: int
    manifest: Digest
    sequence: int
    audience: Audience
    phases: tuple[Phase, ...]
    allow_downgrade: tuple[str, ...] = ()
    note: str = ""
    allow_stale: StaleException | None = None

    @property
    def target_path(self) -> str:
        return order_path(self.product, self.id)

    def excuses_staleness(self, device: str, time: float) -> bool:
        """Whether `device` may install this order from metadata that has expired, at trusted `time`."""
        allowed = self.allow_stale
        return allowed is not None and device in allowed.devices and time < allowed.until


@dataclass(frozen=True, slots=True)
class PhaseState:
    """How far an order has been opened: phases `0 .. opened - 1` are open while RUNNING."""

    order: str
    product: str
    opened: int
    status: PhaseStatus = PhaseStatus.RUNNING
    reason: str = field(default="")

    @property
    def target_path(self) -> str:
        return phases_path(self.product, self.order)


def order_path(product: str, order_id: str) -> str:
    """TUF target path of an order."""
    return f"orders/{product}/{order_id}.json"


def phases_path(product: str, order_id: str) -> str:
    """TUF target path of an order's phase state."""
    return f"phases/{product}/{order_id}.json"


def is_open_for(order: Order, state: PhaseState | None, member: Member) -> bool:
    """Whether `member` may install now: in the order's audience and in a phase that is open.

    A site's place in a phase is a hash of order and site, so that every device of a site and the
    coordinator agree without asking, and a site is never half in a phase.
    """
    if state is None or state.status is not PhaseStatus.RUNNING or state.order != order.id:
        return False
    if not order.audience.includes(member):
        return False
    place = site_place(order.id, member.site)
    return any(
        phase.audience.includes(member) and place < phase.sites_percent
        for phase in order.phases[: state.opened]
    )


def site_place(order_id: str, site: str) -> float:
    """A site's place within an order, uniform in [0, 100) and the same for everybody."""
    digest = hashlib.sha256(f"{order_id}\0{site}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48) * 100


def encode_order(order: Order) -> bytes:
    return dump_object(
        {
            "_type": ORDER_DOCUMENT,
            "spec": VERSION,
            "id": order.id,
            "product": order.product,
            "version": order.version,
            "counter": order.counter,
            "manifest": order.manifest.hex(),
            "sequence": order.sequence,
            "audience": audience_to_json(order.audience),
            "phases": [
                {
                    "name": p.name,
                    "audience": audience_to_json(p.audience),
                    "sites_percent": p.sites_percent,
                }
                for p in order.phases
            ],
            "allow_downgrade": list(order.allow_downgrade),
            "note": order.note,
        }
        | _stale_to_json(order.allow_stale)
    )


def decode_order(data: Buffer) -> Order:
    """Decode and check an order; raises `ContentError` naming the key at fault."""
    fields = load_object(data, "order", limits.ORDER_SIZE_MAX)
    fields.constant("_type", ORDER_DOCUMENT)
    fields.constant("spec", VERSION)
    order = Order(
        id=fields.name("id"),
        product=fields.name("product"),
        version=fields.name("version"),
        counter=fields.integer("counter", 1, COUNTER_MAX),
        manifest=fields.digest("manifest"),
        sequence=fields.integer("sequence", 1, COUNTER_MAX),
        audience=read_audience(fields.object("audience")),
        phases=tuple(_phase(p) for p in fields.objects("phases", length_max=PHASES_MAX)),
        allow_downgrade=fields.names("allow_downgrade"),
        note=fields.text("note"),
        allow_stale=_stale(fields.optional_object("allow_stale")),
    )
    fields.finish()
    if not order.phases:
        raise ContentError("order.phases: empty")
    return order


def encode_phase_state(state: PhaseState) -> bytes:
    return dump_object(
        {
            "_type": PHASES_DOCUMENT,
            "spec": VERSION,
            "order": state.order,
            "product": state.product,
            "opened": state.opened,
            "status": state.status.value,
            "reason": state.reason,
        }
    )


def decode_phase_state(data: Buffer) -> PhaseState:
    """Decode and check a phase state; raises `ContentError` naming the key at fault."""
    fields = load_object(data, "phases", limits.ORDER_SIZE_MAX)
    fields.constant("_type", PHASES_DOCUMENT)
    fields.constant("spec", VERSION)
    status = fields.text("status")
    if status not in set(PhaseStatus):
        raise ContentError(f"phases.status: {status!r} is unknown")
    state = PhaseState(
        order=fields.name("order"),
        product=fields.name("product"),
        opened=fields.integer("opened", 0, PHASES_MAX),
        status=PhaseStatus(status),
        reason=fields.text("reason"),
    )
    fields.finish()
    return state


def _stale(fields: Fields | None) -> StaleException | None:
    if fields is None:
        return None
    devices, text = fields.names("devices"), fields.text("until")
    fields.finish()
    if not devices:
        raise ContentError(f"{fields.what}.devices: empty")
    try:
        until = parse_time(text)
    except ValueError as error:
        raise ContentError(f"{fields.what}.until: not a date-time like 2030-01-02T03:04:05Z") from error
    if format_time(until) != text:
        raise ContentError(f"{fields.what}.until: not written like 2030-01-02T03:04:05Z")
    return StaleException(devices, until)


def _stale_to_json(stale: StaleException | None) -> dict[str, Any]:
    if stale is None:
        return {}
    return {"allow_stale": {"devices": list(stale.devices), "until": format_time(stale.until)}}


def read_audience(fields: Fields) -> Audience:
    """An audience inside another document; raises `ContentError`."""
    audience = Audience(
        all=fields.boolean("all"),
        groups=fields.names("groups"),
        sites=fields.names("sites"),
        devices=fields.names("devices"),
    )
    fields.finish()
    return audience


def _phase(fields: Fields) -> Phase:
    phase = Phase(
        name=fields.name("name"),
        audience=read_audience(fields.object("audience")),
        sites_percent=fields.integer("sites_percent", 0, 100),
    )
    fields.finish()
    return phase


def audience_to_json(audience: Audience) -> dict[str, Any]:
    """An audience as it is written into documents."""
    return {
        "all": audience.all,
        "groups": list(audience.groups),
        "sites": list(audience.sites),
        "devices": list(audience.devices),
    }
