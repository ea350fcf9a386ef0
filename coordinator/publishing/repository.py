"""The repository directory: TUF metadata, objects, keys, the fleet CA and the database.

`Repository.commit` is the only way that published metadata changes. It writes new files first and
`timestamp.json` last, each one atomically, so that a crash between any two writes leaves what was
published before: unreferenced files are overwritten by the next attempt. What may be published is
decided elsewhere (`proposal`, `releases`, `orders`); here it only has to verify.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Snapshot, Targets

from coordinator.errors import KeyUnavailable, RepositoryDamaged
from coordinator.publishing.files import check_object, import_object, locked, write_atomic
from coordinator.publishing.keys import KeyFileSigner, Passphrases, open_signer, read_public
from coordinator.publishing.settings import SETTINGS_FILE, Settings, load_settings
from coordinator.publishing.state import (
    ONLINE_PATHS,
    State,
    file_name,
    load_state,
    meta_file,
    verify_state,
)
from p2p.content.digests import sha256
from p2p.content.manifest import ObjectRef
from p2p.errors import OperatorError
from p2p.trust import ISSUED, format_time

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock, in whole seconds: TUF's expiry has no finer form."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Repository:
    """An opened repository. `write` is the one way a file is written, so that tests can cut it short."""

    directory: Path
    settings: Settings
    passphrases: Passphrases
    clock: Clock = utc_now
    write: Callable[[Path, bytes], None] = write_atomic

    @classmethod
    def open(cls, directory: Path, passphrases: Passphrases | None = None) -> Repository:
        """Raises `OperatorError` when `directory` is not a repository."""
        if not (directory / SETTINGS_FILE).is_file():
            raise OperatorError(
                f"{directory} is not a Slipstream repository",
                next_step=f"slipstream repo init {directory}",
            )
        return cls(directory, load_settings(directory), passphrases or Passphrases())

    @property
    def metadata(self) -> Path:
        return self.directory / "metadata"

    @property
    def objects(self) -> Path:
        return self.directory / "objects"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def database(self) -> Path:
        return self.directory / "coordinator.db"

    def state(self) -> State:
        """What is published now, verified."""
        return load_state(self.metadata)

    @contextlib.contextmanager
    def locked(self) -> Iterator[State]:
        """Hold the repository's lock around a change; gives the published state."""
        with locked(self.directory):
            yield self.state()

    # Objects

    def put(self, data: bytes) -> ObjectRef:
        """Store a small object; it is public as soon as something signed names it."""
        ref = ObjectRef(sha256(data), len(data))
        path = self.objects / ref.sha256.hex()
        if not path.exists():
            self.write(path, data)
        return ref

    def get(self, ref: ObjectRef) -> bytes:
        """A small object, verified; raises `RepositoryDamaged`."""
        path = self.objects / ref.sha256.hex()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RepositoryDamaged(f"object {ref.sha256.hex()}: {error.strerror or error}") from error
        if len(data) != ref.size or sha256(data) != ref.sha256:
            raise RepositoryDamaged(
                f"object {ref.sha256.hex()} is damaged",
                next_step="restore it from a backup or build it again",
            )
        return data

    def bring(self, ref: ObjectRef, source: Path | None) -> None:
        """Make sure an object is here and right, copying it from the directory `source` if it is not."""
        target = self.objects / ref.sha256.hex()
        if source is None or target.exists() or source.resolve() == self.objects.resolve():
            check_object(target, ref)
        else:
            import_object(source / ref.sha256.hex(), self.objects, ref)

    # Keys

    def public_keys(self, kind: str) -> tuple[int, dict[str, Key]]:
        """Threshold and public keys that `repo.toml` names for a kind of role."""
        role = self.settings.roles[kind]
        found = [read_public(self.keys / f"{name}.pub") for name in role.keys]
        return role.threshold, {key.keyid: key for key in found}

    def uri_of(self, key: Key) -> str | None:
        """The private key's URI if `repo.toml` has one (and, for a key file, the file is here)."""
        for name, uri in self.settings.signers.items():
            public = self.keys / f"{name}.pub"
            if not public.is_file() or read_public(public).keyid != key.keyid:
                continue
            scheme, _, rest = uri.partition(":")
            if scheme != KeyFileSigner.SCHEME:
                return uri
            path = self.directory / rest
            return f"{scheme}:{path}" if path.is_file() else None
        return None

    def sign_with_local_keys(
        self, metadata: Metadata[Any], keys: Mapping[str, Key], threshold: int, role: str
    ) -> int:
        """Add signatures of the keys that are here, up to `threshold` in all; returns how many there are."""
        service = role in ("snapshot", "timestamp", *ONLINE_PATHS)
        for keyid, key in keys.items():
            if len(metadata.signatures) >= threshold:
                break
            uri = None if keyid in metadata.signatures else self.uri_of(key)
            if uri is not None:
                signer = open_signer(uri, key, self.passphrases, service=service)
                metadata.sign(signer, append=True)
        return len(metadata.signatures)

    def sign_online(self, metadata: Metadata[Any], state: State, role: str) -> None:
        """Sign with the online key; raises `KeyUnavailable` when it is not here."""
        if role in ONLINE_PATHS:
            threshold, keys = state.delegation(role)
        else:
            delegation = state.root.signed.roles[role]
            threshold = delegation.threshold
            keys = {k: state.root.signed.keys[k] for k in delegation.keyids}
        metadata.signatures.clear()
        if self.sign_with_local_keys(metadata, keys, threshold, role) < threshold:
            raise KeyUnavailable(
                f"the online key for {role} is not on this machine",
                kept="what is published",
                next_step="run this where the coordinator runs, or put the key's URI in repo.toml",
            )

    # Publishing

    def expiry(self, role: str) -> datetime:
        """When a signature made now for a kind of role (see `Settings.expiry`) ends."""
        return self.clock() + timedelta(days=self.settings.expiry(role))

    def commit(self, state: State, changed: Mapping[str, Metadata[Any]]) -> State:
        """Publish new versions of `targets` or delegated roles, with a new snapshot and timestamp.

        The lock must be held. Everything is verified in memory before the first file is written; raises
        `RepositoryDamaged` if devices would refuse it, with nothing written.
        """
        files: dict[str, bytes] = {}
        snapshot = copy.deepcopy(state.snapshot)
        for role, metadata in changed.items():
            data = metadata.to_bytes()
            files[file_name(role, metadata)] = data
            snapshot.signed.meta[f"{role}.json"] = meta_file(data, metadata.signed.version)
        snapshot.signed.version += 1
        snapshot.signed.expires = self.expiry("snapshot")
        self.sign_online(snapshot, state, "snapshot")
        return self._write(state, files, snapshot)

    def refresh(self, state: State, *, snapshot: bool = False) -> State:
        """Sign a new timestamp (and snapshot) over the same content. The lock must be held."""
        if snapshot:
            return self.commit(state, {})
        return self._write(state, {}, state.snapshot)

    def refresh_if_due(self) -> list[str]:
        """Re-sign what the online key signs and has used up half of its life; returns what was signed."""
        with self.locked() as state:
            due = [
                role
                for role, metadata in (
                    *((role, state.roles.get(role)) for role in ONLINE_PATHS),
                    ("snapshot", state.snapshot),
                    ("timestamp", state.timestamp),
                )
                if metadata is not None
                and metadata.signed.expires - self.clock() < timedelta(days=self.settings.expiry(role)) / 2
            ]
            changed = {
                role: self.next_version(state.roles[role], role) for role in due if role in ONLINE_PATHS
            }
            for role, metadata in changed.items():
                self.sign_online(metadata, state, role)
            if changed:
                self.commit(state, changed)
            elif due:
                self.refresh(state, snapshot="snapshot" in due)
            return due

    def next_version(self, metadata: Metadata[Targets], kind: str) -> Metadata[Targets]:
        """An unsigned copy with the next version number and a new expiry."""
        following = copy.deepcopy(metadata)
        following.signatures.clear()
        following.signed.version += 1
        following.signed.expires = self.expiry(kind)
        return following

    def _write(self, state: State, files: dict[str, bytes], snapshot: Metadata[Snapshot]) -> State:
        if snapshot is not state.snapshot:
            files[file_name("snapshot", snapshot)] = snapshot.to_bytes()
        timestamp = copy.deepcopy(state.timestamp)
        if snapshot is not state.snapshot:
            data = files[file_name("snapshot", snapshot)]
            timestamp.signed.snapshot_meta = meta_file(data, snapshot.signed.version)
        timestamp.signed.version += 1
        timestamp.signed.expires = self.expiry("timestamp")
        timestamp.signed.unrecognized_fields[ISSUED] = format_time(self.clock().timestamp())
        self.sign_online(timestamp, state, "timestamp")
        files["timestamp.json"] = timestamp.to_bytes()
        return self.write_metadata(files)

    def write_metadata(self, files: Mapping[str, bytes]) -> State:
        """Verify the state that `files` would lead to, then write them, `timestamp.json` last.

        What the timestamp and the snapshot name by digest is an object too, so that a node can fetch it
        for a peer of which it knows no more than that digest.
        """

        def read(name: str) -> bytes:
            if name in files:
                return files[name]
            try:
                return (self.metadata / name).read_bytes()
            except OSError as error:
                raise RepositoryDamaged(f"{name}: {error.strerror or error}") from error

        try:
            state = verify_state(read)
        except RepositoryDamaged:
            raise
        except Exception as error:  # whatever it is, devices would refuse it
            raise RepositoryDamaged(
                f"the new metadata would not verify: {error}", kept="what is published"
            ) from error
        for name, data in sorted(files.items(), key=lambda item: item[0] == "timestamp.json"):
            if name != "timestamp.json" and not name.endswith(".root.json"):
                self.put(data)
            self.write(self.metadata / name, data)
        return state
