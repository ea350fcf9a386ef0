"""What a release is in the world: its packs as real indexes, and the digests of its bases.

A `SyntheticRelease` becomes real `PackIndex` objects, encoded as real bytes, over bytes that do not
exist; `material_of_manifest` takes a release that stands in a repository, whose manifest and indexes
the caller has read. Payload bytes are never there: frames and chunks are lengths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256 as _sha256

from p2p.content import index as pack_index
from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.index import Chunk, Codec, Compression, Copy, Data, PackIndex, Patch, ViewRange
from p2p.content.manifest import ObjectRef, PackRef, decode_manifest
from p2p.content.pieces import PieceMap
from p2p.errors import OperatorError
from p2p.swarm.events import ImageTask
from sim.scenario.model import DeltaSpec, SyntheticRelease

FRAME = limits.MIB
"""Target bytes of a data frame, as the builder makes them."""


@dataclass(frozen=True, slots=True)
class Material:
    """A release in the world. `indexes`: encoded, by digest; `bases`: what the scenario calls bases."""

    name: str
    image: Digest
    size: int
    packs: tuple[PackRef, ...]
    indexes: Mapping[Digest, bytes]
    maps: Mapping[Digest, PieceMap]
    bases: Mapping[str, Digest]
    between: Mapping[Digest, int]
    """By base: what a delta from it weighs, published or not, as far as the scenario says."""
    manifest: bytes = b""
    """The real manifest, where there is one."""

    def task(self, base: Digest | None) -> ImageTask:
        """What a node is told to make."""
        return ImageTask(self.image, self.size, base, self.packs)

    def pack_for(self, base: Digest | None) -> PackRef | None:
        return next((p for p in self.packs if p.base == base), None)


def name_digest(seed: int, kind: str, name: str) -> Digest:
    """The digest that stands for an image that is only a name: another one for another seed."""
    return Digest(_sha256(f"{seed}/{kind}/{name}".encode()).digest())


def make_material(release: SyntheticRelease, seed: int, images: Mapping[str, Digest]) -> Material:
    """A synthetic release. `images`: digests of bases that are releases of the scenario themselves."""
    rng = random.Random(f"{seed}/release/{release.name}")
    image = images.get(release.name) or name_digest(seed, "image", release.name)
    bases = {d.base: images.get(d.base) or name_digest(seed, "image", d.base) for d in release.deltas}
    indexes = [_full_index(image, release, rng)]
    published = (d for d in release.deltas if d.published)
    indexes += [_delta_index(image, release.size, bases[d.base], d, rng) for d in published]
    packs, objects, maps = [], {}, {}
    for index in indexes:
        data = pack_index.encode(index)
        name = sha256(data)
        objects[name], maps[name] = data, PieceMap(index)
        frames = ObjectRef(Digest(rng.randbytes(32)), index.frames_size)
        packs.append(PackRef(index.base, ObjectRef(name, len(data)), frames))
    between = {bases[d.base]: d.stored for d in release.deltas}
    return Material(release.name, image, release.size, tuple(packs), objects, maps, bases, between)


def material_of_manifest(
    name: str, manifest: bytes, indexes: Mapping[Digest, bytes], bases: Mapping[str, Digest]
) -> Material:
    """A real release of one payload. Raises `ContentError` or, for several payloads, `OperatorError`."""
    document = decode_manifest(manifest)
    if len(document.payloads) != 1:
        raise OperatorError(
            f"release {document.version} has {len(document.payloads)} payloads; one can be simulated",
            next_step="simulate its largest payload alone",
        )
    payload = document.payloads[0]
    maps = {}
    for pack in payload.packs:
        data = indexes.get(pack.index.sha256)
        if data is None or sha256(data) != pack.index.sha256:
            raise OperatorError(
                f"release {document.version}: index {pack.index.sha256.hex()[:12]} is missing"
            )
        maps[pack.index.sha256] = PieceMap(pack_index.decode(data))
    return Material(
        name,
        payload.image.sha256,
        payload.image.size,
        payload.packs,
        dict(indexes),
        maps,
        dict(bases),
        {p.base: p.frames.size for p in payload.packs if p.base is not None},
        manifest,
    )


def _full_index(image: Digest, release: SyntheticRelease, rng: random.Random) -> PackIndex:
    entries: list[Data] = []
    left, stored_left = release.size, release.full_stored
    per_frame = max(1, FRAME // release.chunk)
    while left:
        chunks: list[Chunk] = []
        length_of_frame = 0
        while left and len(chunks) < per_frame:
            length = min(left, release.chunk)
            chunks.append(Chunk(length, Digest(rng.randbytes(32))))
            left -= length
            length_of_frame += length
        before = left + length_of_frame
        stored = stored_left if not left else max(1, stored_left * length_of_frame // before)
        stored_left -= stored
        compression = Compression.NONE if stored == length_of_frame else Compression.ZSTD
        entries.append(Data(max(1, stored), compression, tuple(chunks)))
    return PackIndex(image, release.size, None, 0, tuple(entries))


def _delta_index(image: Digest, size: int, base: Digest, delta: DeltaSpec, rng: random.Random) -> PackIndex:
    patched = max(1, min(size, round(size * delta.patched_share)))
    count = max(1, -(-patched // limits.PATCH_TARGET_MAX), -(-delta.stored // (4 * limits.MIB)))
    count = min(count, size)
    entries: list[Copy | Patch] = []
    for n in range(count):
        start, stop = size * n // count, size * (n + 1) // count
        length = max(1, min(stop - start, patched * (n + 1) // count - patched * n // count))
        share = max(1, delta.stored * (n + 1) // count - delta.stored * n // count)
        output = Digest(rng.randbytes(32))
        entries.append(
            Patch(
                Codec.HDIFFPATCH, length, (ViewRange(start, length),), share, Compression.ZSTD,
                share, Digest(rng.randbytes(32)), output,
            )
        )  # fmt: skip
        if start + length < stop:
            entries.append(Copy(start + length, stop - start - length))
    return PackIndex(image, size, base, size, tuple(entries))
