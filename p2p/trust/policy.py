"""What a device should install: only what a valid manifest and a valid order name.

Pure decisions on documents that were already verified; `p2p.trust.release` fetches them. When the
update starts, and how, is the agent's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2p.content.digests import Digest
from p2p.content.manifest import Manifest
from p2p.content.order import Member, Order, PhaseState, is_open_for


@dataclass(frozen=True, slots=True)
class Meant:
    """The release that this device is meant to run, with everything that says so."""

    order: Order
    order_digest: Digest
    manifest: Manifest
    manifest_digest: Digest


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to install. `reason` is a stable word, `detail` for people.

    `no-order`: no order names this device. `not-open`: one does, in no phase that is open (or it is
    paused or aborted). `hardware`: those that are open are for other hardware. `no-manifest`: the
    release that the order names is not signed (yet). `manifest-mismatch`: it is signed as something
    else than what the order's signers saw. `below-floor`: it would be a downgrade. `installed`: it is.
    """

    reason: str
    detail: str = ""


Decision = Meant | Nothing


def open_orders(
    member: Member, product: str, orders: Mapping[Digest, Order], states: Mapping[str, PhaseState]
) -> list[tuple[Digest, Order]]:
    """The orders of `product` that are open for `member`, the one that counts first.

    `states`: by order id. Of equal sequence numbers the higher id counts, so that all devices agree.
    """
    found = [
        (digest, order)
        for digest, order in orders.items()
        if order.product == product and is_open_for(order, _state_of(order, states), member)
    ]
    return sorted(found, key=lambda pair: (pair[1].sequence, pair[1].id), reverse=True)


def decide(
    member: Member,
    product: str,
    hardware: str,
    orders: Mapping[Digest, Order],
    states: Mapping[str, PhaseState],
    manifests: Mapping[Digest, Manifest],
    floor: int,
    installed: Digest | None = None,
) -> Decision:
    """What `member` should install.

    `orders` and `manifests`: verified documents by their digest; `states`: by order id. `floor`: the
    lowest release counter that is allowed (`p2p.trust.floors`). `installed`: digest of the manifest
    of the release that runs. The open order with the highest sequence whose manifest is for this
    hardware decides; one that is refused is not replaced by an older one.
    """
    ranked = open_orders(member, product, orders, states)
    if not ranked:
        return _why_none(member, product, orders)
    for digest, order in ranked:
        manifest = manifests.get(order.manifest)
        if manifest is None:
            return Nothing("no-manifest", f"order {order.id}: release {order.version} is not signed")
        if (manifest.product, manifest.version, manifest.counter) != (product, order.version, order.counter):
            return Nothing(
                "manifest-mismatch",
                f"order {order.id}: names {order.product} {order.version} ({order.counter}), the manifest"
                f" is of {manifest.product} {manifest.version} ({manifest.counter})",
            )
        if hardware not in manifest.hardware:
            continue
        if manifest.counter < floor and member.device not in order.allow_downgrade:
            return Nothing(
                "below-floor", f"order {order.id}: release counter {manifest.counter} is below {floor}"
            )
        if installed == order.manifest:
            return Nothing("installed", f"order {order.id}: {order.version} is installed")
        return Meant(order, digest, manifest, order.manifest)
    return Nothing("hardware", f"no open order has a release for hardware {hardware}")


def _state_of(order: Order, states: Mapping[str, PhaseState]) -> PhaseState | None:
    state = states.get(order.id)
    return state if state is not None and state.product == order.product else None


def _why_none(member: Member, product: str, orders: Mapping[Digest, Order]) -> Nothing:
    named = [o.id for o in orders.values() if o.product == product and o.audience.includes(member)]
    if named:
        return Nothing("not-open", f"not open for {member.device} (yet): {', '.join(sorted(named))}")
    return Nothing("no-order", f"no order of {product} names {member.device}")
