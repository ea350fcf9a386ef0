"""Looking at a bundle: what is in it, whether it is whole, and whether a device would believe it.

Every object is read and its digest checked; what is said of releases and orders comes from the signed
documents, not from the table of contents. With a root, the metadata is verified as a device with that
pinned root does, on an empty state, so that an expired or forged bundle is told before the journey.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from p2p.adapters.bundle_files import BundleReader
from p2p.adapters.directory_origin import BundleOrigin
from p2p.bundles.copying import Progress
from p2p.bundles.export import Gathering, open_index
from p2p.content.bundle import BundleObject, Kind, pack_name
from p2p.content.digests import Digest, parse_digest
from p2p.content.manifest import Manifest, PackRef, decode_manifest
from p2p.content.order import Order, PhaseState, decode_order, decode_phase_state
from p2p.content.revocation import Revocation, decode_part
from p2p.content.times import format_time, parse_time
from p2p.delta.rebuild import check_frames
from p2p.errors import ContentError, OriginError, SlipstreamError, StoreError, TrustError
from p2p.trust import EmptyStore, Overlay, TrustClient, run_async
from p2p.trust.bundling import Survey, products_of, survey


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that is not what its digest says, and why."""

    found: BundleObject
    reason: str


@dataclass(slots=True)
class Inspection:
    """What was found. `refused`: why a device with the given root would not believe it, None if it would.

    `verified`: whether a root was given. `expires`: what each signed file says of itself (POSIX seconds).
    """

    reader: BundleReader
    damaged: list[Damage] = field(default_factory=list)
    orders: list[tuple[Order, PhaseState | None]] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    revoked: list[Revocation] = field(default_factory=list)
    expires: dict[str, float] = field(default_factory=dict)
    verified: bool = False
    refused: TrustError | None = None

    def facts(self, now: float) -> dict[str, Any]:
        """As `--json` prints them."""
        table = self.reader.table
        held = {(o.kind, o.name) for o in table.objects}
        first = min(self.expires.items(), key=lambda item: item[1], default=None)
        return {
            "bundle": self.reader.directory,
            "created": format_time(table.created),
            "size": table.size,
            "objects": len(table.objects),
            "products": list(table.products),
            "hardware": list(table.hardware),
            "audience": {
                "all": table.audience.all,
                "groups": list(table.audience.groups),
                "sites": list(table.audience.sites),
                "devices": list(table.audience.devices),
            },
            "roots": [int(o.name) for o in table.of(Kind.ROOT)],
            "expires": {name: format_time(at) for name, at in sorted(self.expires.items())},
            "expired": first is not None and first[1] <= now,
            "first_to_expire": None if first is None else first[0],
            "orders": [_order_facts(order, state) for order, state in self.orders],
            "releases": [_release_facts(manifest, held) for manifest in self.manifests],
            "revoked": [
                {"device": r.device, "reason": r.reason.value, "certificate": r.certificate.hex()}
                for r in self.revoked
            ],
            "damaged": [
                {"kind": d.found.kind.value, "name": d.found.name, "sha256": d.found.ref.sha256.hex(),
                 "reason": d.reason}
                for d in self.damaged
            ],
            "signatures": None if not self.verified else {
                "valid": self.refused is None,
                "reason": None if self.refused is None else self.refused.reason,
                "message": None if self.refused is None else self.refused.message,
            },
        }  # fmt: skip


async def inspect_bundle(
    directory: str, now: float, progress: Progress, *, root: bytes | None = None, quick: bool = False
) -> Inspection:
    """Read everything and check it (`quick`: only files' sizes, and what is signed).

    Raises `OperatorError` where there is no bundle, `ContentError` for a table that is none.
    """
    reader = BundleReader.open(directory)
    found = Inspection(reader)
    if quick:
        found.damaged = [Damage(o, "a file is missing or has another size") for o in reader.lacks()]
    else:
        read: dict[Digest, str | None] = {}
        for o in reader.table.objects:
            if o.ref.sha256 not in read:  # a large one that is named often is read once
                read[o.ref.sha256] = _damage(reader, o, progress)
            if (reason := read[o.ref.sha256]) is not None:
                found.damaged.append(Damage(o, reason))
    bad = {d.found.ref.sha256 for d in found.damaged}
    whole: dict[tuple[Kind, str, Digest], BundleObject] = {}
    for o in reader.table.objects:
        if o.ref.sha256 not in bad:  # each once, however often the table names it
            what = o.name.partition("/")[0] if o.kind is Kind.DOCUMENT else ""
            whole.setdefault((o.kind, what, o.ref.sha256), o)
    _read_documents(found, reader, list(whole.values()))
    if root is not None:
        found.verified = True
        try:
            await _verify(reader, root, now)
        except TrustError as error:
            found.refused = error
        except OriginError as error:
            found.refused = TrustError("incomplete", error.message)
    return found


async def _verify(reader: BundleReader, root: bytes, now: float) -> list[Survey]:
    client = TrustClient(Overlay(EmptyStore()), root)
    gathered = Gathering(BundleOrigin(reader))
    await run_async(client.refresh(now), gathered.answer)
    known = await run_async(products_of(client), gathered.answer)
    named = [product for product in known if product in reader.table.products]
    return [await run_async(survey(client, product), gathered.answer) for product in named]


def _damage(reader: BundleReader, found: BundleObject, progress: Progress) -> str | None:
    state = hashlib.sha256()
    try:
        for part in reader.parts(found, 0, found.ref.size):
            state.update(part)
            progress(len(part))
    except (ContentError, StoreError) as error:
        return error.message
    if state.digest() == found.ref.sha256:
        return None
    return _first_bad_frame(reader, found) or "wrong digest"


def _first_bad_frame(reader: BundleReader, found: BundleObject) -> str | None:
    """Which frame of a damaged frames object is wrong, if its index tells."""
    if found.kind is not Kind.FRAMES:
        return None
    entry = next((o for o in reader.table.of(Kind.INDEX) if o.name == found.name), None)
    if entry is None:
        return None

    def read(offset: int, length: int) -> bytes:
        return b"".join(reader.parts(found, offset, min(offset + length, found.ref.size)))

    try:
        index = open_index(reader.whole(entry), PackRef(_base(found), entry.ref, found.ref), found.name)
        check_frames(index, read)
    except SlipstreamError as error:
        return error.message
    return None


def _base(found: BundleObject) -> Digest | None:
    last = found.name.rpartition("/")[2]
    return None if last == "full" else parse_digest(last, "the pack's name")


def _read_documents(found: Inspection, reader: BundleReader, objects: list[BundleObject]) -> None:
    orders: list[Order] = []
    states: dict[tuple[str, str], PhaseState] = {}
    for o in objects:
        try:
            if o.kind in (Kind.ROOT, Kind.TIMESTAMP, Kind.METADATA):
                name = o.name if o.kind is not Kind.ROOT else "root"
                found.expires[name] = _expiry(reader.whole(o))
            elif o.kind is Kind.DOCUMENT and o.name.startswith("orders/"):
                orders.append(decode_order(reader.whole(o)))
            elif o.kind is Kind.DOCUMENT and o.name.startswith("phases/"):
                state = decode_phase_state(reader.whole(o))
                states[state.product, state.order] = state
            elif o.kind is Kind.DOCUMENT and o.name.startswith("revocations/"):
                found.revoked += decode_part(reader.whole(o)).revoked
            elif o.kind is Kind.DOCUMENT and o.name.startswith("manifests/"):
                found.manifests.append(decode_manifest(reader.whole(o)))
        except ContentError as error:
            found.damaged.append(Damage(o, error.message))
    found.orders = [(order, states.get((order.product, order.id))) for order in orders]


def _expiry(data: bytes) -> float:
    try:
        return parse_time(json.loads(data)["signed"]["expires"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ContentError(f"no TUF metadata ({type(error).__name__})") from error


def _order_facts(order: Order, state: PhaseState | None) -> dict[str, Any]:
    stale = order.allow_stale
    return {
        "product": order.product,
        "order": order.id,
        "version": order.version,
        "sequence": order.sequence,
        "audience": {
            "all": order.audience.all,
            "groups": list(order.audience.groups),
            "sites": list(order.audience.sites),
            "devices": list(order.audience.devices),
        },
        "phases": len(order.phases),
        "opened": 0 if state is None else state.opened,
        "status": None if state is None else state.status.value,
        "allow_downgrade": list(order.allow_downgrade),
        "allow_stale": None
        if stale is None
        else {"devices": list(stale.devices), "until": format_time(stale.until)},
    }


def _release_facts(manifest: Manifest, held: set[tuple[Kind, str]]) -> dict[str, Any]:
    return {
        "product": manifest.product,
        "version": manifest.version,
        "counter": manifest.counter,
        "hardware": list(manifest.hardware),
        "payloads": [
            {
                "name": payload.name,
                "image": payload.image.sha256.hex(),
                "size": payload.image.size,
                "packs": [
                    {
                        "base": None if pack.base is None else pack.base.hex(),
                        "size": pack.wan_bytes,
                        "here": (
                            Kind.FRAMES,
                            pack_name(manifest.product, manifest.version, payload.name, pack.base),
                        )
                        in held,
                    }
                    for pack in payload.packs
                ],
            }
            for payload in manifest.payloads
        ],
    }
