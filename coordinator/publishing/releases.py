"""Releases: build the packs and the manifest, propose them to be signed, publish what was signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key

from coordinator.errors import DocumentRefused, ObsoleteDocument
from coordinator.publishing.files import hash_file
from coordinator.publishing.packing import build_pack
from coordinator.publishing.proposal import Proposal, merge, propose, review
from coordinator.publishing.repository import Repository
from coordinator.publishing.state import State, product_role
from p2p.content.digests import Digest
from p2p.content.fields import check_name
from p2p.content.index import decode as decode_index
from p2p.content.manifest import (
    Manifest,
    ObjectRef,
    PackRef,
    PayloadSpec,
    decode_manifest,
    encode_manifest,
    manifest_path,
)
from p2p.errors import ContentError, OperatorError

Progress = Callable[[str, int, int], None]
"""Called with what is being built, bytes done and bytes in all."""


Delegation = tuple[int, dict[str, Key]]
"""Threshold and keys of a role."""


@dataclass(frozen=True, slots=True)
class PayloadInput:
    """One image to release, with the older images that deltas are built from."""

    name: str
    image: Path
    bases: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What `release build` was asked for. `counter` None means the last one plus one."""

    product: str
    version: str
    hardware: tuple[str, ...]
    payloads: tuple[PayloadInput, ...]
    type: str = "rootfs-image"
    counter: int | None = None
    security: bool = False
    sbom: Digest | None = None
    provenance: Digest | None = None
    options: dict[str, str] = field(default_factory=dict)
    retire: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PackFacts:
    """What a pack costs: the WAN bytes of one site that updates by it."""

    payload: str
    base: str | None
    wan_bytes: int
    image_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BuiltRelease:
    """A release that is ready to be signed."""

    manifest: Manifest
    proposal: Proposal
    packs: tuple[PackFacts, ...]


def build_release(
    request: ReleaseRequest,
    state: State,
    objects: Path,
    expires: datetime,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> BuiltRelease:
    """Build every pack into `objects` and propose the product role's next version.

    `state` is what is published now, `expires` when the signature will end. Nothing is published.
    """
    role = product_role(request.product)
    delegation = state.delegation(role)
    check_request(request, state)
    payloads: list[PayloadSpec] = []
    facts: list[PackFacts] = []
    for payload in request.payloads:
        spec, built = _build_payload(payload, request, objects, workers, progress)
        payloads.append(spec)
        facts += built
    manifest = Manifest(
        product=request.product,
        version=request.version,
        counter=request.counter or last_counter(state, request.product) + 1,
        hardware=request.hardware,
        payloads=tuple(payloads),
        security=request.security,
        sbom=request.sbom,
        provenance=request.provenance,
    )
    retired = [manifest_path(request.product, version) for version in request.retire]
    proposal = _propose(manifest, state, delegation, expires, retired)
    return BuiltRelease(manifest, proposal, tuple(facts))


def check_request(request: ReleaseRequest, state: State) -> None:
    """Refuse what cannot be released before hours are spent on packs; raises `OperatorError`."""
    check_name(request.version, "version")
    for name in (*request.hardware, request.type, *(p.name for p in request.payloads)):
        check_name(name, "name")
    if not request.hardware or not request.payloads:
        raise OperatorError("a release needs at least one hardware id and one payload")
    role = state.role(product_role(request.product))
    published = {} if role is None else role.signed.targets
    if manifest_path(request.product, request.version) in published:
        raise OperatorError(
            f"{request.product} {request.version} is published already",
            kept="the published release",
            next_step="choose another version: what was signed is never changed",
        )
    for version in request.retire:
        if manifest_path(request.product, version) not in published:
            raise OperatorError(f"{request.product} {version} is not published, so it cannot be retired")
    last = last_counter(state, request.product)
    if request.counter is not None and request.counter <= last:
        raise OperatorError(
            f"release counter {request.counter} is not above {last}, the last one of {request.product}",
            next_step="leave out --counter to use the next one",
        )


def last_counter(state: State, product: str) -> int:
    """The highest release counter that is published for a product; 0 for none."""
    role = state.role(product_role(product))
    counters = [] if role is None else [_counter(t.custom) for t in role.signed.targets.values()]
    return max(counters, default=0)


def rebase_release(proposal: Proposal, state: State, expires: datetime) -> Proposal:
    """The same release, unsigned, on top of what is published now; its counter rises if it has to."""
    manifest = _only_manifest(proposal)
    removed = review(proposal).removed
    last = last_counter(state, manifest.product)
    if manifest.counter <= last:
        manifest = replace(manifest, counter=last + 1)
    check_request(
        ReleaseRequest(
            manifest.product,
            manifest.version,
            manifest.hardware,
            tuple(PayloadInput(p.name, Path()) for p in manifest.payloads),
        ),
        state,
    )
    role = product_role(manifest.product)
    current = state.role(role)
    left = [path for path in removed if current is not None and path in current.signed.targets]
    return _propose(manifest, state, state.delegation(role), expires, left)


def publish_release(
    repository: Repository, proposals: Sequence[Proposal], objects: Path | None, *, sign_here: bool
) -> Manifest:
    """Publish a signed release: objects, role, snapshot, timestamp; returns its manifest.

    `objects` is where the build left its objects, if not in the repository. `sign_here` adds signatures
    of the keys on this machine first. Raises `DocumentRefused` (`threshold`, and the reasons of
    `review`), `ObsoleteDocument`, `ContentError` for objects that are missing or damaged.
    """
    proposal = merge(proposals)
    manifest = _only_manifest(proposal)
    check_current(proposal, repository.state(), "release")
    try:
        bring_objects(manifest, repository, objects)
    except ContentError as error:
        raise ContentError(
            error.message,
            kept="what is published",
            next_step="give --objects DIR as the build wrote it, or build the release again",
        ) from error
    with repository.locked() as state:
        check_current(proposal, state, "release")
        if manifest.counter <= last_counter(state, manifest.product):
            raise OperatorError(
                f"release counter {manifest.counter} is not above the last published one",
                kept="what is published",
                next_step="build the release again without --counter",
            )
        threshold, keys = state.delegation(proposal.role)
        if sign_here:
            repository.sign_with_local_keys(proposal.metadata, keys, threshold, proposal.role)
        check_signatures(proposal, state)
        repository.put(encode_manifest(manifest))
        repository.commit(state, {proposal.role: proposal.metadata})
    return manifest


def check_current(proposal: Proposal, state: State, noun: str) -> None:
    """Raise `ObsoleteDocument` unless the proposal is the version after the published one."""
    review(proposal)
    current = state.role(proposal.role)
    version = 0 if current is None else current.signed.version
    if current is not None and current.signed == proposal.metadata.signed:
        raise ObsoleteDocument(f"this {noun} is published already", kept="what is published")
    if proposal.version != version + 1 or (
        proposal.previous is not None and current is not None and proposal.previous.signed != current.signed
    ):
        raise ObsoleteDocument(
            f"the file proposes version {proposal.version} of {proposal.role}, but version {version} has been"
            " published in the meantime by somebody else",
            kept="what is published",
            next_step=f"slipstream {noun} rebase FILE --repo DIR, then have it signed again",
        )


def check_signatures(proposal: Proposal, state: State) -> None:
    """Keep the signatures of the role's keys; raise `DocumentRefused` (`threshold`) if too few are good."""
    threshold, keys = state.delegation(proposal.role)
    trusted = Proposal(proposal.role, threshold, keys, proposal.metadata, proposal.previous)
    valid = trusted.valid_signatures()
    if len(valid) < threshold:
        raise DocumentRefused(
            "threshold",
            f"{proposal.role} needs {threshold} good signatures and has {len(valid)}",
            kept="what is published, and the file",
            next_step="have it signed: slipstream release|order sign FILE --key KEY",
        )
    for keyid in set(proposal.metadata.signatures) - set(valid):
        del proposal.metadata.signatures[keyid]


def bring_objects(manifest: Manifest, repository: Repository, source: Path | None) -> None:
    """Have every object of a release in the repository, each byte hashed, each index read and compared."""
    for payload in manifest.payloads:
        for pack in payload.packs:
            repository.bring(pack.index, source)
            repository.bring(pack.frames, source)
            index = decode_index(repository.get(pack.index))
            expected = (payload.image, pack.base, pack.frames.size)
            found = (ObjectRef(index.image, index.image_size), index.base, index.frames_size)
            if found != expected:
                raise ContentError(
                    f"pack {pack.index.sha256.hex()} does not make the image of {payload.name}"
                )
    for extra in (manifest.sbom, manifest.provenance):
        if extra is not None:
            path = (source or repository.objects) / extra.hex()
            if not path.is_file():
                path = repository.objects / extra.hex()
            size = path.stat().st_size if path.is_file() else 0
            repository.bring(ObjectRef(extra, size), source)


def list_releases(repository: Repository, state: State, product: str | None = None) -> list[Manifest]:
    """Every published release, by product and counter."""
    found = []
    for name in [product] if product else state.products():
        manifests = [decode_manifest(repository.get(ref)) for _, ref in state.targets_of(product_role(name))]
        found += sorted(manifests, key=lambda m: m.counter)
    return found


def object_problems(repository: Repository, state: State, *, deep: bool = False) -> list[str]:
    """What is wrong with the objects of published releases; sizes only, unless `deep` hashes every byte."""
    problems = []
    for manifest in list_releases(repository, state):
        refs = [r for p in manifest.payloads for pack in p.packs for r in (pack.index, pack.frames)]
        for ref in dict.fromkeys(refs):
            path = repository.objects / ref.sha256.hex()
            what = f"{manifest.product} {manifest.version}: object {ref.sha256.hex()}"
            if not path.is_file():
                problems.append(f"{what} is missing")
            elif path.stat().st_size != ref.size:
                problems.append(f"{what} has {path.stat().st_size} bytes in place of {ref.size}")
            elif deep and hash_file(path) != ref:
                problems.append(f"{what} is damaged")
    return problems


def _build_payload(
    payload: PayloadInput,
    request: ReleaseRequest,
    objects: Path,
    workers: int | None,
    progress: Progress | None,
) -> tuple[PayloadSpec, list[PackFacts]]:
    packs: list[PackRef] = []
    facts: list[PackFacts] = []
    image: ObjectRef | None = None
    for base in (None, *payload.bases):
        what = f"{payload.name}: full pack" if base is None else f"{payload.name}: delta from {base.name}"
        report = None if progress is None else _labelled(progress, what)
        built = build_pack(payload.image, base, objects, workers=workers, progress=report)
        if image is not None and built.image != image:
            raise OperatorError(f"{payload.image} changed while its packs were built")
        image = built.image
        if built.ref.base == image.sha256:
            raise OperatorError(
                f"{base} is the same image as {payload.image}", next_step="leave out that --base"
            )
        if any(pack.base == built.ref.base for pack in packs):
            continue  # the same base under two names
        packs.append(built.ref)
        facts.append(
            PackFacts(
                payload.name,
                None if base is None else str(base),
                built.ref.wan_bytes,
                image.size,
                built.seconds,
            )
        )
    if image is None:
        raise OperatorError("no pack was built")
    spec = PayloadSpec(payload.name, request.type, image, tuple(packs), dict(request.options))
    return spec, facts


def _labelled(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def _propose(
    manifest: Manifest, state: State, delegation: Delegation, expires: datetime, remove: Sequence[str]
) -> Proposal:
    data = encode_manifest(manifest)
    decode_manifest(data)  # what devices would refuse is not built
    role = product_role(manifest.product)
    add = {manifest.target_path: (data, {"counter": manifest.counter})}
    return propose(role, delegation, state.role(role), expires, add=add, remove=remove)


def _only_manifest(proposal: Proposal) -> Manifest:
    found = review(proposal).manifests
    if not proposal.is_release or len(found) != 1:
        raise OperatorError(
            "the file does not hold one release", next_step="for an order use `slipstream order`"
        )
    return found[0]


def _counter(custom: object) -> int:
    value = custom.get("counter") if isinstance(custom, dict) else None
    return value if isinstance(value, int) else 0
