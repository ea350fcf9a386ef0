"""Exporting: what a bundle will hold, read from any origin as a device reads it, and then its objects.

The plan exists whole, with every size, before anything is written. Then objects are copied, small ones
first, each verified, and the table of contents comes last; an export that was cut goes on when it is run
again, also when the metadata was signed anew meanwhile, as objects are kept by their digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from p2p.adapters.bundle_files import BundleWriter
from p2p.adapters.directory_origin import stream_of
from p2p.bundles.copying import Progress, copy_object
from p2p.content import limits
from p2p.content.bundle import (
    FAT32_PART_SIZE,
    BundleObject,
    Kind,
    Table,
    decode_table,
    encode_table,
)
from p2p.content.digests import Digest, sha256
from p2p.content.index import PackIndex, decode
from p2p.content.manifest import Manifest, ObjectRef, PackRef, decode_manifest, manifest_path
from p2p.errors import ContentError, OperatorError, OriginError, StoreError, TrustError
from p2p.ports import Origin
from p2p.trust import EmptyStore, Need, NeedKind, Overlay, TrustClient, run_async
from p2p.trust.bundling import Choice, ChosenPack, Survey, Wanted, choose, fit, products_of, survey
from p2p.trust.documents import stated_version


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What the bundle will hold. `small`: the bytes of everything signed, by digest."""

    table: Table
    small: dict[Digest, bytes]
    choices: tuple[Choice, ...]

    @property
    def size(self) -> int:
        """Bytes that the finished bundle takes."""
        return self.table.size + len(encode_table(self.table))

    @property
    def packs(self) -> tuple[ChosenPack, ...]:
        return tuple(pack for choice in self.choices for pack in choice.packs)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did: `fetched` bytes came from the origin, the rest was there."""

    size: int
    fetched: int


@dataclass(slots=True)
class Gathering:
    """Answers the trust client from an origin and remembers what it took: that is what a device needs."""

    origin: Origin
    roots: dict[int, bytes] = field(default_factory=dict)
    timestamp: bytes = b""
    metadata: dict[str, bytes] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)

    async def answer(self, need: Need) -> bytes | None:
        """From the origin; what is refused afterwards is asked for again, and then there is nobody else."""
        if need.error is not None:
            raise OriginError("bad-bytes", need.error.message)
        if need.kind is NeedKind.OBJECT:
            assert need.digest is not None
            assert need.size is not None
            data = await self.origin.object(need.digest, need.size)
            self.documents[need.role] = data
            return data
        try:
            data = await self.origin.metadata(need.name, need.size_max)
        except OriginError as error:
            if error.reason == "not-found" and need.role == "root":
                return None
            raise
        if need.role == "root":
            self.roots[need.version or 0] = data
        elif need.role == "timestamp":
            self.timestamp = data
        else:
            self.metadata[need.role] = data
        return data


async def plan_export(
    origin: Origin,
    wanted: Wanted,
    now: float,
    *,
    products: Sequence[str] = (),
    base_versions: Sequence[str] = (),
    root: bytes | None = None,
    since_root: int = 1,
    part_size: int = FAT32_PART_SIZE,
    metadata_only: bool = False,
    expired: bool = False,
) -> ExportPlan:
    """Read what is signed and choose. Nothing is written.

    `products` empty: all. `base_versions`: as `wanted.bases`, by the releases that installed them. `root`:
    what the repository must lead from, None to take its word (devices verify for themselves). `since_root`:
    the oldest root that a device may start from. `expired`: go on although the metadata has expired.
    Raises `OperatorError`, `TrustError`, `OriginError`, `ContentError`.
    """
    gathered = Gathering(origin)
    start = root if root is not None and (stated_version(root) or 0) <= since_root else None
    if start is None:
        start = await origin.metadata(f"{since_root}.root.json", limits.ROOT_SIZE_MAX)
    gathered.roots[stated_version(start) or since_root] = start
    client = TrustClient(Overlay(EmptyStore()), start)
    if expired:
        client = client.lenient_copy()
    await run_async(client.refresh(now), gathered.answer)
    _check_chain(gathered.roots, root)
    known = await run_async(products_of(client), gathered.answer)
    surveys = []
    for product in products or known:
        if product not in known:
            raise OperatorError(f"there is no product {product} (there are: {', '.join(known) or 'none'})")
        surveys.append(await run_async(survey(client, product), gathered.answer))
    if base_versions:
        wanted = await _with_bases(client, gathered, surveys, wanted, base_versions)
    choices = () if metadata_only else tuple(choose(found, wanted) for found in surveys)
    if not metadata_only and not any(choice.releases for choice in choices):
        raise OperatorError(
            "no open order means this audience and hardware",
            kept="nothing was written",
            next_step="see `slipstream order list`, choose others, or export --metadata-only",
        )
    objects = [*_signed(gathered, since_root), *_packs(choices)]
    table = Table(
        created=now,
        products=tuple(found.product for found in surveys),
        hardware=tuple(sorted(wanted.hardware)),
        audience=wanted.audience,
        objects=tuple(sorted(objects, key=lambda o: list(Kind).index(o.kind))),
        part_size=part_size,
    )
    decode_table(encode_table(table))  # what nobody could read is not written
    small = [*gathered.roots.values(), gathered.timestamp]
    small += [*gathered.metadata.values(), *gathered.documents.values()]
    return ExportPlan(table, {sha256(data): data for data in small}, choices)


def check_size(plan: ExportPlan, size_max: int) -> None:
    """Raise `OperatorError` naming what does not fit into `size_max` bytes."""
    fit(plan.size - sum(p.size for p in plan.packs), plan.packs, size_max)


async def export(plan: ExportPlan, origin: Origin, directory: str, progress: Progress) -> Exported:
    """Make or renew the bundle in `directory`. Raises `StoreError`, `OriginError`, `ContentError`."""
    writer = BundleWriter(directory, plan.table.part_size)
    with writer.locked():
        check_room(writer, plan.table)
        fetched = 0
        indexes: dict[str, PackIndex] = {}
        packs = {pack.name: pack.pack for pack in plan.packs}
        for found in plan.table.objects:
            data = plan.small.get(found.ref.sha256)
            if data is not None:
                await copy_object(writer, found, partial(stream_of, data), None, progress)
                continue
            index = indexes.get(found.name) if found.kind is Kind.FRAMES else None
            stream = partial(origin.stream, found.ref.sha256)
            fetched += await copy_object(writer, found, stream, index, progress)
            if found.kind is Kind.INDEX:
                data = writer.object(found.ref).read(0, found.ref.size)
                indexes[found.name] = open_index(data, packs[found.name], found.name)
        writer.commit(plan.table)
    return Exported(plan.size, fetched)


def missing_of(writer: BundleWriter, table: Table) -> int:
    """Bytes of a table's objects that are not there yet."""
    missing = 0
    for found in table.objects:
        there = writer.object(found.ref)
        missing += 0 if there.complete else found.ref.size - there.present
    return missing


def check_room(writer: BundleWriter, table: Table) -> None:
    """Raise `StoreError` before anything is written if what is missing cannot fit."""
    missing = missing_of(writer, table)
    free = writer.free()
    if missing > free:
        raise StoreError(
            f"{writer.directory}: {missing} bytes are to be written, {free} are free",
            kept="what was there before",
            next_step=f"free {missing - free} bytes there, or choose less to take along",
        )


def open_index(data: bytes, pack: PackRef, name: str) -> PackIndex:
    """An index that fits what is signed of its pack; raises `ContentError`."""
    index = decode(data)
    if index.frames_size != pack.frames.size or index.base != pack.base:
        raise ContentError(f"index {name}: it is not the index of its frames")
    return index


def _check_chain(roots: dict[int, bytes], root: bytes | None) -> None:
    version = None if root is None else stated_version(root)
    if root is None or version is None or version not in roots or roots[version] == root:
        if root is not None and version is None:
            raise TrustError("malformed", "the given root is no root metadata")
        return
    raise TrustError(
        "other-fleet",
        f"root {version} of the source is not the given one",
        next_step="name the repository of this fleet, or its root.json",
    )


async def _with_bases(
    client: TrustClient,
    gathered: Gathering,
    surveys: Sequence[Survey],
    wanted: Wanted,
    versions: Sequence[str],
) -> Wanted:
    """`wanted` with the images of released versions among its bases. Their manifests do not go along."""
    bases = set(wanted.bases or ())
    aside = Gathering(gathered.origin)
    for version in versions:
        found = False
        for product in surveys:
            manifests = [m for m in product.manifests.values() if m.version == version]
            if not manifests:
                manifests = await _published(client, aside, product.product, version)
            for manifest in manifests:
                found = True
                bases |= {payload.image.sha256 for payload in manifest.payloads}
        if not found:
            raise OperatorError(
                f"--base {version}: no such release is published",
                next_step="name a published version, or the SHA-256 of the image that devices hold",
            )
    return Wanted(wanted.audience, wanted.hardware, wanted.versions, frozenset(bases), wanted.full)


async def _published(client: TrustClient, aside: Gathering, product: str, version: str) -> list[Manifest]:
    target = await run_async(client.find_target(manifest_path(product, version)), aside.answer)
    if target is None:
        return []
    data = await run_async(client.target(target, limits.MANIFEST_SIZE_MAX), aside.answer)
    return [decode_manifest(data)]


def _signed(gathered: Gathering, since_root: int) -> list[BundleObject]:
    def found(kind: Kind, name: str, data: bytes) -> BundleObject:
        return BundleObject(kind, name, ObjectRef(sha256(data), len(data)))

    roots = [(v, data) for v, data in sorted(gathered.roots.items()) if v >= since_root]
    return [
        *(found(Kind.ROOT, str(version), data) for version, data in roots),
        found(Kind.TIMESTAMP, "timestamp", gathered.timestamp),
        *(found(Kind.METADATA, role, data) for role, data in sorted(gathered.metadata.items())),
        *(found(Kind.DOCUMENT, path, data) for path, data in sorted(gathered.documents.items())),
    ]


def _packs(choices: Sequence[Choice]) -> list[BundleObject]:
    return [found for choice in choices for pack in choice.packs for found in pack.objects()]
