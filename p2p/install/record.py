"""What a device durably knows of the release that it installs, as one small JSON document.

A hint: the boot environment says what runs, the slots say what they hold. A record that is lost or
damaged costs a download at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from p2p.content import limits
from p2p.content.digests import Buffer, Digest, parse_digest
from p2p.content.fields import Fields, check_name, dump_object, load_object
from p2p.content.manifest import COUNTER_MAX
from p2p.errors import ContentError

_T = TypeVar("_T")

RECORD_NAME = "install.json"
RECORD_SIZE_MAX = 1 << 20
DOCUMENT = "slipstream-install"
VERSION = 1
REASON_LENGTH_MAX = 2000


class State(StrEnum):
    """Where a device stands. Everything up to `WRITTEN` leaves the running slot alone."""

    IDLE = "idle"
    VERIFIED = "verified"  # order and manifest are verified
    FETCHING = "fetching"  # indexes are fetched, the pack is chosen
    STAGED = "staged"  # the plan is whole: slot, payloads, sizes, room
    SLOT_INVALID = "slot-invalid"  # the target slot no longer counts as an image
    WRITING = "writing"  # verified frames go straight to the slot
    WRITTEN = "written"  # read back from the medium with the signed digest
    ARMED = "armed"  # the boot environment tries the slot next
    TRIAL = "trial"  # running from it, not yet trusted
    COMMITTED = "committed"  # found healthy
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Release:
    """The release that is installed, by its manifest, and the order that lets it be."""

    product: str
    version: str
    counter: int
    manifest: Digest
    order: str


@dataclass(frozen=True, slots=True)
class PlannedPayload:
    """One image for the target slot. `held`: the slot has it already, nothing is written."""

    name: str
    type: str
    image: Digest
    size: int
    held: bool = False


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """All that will be written, and where, before the first byte changes."""

    slot: str
    payloads: tuple[PlannedPayload, ...]

    @property
    def to_write(self) -> tuple[PlannedPayload, ...]:
        return tuple(p for p in self.payloads if not p.held)


@dataclass(frozen=True, slots=True)
class Installed:
    """The last release that was committed, and its slot."""

    release: Release
    slot: str


@dataclass(frozen=True, slots=True)
class InstallRecord:
    """The state and what it is about.

    `boot_id`: the boot at which the slot was armed or last started. `reason`: why the last install
    failed or was rolled back. `blocked`: manifests that are not tried again by themselves (their trial
    failed, or what was written could not be read back), oldest first.
    """

    state: State = State.IDLE
    release: Release | None = None
    plan: InstallPlan | None = None
    boot_id: str = ""
    reason: str = ""
    installed: Installed | None = None
    blocked: tuple[Digest, ...] = ()


def encode_record(record: InstallRecord) -> bytes:
    """The document's bytes; `decode_record(encode_record(x)) == x`."""
    body: dict[str, Any] = {
        "_type": DOCUMENT,
        "spec": VERSION,
        "state": record.state.value,
        "boot_id": record.boot_id,
        "reason": record.reason[:REASON_LENGTH_MAX],
        "blocked": [digest.hex() for digest in record.blocked],
    }
    if record.release is not None:
        body["release"] = _release_to_json(record.release)
    if record.plan is not None:
        body["plan"] = {
            "slot": record.plan.slot,
            "payloads": [
                {"name": p.name, "type": p.type, "image": p.image.hex(), "size": p.size, "held": p.held}
                for p in record.plan.payloads
            ],
        }
    if record.installed is not None:
        body["installed"] = {
            "release": _release_to_json(record.installed.release),
            "slot": record.installed.slot,
        }
    return dump_object(body)


def decode_record(data: Buffer) -> InstallRecord:
    """Decode and check a record; raises `ContentError` naming the key at fault."""
    fields = load_object(data, "install", RECORD_SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    state = fields.text("state")
    if state not in set(State):
        raise ContentError(f"install.state: {state!r} is unknown")
    record = InstallRecord(
        state=State(state),
        boot_id=fields.text("boot_id"),
        reason=fields.text("reason"),
        blocked=tuple(parse_digest(d, "install.blocked") for d in fields.names("blocked")),
        release=_optional(fields, "release", _release),
        plan=_optional(fields, "plan", _plan),
        installed=_optional(fields, "installed", _installed),
    )
    fields.finish()
    return record


def _optional(fields: Fields, key: str, decode: Callable[[Fields], _T]) -> _T | None:
    found = fields.optional_object(key)
    return None if found is None else decode(found)


def _release(fields: Fields) -> Release:
    release = Release(
        product=fields.name("product"),
        version=fields.name("version"),
        counter=fields.integer("counter", 1, COUNTER_MAX),
        manifest=fields.digest("manifest"),
        order=fields.name("order"),
    )
    fields.finish()
    return release


def _plan(fields: Fields) -> InstallPlan:
    payloads = []
    for item in fields.objects("payloads", length_max=limits.PAYLOADS_MAX):
        payloads.append(
            PlannedPayload(
                name=item.name("name"),
                type=item.name("type"),
                image=item.digest("image"),
                size=item.integer("size", 0, limits.IMAGE_SIZE_MAX),
                held=item.boolean("held"),
            )
        )
        item.finish()
    plan = InstallPlan(slot=check_name(fields.text("slot"), "install.plan.slot"), payloads=tuple(payloads))
    fields.finish()
    return plan


def _installed(fields: Fields) -> Installed:
    installed = Installed(_release(fields.object("release")), fields.name("slot"))
    fields.finish()
    return installed


def _release_to_json(release: Release) -> dict[str, Any]:
    return {
        "product": release.product,
        "version": release.version,
        "counter": release.counter,
        "manifest": release.manifest.hex(),
        "order": release.order,
    }
