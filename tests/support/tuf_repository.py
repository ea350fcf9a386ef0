"""A TUF repository in memory that tests publish to, attack and serve from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from p2p.content.digests import sha256
from p2p.errors import OriginError, StoreError
from p2p.trust import Need

NOW = datetime(2030, 6, 1, 12, 0, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class MemoryStore:
    """A blob store in memory; changes from the `fail_at`-th on (0 is the next) fail."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changes = 0
        self.fail_at: int | None = None

    def read(self, name: str) -> bytes | None:
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self._count()
        self.values[name] = bytes(value)

    def delete(self, name: str) -> None:
        if name in self.values:
            self._count()
            del self.values[name]

    def names(self) -> Iterable[str]:
        return sorted(self.values)

    def _count(self) -> None:
        if self.fail_at is not None:
            if self.fail_at <= 0:
                raise StoreError("the test's disk is full")
            self.fail_at -= 1
        self.changes += 1


class Repository:
    """Root, timestamp, snapshot and targets with one key each, and delegated roles on demand.

    `publish(*roles)` bumps and signs the roles, then snapshot and timestamp; `files` is what an
    origin serves. Tests change `signed[role]` before, or `files` after.
    """

    def __init__(self, now: float = NOW, *, hashes: bool = True) -> None:
        self.now = now
        self.hashes = hashes
        self.files: dict[str, bytes] = {}
        self.signers: dict[str, list[CryptoSigner]] = {}
        self.signed: dict[str, Any] = {
            "root": Root(version=0 + 1, expires=at(now + 365 * DAY), consistent_snapshot=True),
            "targets": Targets(expires=at(now + 90 * DAY)),
            "snapshot": Snapshot(expires=at(now + 7 * DAY)),
            "timestamp": Timestamp(expires=at(now + DAY)),
        }
        for role in ("root", "timestamp", "snapshot", "targets"):
            self.set_keys(role, 1)
        self._started = False
        self.publish_root()
        self.publish("targets")
        self._started = True

    @property
    def initial_root(self) -> bytes:
        return self.files["metadata/1.root.json"]

    # -------------------------------------------------------------- keys and delegations

    def set_keys(self, role: str, count: int, threshold: int = 1) -> list[CryptoSigner]:
        """Give `role` `count` new keys in place of what it has."""
        signers = [CryptoSigner.generate_ed25519() for _ in range(count)]
        root: Root = self.signed["root"]
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for signer in signers:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = threshold
        self.signers[role] = signers
        return signers

    def delegate(
        self,
        role: str,
        paths: list[str],
        *,
        parent: str = "targets",
        keys: int = 1,
        threshold: int = 1,
        terminating: bool = False,
        prefixes: list[str] | None = None,
    ) -> list[CryptoSigner]:
        """Delegate `paths` (or path-hash `prefixes`) from `parent` to a new or known `role`."""
        delegator: Targets = self.signed[parent]
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        assert delegator.delegations.roles is not None
        delegator.delegations.roles[role] = DelegatedRole(
            role, [], threshold, terminating, None if prefixes else paths, prefixes
        )
        signers = [CryptoSigner.generate_ed25519() for _ in range(keys)]
        for signer in signers:
            delegator.add_key(signer.public_key, role)
        self.signers.setdefault(role, []).extend(signers)
        self.signed.setdefault(role, Targets(version=1, expires=at(self.now + 90 * DAY)))
        return signers

    def add_target(self, role: str, path: str, data: bytes) -> TargetFile:
        target = TargetFile.from_data(path, data)
        self.signed[role].targets[path] = target
        self.files[f"objects/{sha256(data).hex()}"] = data
        return target

    # -------------------------------------------------------------- publishing

    def sign(self, role: str, signers: list[CryptoSigner] | None = None) -> bytes:
        metadata = Metadata(self.signed[role])
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def publish_root(self, signers: list[CryptoSigner] | None = None) -> None:
        root: Root = self.signed["root"]
        if f"metadata/{root.version}.root.json" in self.files:
            root.version += 1
        self.files[f"metadata/{root.version}.root.json"] = self.sign("root", signers)

    def rotate(self, *roles: str) -> None:
        """New keys for online `roles`, in a new root signed by the same root keys."""
        for role in roles:
            self.set_keys(role, 1)
        self.publish_root()

    def publish(self, *roles: str) -> None:
        for role in roles:
            self.publish_role(role)
        self.publish_role("snapshot")
        self.publish_role("timestamp")

    def publish_role(self, role: str, *, bump: bool = True) -> None:
        """Sign one role and enter it in the metadata that names it (which is not signed yet)."""
        signed = self.signed[role]
        if bump and self._was_published(role):
            signed.version += 1
        data = self.sign(role)
        if role == "timestamp":
            self.files["metadata/timestamp.json"] = data
            return
        self.files[f"metadata/{signed.version}.{role}.json"] = data
        self.name(role, data)

    def name(self, role: str, data: bytes) -> None:
        meta = MetaFile(self.signed[role].version)
        if self.hashes:
            meta = MetaFile.from_data(meta.version, data, ["sha256"])
        if role == "snapshot":
            self.signed["timestamp"].snapshot_meta = meta
        else:
            self.signed["snapshot"].meta[f"{role}.json"] = meta

    def _was_published(self, role: str) -> bool:
        if role == "timestamp":
            return "metadata/timestamp.json" in self.files
        return any(name.endswith(f".{role}.json") for name in self.files)


class Source:
    """Answers needs from `files`; remembers what was asked. Gives up when its bytes are refused."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def __call__(self, need: Need) -> bytes | None:
        self.asked.append(need.path)
        if need.error is not None:
            raise OriginError("exhausted", f"{need.path}: no other source")
        data = self.files.get(need.path)
        if data is None and not need.may_be_absent:
            raise OriginError("not-found", need.path)
        return data


class Sources:
    """Asks each source in turn for one need; the way an agent asks peers before the origin."""

    def __init__(self, *sources: Callable[[Need], bytes | None]) -> None:
        self._sources = sources
        self._next: dict[str, int] = {}
        self.errors: list[str] = []

    def __call__(self, need: Need) -> bytes | None:
        if need.error is not None:
            self.errors.append(need.error.reason)
        turn = self._next.get(need.path, 0)
        self._next[need.path] = turn + 1
        if turn >= len(self._sources):
            raise OriginError("exhausted", need.path)
        return self._sources[turn](need)


def edit(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """`data` with `change` applied to its JSON, signatures as they were."""
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()
