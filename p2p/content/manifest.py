"""The manifest: the signed document of a release (a TUF target; see `docs/spec/manifest.md`).

It binds everything a device installs: product, release counter, hardware, and for each payload the
image and the packs that make it. It is closed-world: unknown keys are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2p.content import limits
from p2p.content.digests import Buffer, Digest
from p2p.content.fields import Fields, dump_object, load_object
from p2p.errors import ContentError

DOCUMENT = "slipstream-manifest"
VERSION = 1
COUNTER_MAX = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An immutable object of the origin: its digest (its name) and its size in bytes."""

    sha256: Digest
    size: int


@dataclass(frozen=True, slots=True)
class PackRef:
    """One way to make an image: `base` is None for the full pack."""

    base: Digest | None
    index: ObjectRef
    frames: ObjectRef

    @property
    def wan_bytes(self) -> int:
        """Bytes that the whole pack costs over the WAN."""
        return self.index.size + self.frames.size


@dataclass(frozen=True, slots=True)
class PayloadSpec:
    """One thing to install. `type` names the installer or update module, `options` are for it."""

    name: str
    type: str
    image: ObjectRef
    packs: tuple[PackRef, ...]
    options: dict[str, str] = field(default_factory=dict)

    def pack_for(self, base: Digest | None) -> PackRef | None:
        """The pack from `base` (the full pack for None), if the release has one."""
        return next((p for p in self.packs if p.base == base), None)

    @property
    def full_pack(self) -> PackRef:
        """The pack that needs nothing; every payload has one."""
        return next(p for p in self.packs if p.base is None)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A release. `counter` only rises within a product: it is the downgrade floor's unit."""

    product: str
    version: str
    counter: int
    hardware: tuple[str, ...]
    payloads: tuple[PayloadSpec, ...]
    depends: dict[str, str] = field(default_factory=dict)
    provides: dict[str, str] = field(default_factory=dict)
    security: bool = False
    sbom: Digest | None = None
    provenance: Digest | None = None

    @property
    def target_path(self) -> str:
        """The TUF target path under which the release is signed."""
        return manifest_path(self.product, self.version)


def manifest_path(product: str, version: str) -> str:
    """TUF target path of a release's manifest."""
    return f"manifests/{product}/{version}.json"


def encode_manifest(manifest: Manifest) -> bytes:
    """The document's bytes; equal manifests encode to equal bytes."""
    document: dict[str, Any] = {
        "_type": DOCUMENT,
        "spec": VERSION,
        "product": manifest.product,
        "version": manifest.version,
        "counter": manifest.counter,
        "hardware": list(manifest.hardware),
        "depends": manifest.depends,
        "provides": manifest.provides,
        "security": manifest.security,
        "payloads": [_payload_to_json(p) for p in manifest.payloads],
    }
    if manifest.sbom is not None:
        document["sbom"] = manifest.sbom.hex()
    if manifest.provenance is not None:
        document["provenance"] = manifest.provenance.hex()
    return dump_object(document)


def decode_manifest(data: Buffer) -> Manifest:
    """Decode and check a manifest; raises `ContentError` naming the key at fault."""
    fields = load_object(data, "manifest", limits.MANIFEST_SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    manifest = Manifest(
        product=fields.name("product"),
        version=fields.name("version"),
        counter=fields.integer("counter", 1, COUNTER_MAX),
        hardware=fields.names("hardware"),
        payloads=tuple(_payload(p) for p in fields.objects("payloads", length_max=limits.PAYLOADS_MAX)),
        depends=fields.text_map("depends"),
        provides=fields.text_map("provides"),
        security=fields.boolean("security"),
        sbom=fields.optional_digest("sbom"),
        provenance=fields.optional_digest("provenance"),
    )
    fields.finish()
    if not manifest.hardware:
        raise ContentError("manifest.hardware: empty")
    if not manifest.payloads:
        raise ContentError("manifest.payloads: empty")
    if len({p.name for p in manifest.payloads}) != len(manifest.payloads):
        raise ContentError("manifest.payloads: two payloads have the same name")
    return manifest


def _payload(fields: Fields) -> PayloadSpec:
    payload = PayloadSpec(
        name=fields.name("name"),
        type=fields.name("type"),
        image=_object_ref(fields.object("image"), limits.IMAGE_SIZE_MAX),
        packs=tuple(_pack(p) for p in fields.objects("packs", length_max=limits.PACKS_PER_PAYLOAD_MAX)),
        options=fields.text_map("options"),
    )
    fields.finish()
    bases = [p.base for p in payload.packs]
    if None not in bases:
        raise ContentError(f"{fields.what}.packs: no full pack")
    if len(set(bases)) != len(bases):
        raise ContentError(f"{fields.what}.packs: two packs from the same base")
    return payload


def _pack(fields: Fields) -> PackRef:
    pack = PackRef(
        base=fields.optional_digest("base"),
        index=_object_ref(fields.object("index"), limits.INDEX_SIZE_MAX),
        frames=_object_ref(fields.object("frames"), limits.IMAGE_SIZE_MAX),
    )
    fields.finish()
    return pack


def _object_ref(fields: Fields, size_max: int) -> ObjectRef:
    ref = ObjectRef(fields.digest("sha256"), fields.integer("size", 0, size_max))
    fields.finish()
    return ref


def _payload_to_json(payload: PayloadSpec) -> dict[str, Any]:
    return {
        "name": payload.name,
        "type": payload.type,
        "image": _ref_to_json(payload.image),
        "options": payload.options,
        "packs": [
            ({} if p.base is None else {"base": p.base.hex()})
            | {"index": _ref_to_json(p.index), "frames": _ref_to_json(p.frames)}
            for p in payload.packs
        ],
    }


def _ref_to_json(ref: ObjectRef) -> dict[str, Any]:
    return {"sha256": ref.sha256.hex(), "size": ref.size}
