"""The TUF metadata of a repository as one verified whole.

`load_state` reads what `timestamp.json` leads to and checks every signature, version, length and hash on
the way, as a device would, so that nothing is ever built on metadata that devices would refuse. Reads
only; expiry is reported and not enforced, because re-signing what has expired must stay possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from coordinator.errors import RepositoryDamaged
from p2p.content import limits
from p2p.content.digests import Digest, parse_digest, sha256
from p2p.content.manifest import ObjectRef
from p2p.content.revocation import PATHS
from p2p.errors import OperatorError, SlipstreamError

PHASES_ROLE = "phases"
REVOCATIONS_ROLE = "revocations"
ONLINE_PATHS = {PHASES_ROLE: "phases/*/*", REVOCATIONS_ROLE: PATHS}
"""The delegated roles of the online key, and what each may sign."""

_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


def product_role(product: str) -> str:
    """The TUF role that signs a product's manifests."""
    return f"product-{product}"


def orders_role(product: str) -> str:
    """The TUF role that signs a product's orders."""
    return f"orders-{product}"


@dataclass(frozen=True, slots=True)
class State:
    """A consistent set of metadata. `roles` are the delegated ones that the snapshot lists."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    roles: dict[str, Metadata[Targets]]

    def products(self) -> list[str]:
        """Names of the products, sorted."""
        names = (name.removeprefix("product-") for name in self.delegated() if name.startswith("product-"))
        return sorted(names)

    def delegated(self) -> dict[str, DelegatedRole]:
        delegations = self.targets.signed.delegations
        return {} if delegations is None or delegations.roles is None else delegations.roles

    def delegation(self, role: str) -> tuple[int, dict[str, Key]]:
        """Threshold and keys of a delegated role; raises `OperatorError` when there is no such role."""
        delegations = self.targets.signed.delegations
        found = self.delegated().get(role)
        if found is None or delegations is None:
            if role == REVOCATIONS_ROLE:
                raise OperatorError(
                    "this repository is older than revocations and has no role for them",
                    kept="what is published",
                    next_step="with the root keys here once: slipstream repo upgrade DIR",
                )
            kind, _, product = role.partition("-")
            what = f"product {product!r}" if kind in ("product", "orders") else f"role {role!r}"
            known = ", ".join(self.products()) or "none yet"
            raise OperatorError(
                f"this repository has no {what} (products: {known})",
                next_step=f"slipstream repo product add {product or 'NAME'} --repo DIR",
            )
        return found.threshold, {k: delegations.keys[k] for k in found.keyids}

    def role(self, name: str) -> Metadata[Targets] | None:
        """The current metadata of a delegated role; None while nothing of it was published."""
        self.delegation(name)
        return self.roles.get(name)

    def target(self, role: str, path: str) -> ObjectRef | None:
        """Digest and size of a target that a delegated role names."""
        metadata = self.roles.get(role)
        found = None if metadata is None else metadata.signed.targets.get(path)
        return None if found is None else ObjectRef(_target_digest(found.hashes, path), found.length)

    def targets_of(self, role: str) -> Iterator[tuple[str, ObjectRef]]:
        """Every target path of a delegated role with its object."""
        metadata = self.role(role)
        for path, found in sorted(metadata.signed.targets.items() if metadata else ()):
            yield path, ObjectRef(_target_digest(found.hashes, path), found.length)

    def expiries(self) -> dict[str, datetime]:
        """When each piece of metadata expires."""
        top: dict[str, Metadata[Any]] = {
            "root": self.root,
            "targets": self.targets,
            "snapshot": self.snapshot,
            "timestamp": self.timestamp,
        }
        return {name: metadata.signed.expires for name, metadata in (top | self.roles).items()}


def load_state(directory: Path) -> State:
    """Read and verify `directory` (a repository's `metadata/`); raises `RepositoryDamaged`."""

    def read(name: str) -> bytes:
        try:
            with (directory / name).open("rb") as file:
                return file.read(limits.TARGETS_SIZE_MAX + 1)
        except OSError as error:
            raise RepositoryDamaged(f"{directory / name}: {error.strerror or error}") from error

    try:
        return verify_state(read)
    except SlipstreamError:
        raise
    except (RepositoryError, UnsignedMetadataError, DeserializationError, ValueError, KeyError) as error:
        raise RepositoryDamaged(
            f"the metadata in {directory} does not verify: {error}",
            kept="all files as they are",
            next_step="restore metadata/ from a backup or from any device's or mirror's copy",
        ) from error


def verify_state(read: Callable[[str], bytes]) -> State:
    """Verify the metadata that `read(file name)` returns, from `1.root.json` on (trusted: it is ours)."""
    root = _parse(read("1.root.json"), Root)
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    for version in range(2, limits.ROOT_ROTATIONS_MAX):
        try:
            data = read(f"{version}.root.json")
        except RepositoryDamaged:
            break
        following = _parse(data, Root)
        root.signed.verify_delegate("root", following.signed_bytes, following.signatures)
        following.signed.verify_delegate("root", following.signed_bytes, following.signatures)
        _demand(following.signed.version == version, f"{version}.root.json holds another version")
        root = following
    timestamp = _parse(read("timestamp.json"), Timestamp)
    root.signed.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
    snapshot = _named(read, "snapshot", timestamp.signed.snapshot_meta, Snapshot)
    root.signed.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
    targets = _named(read, "targets", snapshot.signed.meta["targets.json"], Targets)
    root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    roles = {}
    for name in _delegated_names(targets):
        if f"{name}.json" not in snapshot.signed.meta:
            continue  # delegated, and nothing published yet
        role = _named(read, name, snapshot.signed.meta[f"{name}.json"], Targets)
        targets.signed.verify_delegate(name, role.signed_bytes, role.signatures)
        roles[name] = role
    return State(root, timestamp, snapshot, targets, roles)


def file_name(role: str, metadata: Metadata[Any]) -> str:
    """The file that holds a version of a role's metadata (consistent snapshots)."""
    return "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"


def meta_file(data: bytes, version: int) -> MetaFile:
    """What a snapshot or timestamp says of a file: version, length and digest, always all three."""
    return MetaFile(version=version, length=len(data), hashes={"sha256": sha256(data).hex()})


def _named(read: Callable[[str], bytes], name: str, meta: MetaFile, kind: type[_T]) -> Metadata[_T]:
    data = read(f"{meta.version}.{name}.json")
    _demand(meta.length is not None and meta.hashes is not None, f"{name}: listed without length and digest")
    meta.verify_length_and_hashes(data)
    metadata = _parse(data, kind)
    _demand(metadata.signed.version == meta.version, f"{name}: another version than the one listed")
    return metadata


def _parse(data: bytes, kind: type[_T]) -> Metadata[_T]:
    metadata: Metadata[_T] = Metadata.from_bytes(data)
    _demand(isinstance(metadata.signed, kind), f"not {kind.__name__} metadata")
    return metadata


def _delegated_names(targets: Metadata[Targets]) -> list[str]:
    delegations = targets.signed.delegations
    return [] if delegations is None or delegations.roles is None else list(delegations.roles)


def _target_digest(hashes: dict[str, str], path: str) -> Digest:
    return parse_digest(hashes.get("sha256"), f"digest of {path}")


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
