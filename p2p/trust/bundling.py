"""What belongs into a bundle: for whom, which releases, from which bases (`docs/spec/bundle.md`).

Everything signed that a device of the audience may ask for goes in, since it is small; of the frames,
which are large, what was chosen. `survey` reads all that is signed about a product, as a device would;
`choose` picks releases and packs from that; `fit` says what would not fit.

Pure: where files come from and go to is `p2p.bundles`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from p2p.content.bundle import BundleObject, Kind, pack_name
from p2p.content.digests import Digest
from p2p.content.manifest import Manifest, PackRef, PayloadSpec
from p2p.content.order import Audience, Order, PhaseState, PhaseStatus
from p2p.errors import ContentError, OperatorError, TrustError
from p2p.trust.client import TrustClient
from p2p.trust.documents import digest_of
from p2p.trust.need import Steps
from p2p.trust.release import listed_orders, read_manifest, read_orders, read_phase_state
from p2p.trust.revocations import read_revocations

EVERYBODY = Audience(all=True)

_ORDERS_ROLE = "orders-"


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is signed about one product: orders and manifests by digest, phase states by order id.

    `documents`: the digests of all of them, to be kept together.
    """

    product: str
    orders: dict[Digest, Order]
    states: dict[str, PhaseState]
    manifests: dict[Digest, Manifest]
    documents: frozenset[Digest] = frozenset()

    def is_open(self, order: Order) -> bool:
        """Whether any phase of an order is open."""
        state = self.states.get(order.id)
        return state is not None and state.status is PhaseStatus.RUNNING and state.opened > 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """For whom a bundle is made.

    `versions` empty: what open orders mean for the audience. `hardware` empty: any. `bases` None: every
    published pack; else only packs from these images. `full`: the full packs too, from which a device makes
    an image whatever it holds.
    """

    audience: Audience = EVERYBODY
    hardware: frozenset[str] = frozenset()
    versions: tuple[str, ...] = ()
    bases: frozenset[Digest] | None = None
    full: bool = True


@dataclass(frozen=True, slots=True)
class ChosenPack:
    """A pack of a release. `whole` False: its index alone, which makes its chunks known to peers."""

    product: str
    version: str
    payload: str
    pack: PackRef
    whole: bool

    @property
    def name(self) -> str:
        return pack_name(self.product, self.version, self.payload, self.pack.base)

    @property
    def size(self) -> int:
        """Bytes that it takes in a bundle."""
        return self.pack.index.size + (self.pack.frames.size if self.whole else 0)

    def objects(self) -> list[BundleObject]:
        """The index, and the frames if they are to be in."""
        index = BundleObject(Kind.INDEX, self.name, self.pack.index)
        return [index, BundleObject(Kind.FRAMES, self.name, self.pack.frames)] if self.whole else [index]


@dataclass(frozen=True, slots=True)
class Choice:
    """Releases that were chosen, with the orders that name them, and their packs."""

    releases: tuple[tuple[Order, Manifest], ...] = ()
    packs: tuple[ChosenPack, ...] = field(default=())


def products_of(client: TrustClient) -> Steps[tuple[str, ...]]:
    """Products that may be ordered, after a refresh."""
    roles = yield from client.delegated()
    return tuple(role.removeprefix(_ORDERS_ROLE) for role in roles if role.startswith(_ORDERS_ROLE))


def survey(client: TrustClient, product: str) -> Steps[Survey]:
    """Read every order of a product in force, its phase state and its manifest, after a refresh.

    Whatever a device of any audience asks for is asked for here too, the revocation list included. A badly
    made document is as good as none, as for a device.
    """
    with suppress(TrustError, ContentError):
        yield from read_revocations(client)
    return (yield from survey_releases(client, product))


def survey_releases(client: TrustClient, product: str) -> Steps[Survey]:
    """As `survey`, without the revocation list, which is no product's."""
    listed = yield from listed_orders(client, product)
    orders = yield from read_orders(client, product, listed)
    states: dict[str, PhaseState] = {}
    manifests: dict[Digest, Manifest] = {}
    documents = {digest for target in listed.values() if (digest := digest_of(target)) is not None}
    for order in orders.values():
        state = yield from read_phase_state(client, order)
        if state is not None:
            documents.add(state[0])
            states[order.id] = state[1]
        manifest = yield from read_manifest(client, order)
        if manifest is not None:
            documents.add(order.manifest)
            manifests[order.manifest] = manifest
    return Survey(product, orders, states, manifests, frozenset(documents))


def choose(found: Survey, wanted: Wanted) -> Choice:
    """The releases and packs of a product that `wanted` asks for.

    Raises `OperatorError` when a version is not ordered, or a payload could not be made by any device.
    """
    releases = _versions(found, wanted) if wanted.versions else _meant(found, wanted)
    packs: dict[str, ChosenPack] = {}
    for _, manifest in releases:
        for payload in manifest.payloads:
            for chosen in _packs(manifest, payload, wanted):
                packs.setdefault(chosen.name, chosen)
    return Choice(tuple(releases), tuple(sorted(packs.values(), key=lambda p: (not p.whole, p.size, p.name))))


def fit(others: int, packs: Sequence[ChosenPack], size_max: int) -> None:
    """Raise `OperatorError` naming the packs that do not fit beside `others` bytes into `size_max`.

    The smaller packs come first, so that what is named is what to leave out.
    """
    left, missing = size_max - others, []
    for chosen in packs:
        if chosen.size <= left:
            left -= chosen.size
        else:
            missing.append(chosen)
    total = others + sum(p.size for p in packs)
    if total <= size_max:
        return
    lines = "".join(f"\n  does not fit: {p.name} ({p.size} bytes)" for p in missing)
    raise OperatorError(
        f"the bundle would have {total} bytes, {total - size_max} more than {size_max}{lines}",
        kept="nothing was written",
        next_step="choose fewer bases (--base, --no-full) or releases (--release), or take a larger medium",
    )


def _meant(found: Survey, wanted: Wanted) -> list[tuple[Order, Manifest]]:
    """What open orders mean for devices of the audience, the order that counts first coming first."""
    meant: list[tuple[Order, Manifest]] = []
    settled: set[str] = set()  # hardware of which every device goes by a later order
    for order in sorted(found.orders.values(), key=lambda o: (o.sequence, o.id), reverse=True):
        manifest = found.manifests.get(order.manifest)
        if manifest is None or not found.is_open(order) or not _overlap(order.audience, wanted.audience):
            continue
        hardware = set(manifest.hardware) - settled
        if wanted.hardware:
            hardware &= wanted.hardware
        if not hardware:
            continue
        meant.append((order, manifest))
        if _means_everybody(order, found.states[order.id]):
            settled |= set(manifest.hardware)
    return meant


def _versions(found: Survey, wanted: Wanted) -> list[tuple[Order, Manifest]]:
    ranked = sorted(found.orders.values(), key=lambda o: (o.sequence, o.id), reverse=True)
    ordered = [(o, m) for o in ranked if (m := found.manifests.get(o.manifest)) is not None]
    chosen: dict[str, tuple[Order, Manifest]] = {}
    for order, manifest in ordered:
        if manifest.version in wanted.versions:
            chosen.setdefault(manifest.version, (order, manifest))
    absent = [version for version in wanted.versions if version not in chosen]
    if absent:
        known = ", ".join(sorted({m.version for _, m in ordered})) or "none"
        raise OperatorError(
            f"{found.product} {absent[0]} is not ordered (ordered: {known})",
            next_step="a device installs nothing without an order: slipstream order create",
        )
    return list(chosen.values())


def _packs(manifest: Manifest, payload: PayloadSpec, wanted: Wanted) -> Iterable[ChosenPack]:
    def chosen(pack: PackRef, whole: bool) -> ChosenPack:
        return ChosenPack(manifest.product, manifest.version, payload.name, pack, whole)

    deltas = [p for p in payload.packs if p.base is not None]
    if wanted.bases is not None:
        deltas = [p for p in deltas if p.base in wanted.bases]
    if not deltas and not wanted.full:
        known = ", ".join(p.base.hex() for p in payload.packs if p.base is not None) or "none"
        raise OperatorError(
            f"{manifest.product} {manifest.version}: no pack of {payload.name} starts from the chosen bases",
            next_step=f"leave out --no-full, or choose of the published bases: {known}",
        )
    return [*(chosen(pack, True) for pack in deltas), chosen(payload.full_pack, wanted.full)]


def _overlap(one: Audience, other: Audience) -> bool:
    """Whether two audiences may have a device in common, as far as names tell."""
    return (
        one.all
        or other.all
        or _share(one.groups, other.groups)
        or _share(one.sites, other.sites)
        or _share(one.devices, other.devices)
    )


def _share(one: Collection[str], other: Collection[str]) -> bool:
    return not set(one).isdisjoint(other)


def _means_everybody(order: Order, state: PhaseState) -> bool:
    phases = order.phases[: state.opened]
    return order.audience.all and any(p.audience.all and p.sites_percent == 100 for p in phases)
