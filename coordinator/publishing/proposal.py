"""A proposal: the next version of a role, on its way from who prepares it to who signs it.

The file holds the TUF metadata that is to be signed, the documents that it newly names, and the version
before it, so that a person on a machine with nothing but a key and this file sees everything that the
signature will cover. Signatures gather in the file until the role's threshold; parallel copies merge.
A proposal proves nothing by itself: `publish` checks it against the repository's own delegations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization import SerializationError

from coordinator.errors import DocumentRefused, KeyUnavailable
from coordinator.publishing.files import read_file, write_atomic
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.fields import Fields, dump_object, load_object
from p2p.content.manifest import Manifest, decode_manifest
from p2p.content.order import Order, decode_order
from p2p.errors import ContentError, OperatorError

DOCUMENT = "slipstream-proposal"
VERSION = 1
PROPOSAL_SIZE_MAX = 2 * limits.TARGETS_SIZE_MAX + 16 * limits.MIB
KEYS_MAX = 64


@dataclass
class Proposal:
    """The next version of `role`. `documents` maps target paths to the bytes that the role will name."""

    role: str
    threshold: int
    keys: dict[str, Key]
    metadata: Metadata[Targets]
    previous: Metadata[Targets] | None
    documents: dict[str, bytes] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return self.metadata.signed.version

    @property
    def product(self) -> str:
        return self.role.partition("-")[2]

    @property
    def is_release(self) -> bool:
        return self.role.startswith("product-")

    def valid_signatures(self) -> list[str]:
        """Key ids of the role whose signature is good."""
        payload = self.metadata.signed_bytes
        return [k for k, key in self.keys.items() if _signed_by(self.metadata, key, payload)]

    def signers_missing(self) -> int:
        """Signatures that are still needed."""
        return max(0, self.threshold - len(self.valid_signatures()))


@dataclass(frozen=True, slots=True)
class Review:
    """What a signature on a proposal would cover, for a person to read."""

    manifests: tuple[Manifest, ...]
    orders: tuple[Order, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    expires: datetime


def propose(
    role: str,
    delegation: tuple[int, Mapping[str, Key]],
    previous: Metadata[Targets] | None,
    expires: datetime,
    *,
    add: Mapping[str, tuple[bytes, dict[str, Any]]],
    remove: Sequence[str] = (),
    context: Mapping[str, bytes] | None = None,
) -> Proposal:
    """The next version of `role`, unsigned.

    `add` maps target paths to the document and its TUF `custom` value; `context` are documents that an
    order refers to, for the signers' eyes.
    """
    targets = {} if previous is None else dict(previous.signed.targets)
    for path in remove:
        del targets[path]
    for path, (data, custom) in add.items():
        unrecognized = {"custom": custom} if custom else {}
        targets[path] = TargetFile(len(data), {"sha256": sha256(data).hex()}, path, unrecognized)
    metadata = Metadata(
        Targets(
            version=1 if previous is None else previous.signed.version + 1,
            expires=expires,
            targets=targets,
        )
    )
    if len(metadata.to_bytes()) > limits.TARGETS_SIZE_MAX // 2:
        raise OperatorError(
            f"{role} would be over {limits.TARGETS_SIZE_MAX // 2} bytes",
            kept="what is published",
            next_step="retire old releases with --retire VERSION",
        )
    threshold, keys = delegation
    documents = {path: data for path, (data, _) in add.items()} | dict(context or {})
    return Proposal(role, threshold, dict(keys), metadata, previous, documents)


def review(proposal: Proposal) -> Review:
    """Check that a proposal is what it says and list what it covers; raises `DocumentRefused`.

    Reasons: `not-next-version`, `wrong-role`, `delegates`, `unsigned-extras`, `document-missing`,
    `document-changed`, `bad-document`.
    """
    signed = proposal.metadata.signed
    old = {} if proposal.previous is None else proposal.previous.signed.targets
    expected = 1 if proposal.previous is None else proposal.previous.signed.version + 1
    if signed.version != expected:
        _refuse(
            "not-next-version", f"{proposal.role}: version {signed.version} does not follow {expected - 1}"
        )
    if signed.delegations is not None:
        _refuse("delegates", f"{proposal.role} would delegate to other keys")
    prefix = f"{'manifests' if proposal.is_release else 'orders'}/{proposal.product}/"
    manifests: list[Manifest] = []
    orders: list[Order] = []
    kept: list[str] = []
    unread = dict(proposal.documents)
    for path, target in sorted(signed.targets.items()):
        if not path.startswith(prefix):
            _refuse("wrong-role", f"{path} is not for {proposal.role} to sign")
        if path in old and old[path] == target and path not in unread:
            kept.append(path)
            continue
        data = unread.pop(path, None)
        if data is None:
            _refuse("document-missing", f"{path} would be signed, but the document is not in the file")
        if target.length != len(data) or target.hashes != {"sha256": sha256(data).hex()}:
            _refuse("document-changed", f"{path} is not the document that would be signed")
        try:
            document = decode_manifest(data) if proposal.is_release else decode_order(data)
        except ContentError as error:
            _refuse("bad-document", f"{path}: {error}")
        if document.target_path != path:
            _refuse("bad-document", f"{path} holds {document.target_path}")
        if isinstance(document, Manifest):
            manifests.append(document)
        else:
            orders.append(document)
    for order in orders:
        data = unread.pop(f"manifests/{order.product}/{order.version}.json", None)
        if data is not None and sha256(data) != order.manifest:
            _refuse("document-changed", f"order {order.id} is not for the release that the file shows")
    if unread:
        _refuse("unsigned-extras", f"{sorted(unread)[0]} is in the file, but would not be signed")
    return Review(
        manifests=tuple(manifests),
        orders=tuple(orders),
        removed=tuple(sorted(set(old) - set(signed.targets))),
        kept=tuple(kept),
        expires=signed.expires,
    )


def vouched_by(proposal: Proposal, key: Key) -> bool:
    """Whether the version before was signed by `key`: then its holder has seen all that is kept."""
    return proposal.previous is not None and _signed_by(
        proposal.previous, key, proposal.previous.signed_bytes
    )


def sign(proposal: Proposal, signer: Signer) -> None:
    """Add one signature; raises `DocumentRefused` (`key-not-in-role`) or `KeyUnavailable`."""
    review(proposal)
    keyid = signer.public_key.keyid
    if keyid not in proposal.keys:
        _refuse("key-not-in-role", f"key {keyid[:12]} may not sign {proposal.role}")
    try:
        proposal.metadata.sign(signer, append=True)
    except (UnsignedMetadataError, SerializationError, SslibError) as error:
        raise KeyUnavailable(f"key {keyid[:12]} did not sign: {error}") from error


def merge(proposals: Sequence[Proposal]) -> Proposal:
    """One proposal with the signatures of all copies; raises `DocumentRefused` (`different`)."""
    first, *others = proposals
    for other in others:
        if other.role != first.role or other.metadata.signed_bytes != first.metadata.signed_bytes:
            _refuse("different", "the files are not copies of one proposal")
        first.metadata.signatures |= other.metadata.signatures
    return first


def read_proposal(path: Path) -> Proposal:
    """Read a proposal file; raises `OperatorError` or `ContentError`."""
    return decode_proposal(read_file(path, PROPOSAL_SIZE_MAX), str(path))


def write_proposal(path: Path, proposal: Proposal) -> None:
    """Write a proposal file, atomically."""
    write_atomic(path, encode_proposal(proposal))


def encode_proposal(proposal: Proposal) -> bytes:
    document: dict[str, Any] = {
        "_type": DOCUMENT,
        "spec": VERSION,
        "role": proposal.role,
        "threshold": proposal.threshold,
        "keys": {keyid: key.to_dict() for keyid, key in proposal.keys.items()},
        "metadata": proposal.metadata.to_dict(),
        "documents": {path: data.decode() for path, data in proposal.documents.items()},
    }
    if proposal.previous is not None:
        document["previous"] = proposal.previous.to_dict()
    return dump_object(document)


def decode_proposal(data: bytes, what: str = "proposal") -> Proposal:
    """Decode a proposal; raises `ContentError` and nothing else, whatever the bytes are."""
    fields = load_object(data, what, PROPOSAL_SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    role = fields.name("role")
    if not role.startswith(("product-", "orders-")):
        raise ContentError(f"{what}.role: {role!r} is not a role of a product")
    threshold = fields.integer("threshold", 1, KEYS_MAX)
    raw_keys = fields.raw_object("keys")
    if not threshold <= len(raw_keys) <= KEYS_MAX:
        raise ContentError(f"{what}.keys: {len(raw_keys)} keys for a threshold of {threshold}")
    metadata = _targets(fields, "metadata")
    previous = _targets(fields, "previous") if "previous" in fields else None
    documents = {path: text.encode() for path, text in fields.text_map("documents").items()}
    fields.finish()
    try:
        keys = {keyid: Key.from_dict(keyid, dict(value)) for keyid, value in raw_keys.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ContentError(f"{what}.keys: {error}") from error
    return Proposal(role, threshold, keys, metadata, previous, documents)


def _targets(fields: Fields, key: str) -> Metadata[Targets]:
    try:
        metadata: Metadata[Targets] = Metadata.from_dict(fields.raw_object(key))
        metadata.signed_bytes  # noqa: B018 (what has no canonical form cannot be signed either)
    except ContentError:
        raise
    except Exception as error:  # python-tuf documents no closed set for hostile dictionaries
        raise ContentError(f"{fields.what}.{key}: not TUF metadata ({error})") from error
    if not isinstance(metadata.signed, Targets):
        raise ContentError(f"{fields.what}.{key}: not targets metadata")
    return metadata


def _signed_by(metadata: Metadata[Targets], key: Key, payload: bytes) -> bool:
    signature = metadata.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, payload)
    except SslibError:
        return False
    return True


def _refuse(reason: str, message: str) -> NoReturn:
    raise DocumentRefused(
        reason, message, kept="the file as it was", next_step="ask whoever prepared it to build it again"
    )
