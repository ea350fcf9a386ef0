"""What a carrier takes along for others: which images, by interest and within a quota. Pure.

What is for hardware that the carrier meets goes before all else. Then a product that comes first goes before
others, the newest order of a product before older ones. What does
not fit is left out, and something smaller may still fit: so that one huge image does not keep the rest at
home. The same image is taken once. What the carrier itself may install is not its cargo: it has that in its
slots. Not for who is interested in what (`p2p.agent.interest`), nor for the files (`p2p.agent.hold`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2p.content.digests import Digest
from p2p.content.manifest import Manifest, PayloadSpec
from p2p.trust.bundling import Survey, Wanted, choose

__all__ = ["Cargo", "Parcel", "load"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """One payload of a release, for whoever may install it."""

    product: str
    version: str
    payload: PayloadSpec

    @property
    def image(self) -> Digest:
        return self.payload.image.sha256

    @property
    def size(self) -> int:
        """Bytes that it takes: the image, and the index by which it is given to others."""
        return self.payload.image.size + self.payload.full_pack.index.size

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.product} {self.version} {self.payload.name}"


@dataclass(frozen=True, slots=True)
class Cargo:
    """What is taken along, in the order in which it is fetched, and what there is no room for."""

    parcels: tuple[Parcel, ...] = ()
    left_out: tuple[Parcel, ...] = ()


def load(
    surveys: Mapping[str, Survey],
    products: Sequence[str],
    quota: int,
    product: str,
    hardware: str,
    met: Collection[tuple[str, str]] = (),
) -> Cargo:
    """Fill `quota` bytes with what open orders mean, of `products` in their order.

    `surveys`: those, and the carrier's own `product`, which it runs on `hardware`. `met`: products and
    hardware ids of those that it comes to; of its own product nothing else is taken along, unless `products`
    names it.
    """
    mine = _meant(surveys[product]) if product in surveys else []
    own = {p.image.sha256 for manifest in mine if hardware in manifest.hardware for p in manifest.payloads}
    taken: dict[Digest, Parcel] = {}
    left_out: dict[Digest, Parcel] = {}
    room = quota
    all_meant = [m for name in products if name in surveys for m in _meant(surveys[name])] + mine
    for_met = [m for m in all_meant if any((m.product, one) in met for one in m.hardware)]
    listed = [m for m in all_meant if m.product in products]
    for parcel in _parcels([*for_met, *listed]):
        if parcel.image in own or parcel.image in taken or parcel.image in left_out:
            continue
        if parcel.size > room:
            left_out[parcel.image] = parcel
        else:
            taken[parcel.image] = parcel
            room -= parcel.size
    return Cargo(tuple(taken.values()), tuple(left_out.values()))


def _meant(found: Survey) -> list[Manifest]:
    """What open orders mean for anybody, the newest order first."""
    return [manifest for _, manifest in choose(found, Wanted()).releases]


def _parcels(manifests: Iterable[Manifest]) -> Iterable[Parcel]:
    for manifest in manifests:
        for payload in manifest.payloads:
            yield Parcel(manifest.product, manifest.version, payload)
