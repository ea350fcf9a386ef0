"""A release as the fleet model needs it: sizes of the packs by name of base, no bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from p2p.content.digests import Digest
from p2p.content.manifest import PayloadSpec
from p2p.errors import OperatorError
from sim.scenario.model import NO_BASE, SyntheticRelease
from sim.world.synthetic import Material, make_material


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack: `base` None for the full one. `patched`: target bytes under patch frames."""

    base: str | None
    index: int
    frames: int
    patched: int

    @property
    def wan_bytes(self) -> int:
        """Payload bytes that the whole pack costs over a WAN."""
        return self.index + self.frames


@dataclass(frozen=True, slots=True)
class Packs:
    """All packs of one release's image of `size` bytes, the full pack first."""

    release: str
    size: int
    packs: tuple[Pack, ...]

    @property
    def full(self) -> Pack:
        """The pack that needs nothing."""
        return self.packs[0]

    def without_deltas(self) -> Packs:
        """As if only the full image had been published."""
        return Packs(self.release, self.size, self.packs[:1])

    def for_base(self, base: str) -> Pack:
        """The cheapest pack for a device that runs `base` and shares with nobody."""
        return min((p for p in self.packs if p.base in (None, base)), key=lambda p: p.wan_bytes)


def of_synthetic(release: SyntheticRelease) -> Packs:
    """Packs of a synthetic release, its indexes as the world makes them."""
    return of_material(make_material(release, 0, {}))


def of_material(material: Material) -> Packs:
    """Packs of a release as it is in the world; a delta pack from an image without a name is left out."""
    names = {digest: name for name, digest in material.bases.items()}
    found = []
    for ref in material.packs:
        base = None if ref.base is None else names.get(ref.base)
        if ref.base is not None and base is None:
            continue
        pieces = material.maps[ref.index.sha256].pieces
        patched = sum(p.target_length for p in pieces if p.is_patch)
        found.append(Pack(base, ref.index.size, ref.frames.size, patched))
    return Packs(material.name, material.size, tuple(sorted(found, key=lambda p: (p.base or "", p.frames))))


def of_payloads(name: str, payloads: Iterable[PayloadSpec], bases: Mapping[Digest, str]) -> Packs:
    """Packs of a published release. `bases`: image digests with the names that device classes use.

    Several payloads count as one image: a device that runs a base runs it in all of them. A delta pack
    from an image that `bases` does not name is left out. Raises `OperatorError` without payloads.
    """
    sizes: dict[str | None, list[Pack]] = {}
    payloads = tuple(payloads)
    if not payloads:
        raise OperatorError(f"release {name} has no payloads", next_step="choose another release")
    named = {bases[p.base] for x in payloads for p in x.packs if p.base is not None and p.base in bases}
    for payload in payloads:
        full = payload.full_pack
        sizes.setdefault(None, []).append(Pack(None, full.index.size, full.frames.size, 0))
        for base in sorted(named):
            ref = next((p for p in payload.packs if p.base is not None and bases.get(p.base) == base), full)
            patched = payload.image.size // 2 if ref.base is not None else 0
            sizes.setdefault(base, []).append(Pack(base, ref.index.size, ref.frames.size, patched))
    packs = tuple(
        Pack(base, sum(p.index for p in ps), sum(p.frames for p in ps), sum(p.patched for p in ps))
        for base, ps in sizes.items()
    )
    return Packs(name, sum(p.image.size for p in payloads), packs)


def known_bases(packs: Packs) -> tuple[str, ...]:
    """Names of the bases that have a delta pack."""
    return tuple(p.base for p in packs.packs if p.base is not None and p.base != NO_BASE)
