"""TUF documents: bytes in, verified metadata out.

A `Verified` document exists only after a threshold of its delegator's keys was checked; the caller
still judges version, expiry and rollback, which need the rest of the client's state. The format and
the signatures are python-tuf's (`tuf.api`); what it leaves open to hostile bytes is closed here:
duplicate keys, numbers that are not integers, absurd versions, one key counted under two key ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from p2p.content.digests import Digest, parse_digest, sha256
from p2p.errors import ContentError, TrustError

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)
D = TypeVar("D")

VERSION_MAX = (1 << 53) - 1
"""Highest metadata version and length: what every JSON implementation holds exactly."""

_SPEC_MAJOR = "1"
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")


@dataclass(frozen=True, slots=True)
class Verified(Generic[T]):
    """Metadata that a threshold of `role`'s keys signed, as the delegator that was given names them.

    `digest`: of the file's bytes as they were received.
    """

    role: str
    metadata: Metadata[T]
    digest: Digest

    @property
    def signed(self) -> T:
        return self.metadata.signed

    @property
    def version(self) -> int:
        return int(self.metadata.signed.version)

    @property
    def expires(self) -> float:
        """POSIX seconds from which the document no longer counts."""
        return self.metadata.signed.expires.timestamp()


Delegator = Verified[Root] | Verified[Targets]


def stated_version(data: bytes) -> int | None:
    """The version that a file says it has, nothing of it verified; None where it says none."""
    try:
        version = json.loads(data)["signed"]["version"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return version if isinstance(version, int) else None


def read_root(data: bytes, previous: Verified[Root] | None) -> Verified[Root]:
    """A root that is signed by itself and, if given, by the `previous` one, whose successor it is.

    TUF 5.3.4 and 5.3.5. Raises `TrustError`: `malformed`, `type`, `spec-version`, `signature`, `version`.
    """
    metadata = _parse(Root, data, "root")
    if previous is not None:
        _check_threshold(metadata, previous.signed, "root")
    _check_threshold(metadata, metadata.signed, "root")
    if previous is not None and metadata.signed.version != previous.version + 1:
        raise TrustError(
            "version", f"root: version {metadata.signed.version} where {previous.version + 1} was asked for"
        )
    return Verified("root", metadata, sha256(data))


def read(kind: type[T], data: bytes, delegator: Delegator, role: str) -> Verified[T]:
    """Metadata of `role`, signed as `delegator` demands.

    Raises `TrustError`: `malformed`, `type`, `spec-version`, `not-delegated`, `signature`.
    """
    metadata = _parse(kind, data, role)
    _check_threshold(metadata, delegator.signed, role)
    return Verified(role, metadata, sha256(data))


class Reader:
    """How a trust client has documents verified and decoded. It keeps nothing; whoever runs many
    clients in one process can give them one that remembers what it has verified."""

    def read_root(self, data: bytes, previous: Verified[Root] | None) -> Verified[Root]:
        """See the function of this name."""
        return read_root(data, previous)

    def read(self, kind: type[T], data: bytes, delegator: Delegator, role: str) -> Verified[T]:
        """See the function of this name."""
        return read(kind, data, delegator, role)

    def decode(self, decoder: Callable[[bytes], D], data: bytes) -> D:
        """What `decoder` makes of a target file; raises what it raises."""
        return decoder(data)


READER = Reader()


def check_meta(data: bytes, meta: MetaFile | TargetFile, what: str) -> None:
    """Raise `TrustError` (`length`, `hash`) unless `data` is what `meta` says of it."""
    if meta.length is not None and len(data) != meta.length:
        raise TrustError("length", f"{what}: {len(data)} bytes where {meta.length} are signed")
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise TrustError("hash", f"{what}: {error}") from error


def digest_of(meta: MetaFile | TargetFile) -> Digest | None:
    """The SHA-256 that `meta` gives, if it gives a well-formed one."""
    try:
        return parse_digest((meta.hashes or {}).get("sha256"))
    except ContentError:
        return None


def encode_name(role: str) -> str:
    """`role` percent-encoded as one URL path segment (RFC 3986, everything but unreserved)."""
    return "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in role.encode())


def _parse(kind: type[T], data: bytes, role: str) -> Metadata[T]:
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise TrustError("malformed", f"{role}: not valid JSON ({error})") from error
    signed = document.get("signed") if isinstance(document, dict) else None
    if not isinstance(signed, dict):
        raise TrustError("malformed", f"{role}: no signed part")
    if signed.get("_type") != kind.type:
        raise TrustError(
            "type", f"{role}: type {str(signed.get('_type'))[:40]!r} where {kind.type!r} belongs"
        )
    spec = signed.get("spec_version")
    if not isinstance(spec, str) or spec.split(".")[0] != _SPEC_MAJOR:
        raise TrustError("spec-version", f"{role}: TUF specification {str(spec)[:40]!r} is not supported")
    if type(signed.get("version")) is not int:  # the library would take null for 1
        raise TrustError("malformed", f"{role}: the version is not an integer")
    try:
        metadata: Metadata[T] = Metadata.from_dict(document)
        _check_numbers(metadata.signed)
    except Exception as error:  # the library raises whatever hostile fields lead it into
        raise TrustError("malformed", f"{role}: {error or type(error).__name__}") from error
    return metadata


def _check_threshold(metadata: Metadata[T], delegator: Root | Targets, role: str) -> None:
    try:
        delegated = delegator.get_delegated_role(role)
    except ValueError as error:
        raise TrustError("not-delegated", f"{role}: {error}") from error
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        # Two key ids of one key are one signer.
        signers = {json.dumps(key.keyval, sort_keys=True, default=str) for key in result.signed.values()}
    except Exception as error:  # as above: keys and signatures of any shape
        raise TrustError("malformed", f"{role}: {error or type(error).__name__}") from error
    if len(signers) < delegated.threshold:
        raise TrustError("signature", f"{role}: {len(signers)} of {delegated.threshold} signatures are valid")


def _check_numbers(signed: Root | Timestamp | Snapshot | Targets) -> None:
    for number in _numbers(signed):
        if type(number) is not int or not 0 <= number <= VERSION_MAX:
            raise ValueError(f"{str(number)[:40]} is not an integer within 0..2^53-1")


def _numbers(signed: Root | Timestamp | Snapshot | Targets) -> Iterator[object]:
    yield signed.version
    match signed:
        case Root():
            yield from (role.threshold for role in signed.roles.values())
        case Timestamp():
            yield from _meta_numbers(signed.snapshot_meta)
        case Snapshot():
            for meta in signed.meta.values():
                yield from _meta_numbers(meta)
        case Targets():
            yield from (target.length for target in signed.targets.values())
            if signed.delegations is not None:
                yield from (role.threshold for role in (signed.delegations.roles or {}).values())
                if signed.delegations.succinct_roles is not None:
                    yield signed.delegations.succinct_roles.threshold


def _meta_numbers(meta: MetaFile) -> Iterator[object]:
    yield meta.version
    if meta.length is not None:
        yield meta.length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text[:40]} is not an integer")
