"""The one call of the agent: which release is this device meant to run?

Drives the trust client from the timestamp to the manifest: refresh, the orders that name the device,
their phase states, the manifest of the order that counts. What has not changed comes from the cache,
what is no longer named is dropped from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.metadata import TargetFile

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, decode_manifest, manifest_path
from p2p.content.order import (
    Member,
    Order,
    PhaseState,
    decode_order,
    decode_phase_state,
    order_path,
    phases_path,
)
from p2p.errors import ContentError, TrustError
from p2p.trust.client import TrustClient
from p2p.trust.documents import digest_of
from p2p.trust.need import Steps
from p2p.trust.policy import Decision, decide, open_orders
from p2p.trust.revocations import Revocations, learn_revocations

PHASES_ROLE = "phases"


def orders_role(product: str) -> str:
    """Name of the TUF role of the people who may deploy `product`."""
    return f"orders-{product}"


def product_role(product: str) -> str:
    """Name of the TUF role of the people who may release `product`."""
    return f"product-{product}"


@dataclass(frozen=True, slots=True)
class Question:
    """Which release of `product` is `member` meant to run?

    `floor` and `installed` are those of `p2p.trust.policy.decide`. `revocations` takes the list of revoked
    devices, if there is one, before anything is decided.
    """

    member: Member
    product: str
    hardware: str
    floor: int
    installed: Digest | None = None
    revocations: Revocations | None = None


def release_for(client: TrustClient, question: Question, now: float) -> Steps[Decision]:
    """Refresh, then decide (`p2p.trust.policy.decide`). `now`: the device's wall clock.

    Raises `TrustError` when the metadata cannot be trusted or is stale, what the driver threw when
    a file cannot be had. A single order, phase state or manifest that is badly made is as good as
    none: it can hold back only what it is about.
    """
    member, product, hardware = question.member, question.product, question.hardware
    yield from client.refresh(now)
    revoked: set[Digest] = set()
    if question.revocations is not None:
        revoked = yield from learn_revocations(client, question.revocations)
    listed = yield from listed_orders(client, product)
    orders = yield from read_orders(client, product, listed)
    states: dict[str, PhaseState] = {}
    used = revoked | {digest for target in listed.values() if (digest := digest_of(target)) is not None}
    for order in orders.values():
        if not order.audience.includes(member):
            continue
        found = yield from read_phase_state(client, order)
        if found is not None:
            digest, state = found
            states[order.id] = state
            used.add(digest)
    manifests: dict[Digest, Manifest] = {}
    for _, order in open_orders(member, product, orders, states):
        manifest = yield from read_manifest(client, order)
        if manifest is None:
            break
        manifests[order.manifest] = manifest
        used.add(order.manifest)
        if hardware in manifest.hardware:
            break
    client.prune(used)
    return decide(member, product, hardware, orders, states, manifests, question.floor, question.installed)


def listed_orders(client: TrustClient, product: str) -> Steps[dict[str, TargetFile]]:
    """What the role of a product's deployers lists, after a refresh; nothing where there is no such role."""
    try:
        listed = yield from client.listing(orders_role(product))
    except TrustError as error:
        if error.reason in ("not-delegated", "not-in-snapshot"):  # no such product, or no order of it yet
            return {}
        raise
    if len(listed) > limits.ORDERS_PER_PRODUCT_MAX:
        raise TrustError(
            "too-many-orders", f"{product}: {len(listed)} orders are over {limits.ORDERS_PER_PRODUCT_MAX}"
        )
    return listed


def read_orders(
    client: TrustClient, product: str, listed: dict[str, TargetFile]
) -> Steps[dict[Digest, Order]]:
    """The well-made orders of `product`, by digest."""
    orders: dict[Digest, Order] = {}
    for path, target in sorted(listed.items()):
        try:
            data = yield from _target(client, target, limits.ORDER_SIZE_MAX)
            order = client.reader.decode(decode_order, data)
        except ContentError:
            continue
        if path == order_path(product, order.id) and order.product == product:
            orders[sha256(data)] = order
    return orders


def read_phase_state(client: TrustClient, order: Order) -> Steps[tuple[Digest, PhaseState] | None]:
    """How far an order is open; None where nobody says so, or says it badly."""
    target = yield from client.find_target(phases_path(order.product, order.id))
    if target is None:
        return None
    try:
        data = yield from _target(client, target, limits.ORDER_SIZE_MAX)
        return sha256(data), client.reader.decode(decode_phase_state, data)
    except ContentError:
        return None


def read_manifest(client: TrustClient, order: Order) -> Steps[Manifest | None]:
    """The manifest that an order names; None where another one, or none, is signed as that release."""
    target = yield from client.find_target(manifest_path(order.product, order.version))
    if target is None or digest_of(target) != order.manifest:
        return None
    try:
        data = yield from _target(client, target, limits.MANIFEST_SIZE_MAX)
        return client.reader.decode(decode_manifest, data)
    except ContentError:
        return None


def _target(client: TrustClient, target: TargetFile, size_max: int) -> Steps[bytes]:
    """As `client.target`; one that is signed without a digest or too long is a badly made document."""
    try:
        return (yield from client.target(target, size_max))
    except TrustError as error:
        if error.reason in ("no-digest", "too-long"):
            raise ContentError(error.message) from error
        raise
