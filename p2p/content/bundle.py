"""The table of contents of a bundle: which objects it holds, of which kind and size (`docs/spec/bundle.md`).

A bundle is a directory that carries updates to where no WAN is. Everything in it is an object named by its
SHA-256, and this table, which nobody signs, says what there is: it is a plan for reading, no ground to
believe anything. What is signed is in the objects themselves. It is read as hostile: every number against
`p2p.content.limits`, every name of a file made from a digest, never taken from it.

Pure: which objects belong into a bundle is `p2p.trust.bundling`, files are `p2p.adapters.bundle_files`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.content.fields import Fields, dump_object, load_object
from p2p.content.manifest import ObjectRef
from p2p.content.order import Audience, audience_to_json, read_audience
from p2p.content.times import format_time, parse_time
from p2p.errors import ContentError, LimitExceeded

DOCUMENT = "slipstream-bundle"
VERSION = 1
TABLE_NAME = "bundle.json"
OBJECTS = "objects"

FAT32_PART_SIZE = (1 << 32) - 1
"""The largest file that FAT32 holds."""

PART_SIZE_MIN = limits.MIB


class Kind(StrEnum):
    """What an object of a bundle is. The order is that of the table."""

    ROOT = "root"
    TIMESTAMP = "timestamp"
    METADATA = "metadata"
    DOCUMENT = "document"
    INDEX = "index"
    FRAMES = "frames"


SIZE_MAX = {
    Kind.ROOT: limits.ROOT_SIZE_MAX,
    Kind.TIMESTAMP: limits.TIMESTAMP_SIZE_MAX,
    Kind.METADATA: limits.TARGETS_SIZE_MAX,
    Kind.DOCUMENT: max(limits.MANIFEST_SIZE_MAX, limits.ORDER_SIZE_MAX),
    Kind.INDEX: limits.INDEX_SIZE_MAX,
    Kind.FRAMES: limits.IMAGE_SIZE_MAX,
}
_ORDER = list(Kind)


@dataclass(frozen=True, slots=True)
class BundleObject:
    """One object. `name`: a root's version, a role, a target path, or what a pack is (`pack_name`)."""

    kind: Kind
    name: str
    ref: ObjectRef


@dataclass(frozen=True, slots=True)
class Table:
    """What a bundle holds, and for whom it was made.

    `created`: POSIX seconds by the clock of whoever made it. `hardware` empty: any. `part_size`: larger
    objects lie in several files of this many bytes.
    """

    created: float
    products: tuple[str, ...]
    hardware: tuple[str, ...]
    audience: Audience
    objects: tuple[BundleObject, ...]
    part_size: int = FAT32_PART_SIZE

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum({o.ref.sha256: o.ref.size for o in self.objects}.values())

    @property
    def timestamp(self) -> BundleObject:
        return next(o for o in self.objects if o.kind is Kind.TIMESTAMP)

    def root(self, version: int) -> BundleObject | None:
        """A root of the chain, if it is here."""
        return next((o for o in self.of(Kind.ROOT) if o.name == str(version)), None)

    def of(self, kind: Kind) -> Iterator[BundleObject]:
        """All objects of a kind."""
        return (o for o in self.objects if o.kind is kind)

    def find(self, digest: Digest) -> BundleObject | None:
        """An object by its digest, if it is here."""
        return next((o for o in self.objects if o.ref.sha256 == digest), None)


def pack_name(product: str, version: str, payload: str, base: Digest | None) -> str:
    """The name of both objects of a pack: for people, and to see which belong together."""
    return f"{product}/{version}/{payload}/{'full' if base is None else base.hex()}"


def file_names(ref: ObjectRef, part_size: int) -> tuple[tuple[str, int], ...]:
    """The files below `objects` that hold an object, in order, each with its size in bytes."""
    name = ref.sha256.hex()
    if ref.size <= part_size:
        return ((name, ref.size),)
    starts = range(0, ref.size, part_size)
    return tuple((f"{name}.{n:04d}", min(part_size, ref.size - at)) for n, at in enumerate(starts))


def encode_table(table: Table) -> bytes:
    """The bytes of `bundle.json`."""
    return dump_object(
        {
            "_type": DOCUMENT,
            "spec": VERSION,
            "created": format_time(table.created),
            "products": list(table.products),
            "hardware": list(table.hardware),
            "audience": audience_to_json(table.audience),
            "part_size": table.part_size,
            "objects": [
                {"kind": o.kind.value, "name": o.name, "sha256": o.ref.sha256.hex(), "size": o.ref.size}
                for o in table.objects
            ],
        }
    )


def decode_table(data: Buffer) -> Table:
    """Decode and check a table; raises `ContentError` naming the key at fault."""
    fields = load_object(data, "bundle", limits.BUNDLE_TABLE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    text = fields.text("created")
    try:
        created = parse_time(text)
    except ValueError as error:
        raise ContentError("bundle.created: not a date-time like 2030-01-02T03:04:05Z") from error
    table = Table(
        created=created,
        products=fields.names("products"),
        hardware=fields.names("hardware"),
        audience=read_audience(fields.object("audience")),
        part_size=fields.integer("part_size", PART_SIZE_MIN, limits.IMAGE_SIZE_MAX),
        objects=tuple(_object(o) for o in fields.objects("objects", length_max=limits.BUNDLE_OBJECTS_MAX)),
    )
    fields.finish()
    _check(table)
    return table


def _object(fields: Fields) -> BundleObject:
    text = fields.text("kind")
    if text not in set(Kind):
        raise ContentError(f"{fields.what}.kind: {text[:40]!r} is unknown")
    kind = Kind(text)
    name = fields.text("name", length_max=limits.BUNDLE_NAME_MAX)
    ref = ObjectRef(fields.digest("sha256"), fields.integer("size", 0, SIZE_MAX[kind]))
    fields.finish()
    if not name or not name.isprintable():
        raise ContentError(f"{fields.what}.name: empty, or not printable")
    return BundleObject(kind, name, ref)


def _check(table: Table) -> None:
    """What holds between the objects: order, one timestamp, a chain of roots, no contradictions."""
    kinds = [_ORDER.index(o.kind) for o in table.objects]
    if kinds != sorted(kinds):
        raise ContentError("bundle.objects: not in the order of their kinds")
    if sum(o.kind is Kind.TIMESTAMP for o in table.objects) != 1:
        raise ContentError("bundle.objects: not exactly one timestamp")
    versions = [o.name for o in table.of(Kind.ROOT)]
    first = int(versions[0]) if versions and _is_version(versions[0]) else 0
    if versions and (first < 1 or versions != [str(n) for n in range(first, first + len(versions))]):
        raise ContentError("bundle.objects: the roots are no chain of versions")
    if len(versions) > limits.ROOT_ROTATIONS_MAX + 1:
        raise LimitExceeded(f"bundle.objects: more than {limits.ROOT_ROTATIONS_MAX + 1} roots")
    seen: set[tuple[Kind, str]] = set()
    sizes: dict[Digest, int] = {}
    for o in table.objects:
        if (o.kind, o.name) in seen:
            raise ContentError(f"bundle.objects: {o.kind} {o.name[:40]!r} twice")
        seen.add((o.kind, o.name))
        if sizes.setdefault(o.ref.sha256, o.ref.size) != o.ref.size:
            raise ContentError(f"bundle.objects: {o.ref.sha256.hex()} with two sizes")
        if -(-o.ref.size // table.part_size) > limits.BUNDLE_PARTS_MAX:
            raise LimitExceeded(f"bundle.objects: {o.kind} {o.name[:40]!r} in too many parts")


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 16
