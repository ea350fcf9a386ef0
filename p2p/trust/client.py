"""The TUF client workflow (specification 1.0.31, section 5) over any source of bytes.

Pure: it yields a `Need` for each file that it must see (`p2p.trust.need`), takes the device's clock
as an argument and keeps its state in a `TrustStore`. A step writes before it believes, and in such an
order that a cut at any moment leaves a state that the next refresh goes on from.

Not here: what a device should install (`p2p.trust.policy`, `p2p.trust.release`), the release-counter
floor (`p2p.trust.floors`), sources and deadlines (whoever drives the steps).
"""

from __future__ import annotations

from typing import TypeVar

from tuf.api.metadata import MetaFile, Snapshot, TargetFile, Targets, Timestamp

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.errors import OriginError, TrustError
from p2p.trust import delegations
from p2p.trust import store as names
from p2p.trust.clock import trusted_time
from p2p.trust.documents import READER, Delegator, Reader, Verified, check_meta, digest_of
from p2p.trust.need import Need, NeedKind, Steps, metadata_need, obtain
from p2p.trust.root_chain import RootChain
from p2p.trust.rules import DocumentT, check_expiry, check_forward, check_version, issued_at
from p2p.trust.store import Overlay, TrustStore, read_or_none

OnlineT = TypeVar("OnlineT", Timestamp, Snapshot)
MetaFileKey = tuple[int, Digest | None]

ONLINE_ROLES = frozenset({"timestamp", "snapshot", "phases"})
"""What the online key signs: its expiry says how fresh a device's view of the repository has to be."""

REVOCATIONS_ROLE = "revocations"
"""What the online key may add to and nobody takes away from (`p2p.trust.revocations`)."""

_LASTING = frozenset({REVOCATIONS_ROLE})
"""Roles whose expiry is never judged: what they say can only be added to."""

_STORED_NAME_MAX = 200  # bytes, within NAME_MAX of every file system with room for a temporary suffix


class TrustClient:
    """One device's view of one repository.

    `root`: the pinned root that the device was shipped with (None: one is in the store already).
    `build_time`: POSIX seconds when the running image was built, a floor of trusted time.
    `reader`: what verifies and decodes documents.
    Steps must not be interleaved, but each may run in another thread; `consider_timestamp` may be called
    between them. What is held, and `versions`, may be asked from any thread at any time.
    """

    def __init__(
        self,
        store: TrustStore,
        root: bytes | None = None,
        *,
        build_time: float = 0.0,
        reader: Reader = READER,
    ) -> None:
        self._store = store
        self.reader = reader
        self._pinned = root
        self._outlived = _LASTING  # roles whose expiry is not judged
        self._chain = RootChain(store, root, reader)
        self._build_time = build_time
        self._timestamp: Verified[Timestamp] | None = None
        self._snapshot: Verified[Snapshot] | None = None
        self._online_under: Digest | None = None  # the root that timestamp and snapshot were checked with
        self._roles: dict[tuple[str, Digest, MetaFileKey], Verified[Targets]] = {}
        self._held: dict[Digest, str] = {}
        self._time = 0.0
        self._fresh = False

    # ------------------------------------------------------------------ what is trusted now

    @property
    def versions(self) -> dict[str, int]:
        """Versions of the trusted top-level metadata, those that there are."""
        documents = (self._chain.found, self._timestamp, self._snapshot)
        found = {document.role: document.version for document in documents if document is not None}
        if self._snapshot is not None and "targets.json" in self._snapshot.signed.meta:
            found["targets"] = self._snapshot.signed.meta["targets.json"].version
        return found

    @property
    def time(self) -> float:
        """Trusted time of the last step, POSIX seconds (see `p2p.trust.clock`)."""
        return self._time

    @property
    def signed_time(self) -> float:
        """When the trusted timestamp was issued, POSIX seconds; 0: not known. No clock of this device's."""
        return 0.0 if self._timestamp is None else issued_at(self._timestamp) or 0.0

    @property
    def content_until(self) -> float:
        """Until when (trusted time) others may be believed that there is nothing newer; 0: not at all.

        After three quarters of a timestamp's life the origin must be asked: the coordinator has signed a new
        one by then.
        """
        if self._timestamp is None:
            return 0.0
        issued = issued_at(self._timestamp)
        left = self._timestamp.expires - (issued if issued is not None else self._timestamp.expires)
        return self._timestamp.expires - left / 4

    @property
    def judged_until(self) -> float:
        """When (trusted time) the first of the documents expires that the last steps went by; 0: none."""
        judged = (self._chain.found, self._timestamp, self._snapshot, *self._roles.values())
        expiries = [d.expires for d in judged if d is not None and d.role not in self._outlived]
        return min(expiries) if self._fresh else 0.0

    def held(self, digest: Digest) -> bytes | None:
        """The signed metadata or target file with this digest, if it is here to be passed on."""
        data = read_or_none(self._store, self._held.get(digest) or names.object_name(digest))
        return data if data is not None and sha256(data) == digest else None

    def held_timestamp(self) -> bytes | None:
        """The trusted timestamp's bytes, to offer to peers."""
        timestamp = self._timestamp  # which a step in another thread may replace
        return None if timestamp is None else self.held(timestamp.digest)

    def held_root(self, version: int) -> bytes | None:
        """A root of the chain that this device has walked, to offer to peers."""
        return read_or_none(self._store, names.root_name(version))

    # ------------------------------------------------------------------ expired metadata

    def lenient_copy(self) -> TrustClient:
        """A client of the same state that takes expired documents of `ONLINE_ROLES`, and keeps nothing.

        For whoever has grounds to (`p2p.trust.staleness`); all other checks are as ever. What it has
        accepted becomes this client's with `adopt`.
        """
        copy = TrustClient(
            Overlay(self._store), self._pinned, build_time=self._build_time, reader=self.reader
        )
        copy._outlived = ONLINE_ROLES | _LASTING
        return copy

    def adopt(self, copy: TrustClient) -> None:
        """Keep, durably and in the order in which it was accepted, what a `lenient_copy` of this accepted."""
        assert isinstance(copy._store, Overlay)
        try:
            copy._store.commit()
        except BaseException:
            # The store may be ahead now: the next step starts from what is in it.
            self._chain.found = self._timestamp = self._snapshot = self._online_under = None
            self._roles.clear()
            self._held.clear()
            self._fresh = False
            raise
        self._chain.found = copy._chain.found
        self._timestamp, self._snapshot = copy._timestamp, copy._snapshot
        self._online_under, self._time = copy._online_under, copy._time
        self._held = dict(copy._held)
        self._roles.clear()
        self._fresh = False

    # ------------------------------------------------------------------ steps

    def refresh(self, now: float) -> Steps[bool]:
        """Bring the top-level metadata up to date; True if the timestamp moved.

        `now`: the device's wall clock. When nothing has changed it needs a root probe and the
        timestamp, no more. None for the timestamp means that nobody can be asked: what is held is
        used while it has not expired. (So a driver may answer None to a timestamp need whose error is
        `rollback`: peers brought a newer one than a lagging origin has.) Raises `TrustError`; of what
        was accepted before, nothing is lost, and a source's bad bytes leave no trace.
        """
        self._fresh = False
        self._chain.load()
        yield from self._chain.refresh()
        self._load_online(now)
        self._check_expiry(self._chain.root)
        moved = yield from self._refresh_timestamp(now)
        self._snapshot = yield from self._refresh_snapshot()
        yield from self._role("targets", self._chain.root)
        self._fresh = True
        return moved

    def consider_timestamp(self, data: bytes, now: float) -> bool:
        """A timestamp that a peer brought: True if it is newer than ours and now trusted.

        False if it is the same or older. Raises `TrustError` when it is bad; then, as with False,
        nothing has changed. (`signature` may also mean that our root is behind the peer's: no ground
        to blame it before a refresh.) The next `refresh` fetches what it names.
        """
        self._chain.load()
        self._load_online(now)
        self._check_expiry(self._chain.root)
        if len(data) > limits.TIMESTAMP_SIZE_MAX:
            raise TrustError("too-long", f"timestamp: over {limits.TIMESTAMP_SIZE_MAX} bytes")
        held = self._timestamp
        if held is not None:
            offered = self.reader.read(Timestamp, data, self._chain.root, "timestamp")
            if offered.version <= held.version:
                return False
        return self._accept_timestamp(data, now)

    def find_target(self, path: str) -> Steps[TargetFile | None]:
        """What the signers say of target `path`, or None, after a `refresh` (`delegations.find_target`)."""
        self._check_fresh()
        return (yield from delegations.find_target(path, self._chain.root, self._role))

    def listing(self, role: str) -> Steps[dict[str, TargetFile]]:
        """All targets of a `role` that the top-level targets delegate to, after a `refresh`.

        Paths that were not delegated to it are left out. Raises `TrustError("not-delegated")`.
        """
        self._check_fresh()
        targets = yield from self._role("targets", self._chain.root)
        return (yield from delegations.listing(role, targets, self._role))

    def delegated(self) -> Steps[dict[str, frozenset[str]]]:
        """The roles that the top-level targets delegate to, with the ids of their keys, after a `refresh`."""
        self._check_fresh()
        return delegations.keys_of_roles((yield from self._role("targets", self._chain.root)))

    def version_of(self, role: str) -> int:
        """The version of a targets role that the trusted snapshot names; 0: none."""
        meta = None if self._snapshot is None else self._snapshot.signed.meta.get(f"{role}.json")
        return 0 if meta is None else meta.version

    def roles_by_digest(self) -> dict[Digest, str]:
        """The targets roles that the trusted snapshot names, by the digest of their metadata."""
        if self._snapshot is None:
            return {}
        named = ((digest_of(meta), file) for file, meta in self._snapshot.signed.meta.items())
        return {digest: file.removesuffix(".json") for digest, file in named if digest is not None}

    def target(self, target: TargetFile, size_max: int) -> Steps[bytes]:
        """The bytes of a small target file, from the cache or as an object of the repository.

        Raises `TrustError`: `too-long` (it is signed as longer than `size_max`), `no-digest`.
        """
        digest = digest_of(target)
        if digest is None:
            raise TrustError("no-digest", f"{target.path}: no SHA-256 is signed")
        if target.length > size_max:
            raise TrustError("too-long", f"{target.path}: {target.length} bytes are over {size_max}")
        cached = read_or_none(self._store, names.object_name(digest))
        if cached is not None and len(cached) == target.length and sha256(cached) == digest:
            return cached

        def judge(data: bytes) -> bytes:
            check_meta(data, target, target.path)
            return data

        need = Need(
            NeedKind.OBJECT, digest.hex(), target.path, None, digest, target.length, target.length
        )  # fmt: skip
        data = yield from obtain(need, judge)
        if data is None:
            raise OriginError("not-found", f"{target.path}: nobody has it")
        self._store.write(names.object_name(digest), data)
        return data

    def prune(self, keep: set[Digest]) -> None:
        """Drop cached target files but `keep`, and metadata of roles that the snapshot no longer has."""
        self._check_fresh()
        assert self._snapshot is not None  # _check_fresh
        kept = {names.object_name(digest) for digest in keep} | {names.ROOT, names.TIMESTAMP, names.SNAPSHOT}
        kept |= {names.role_name(file.removesuffix(".json")) for file in self._snapshot.signed.meta}
        for name in list(self._store.names()):
            if name not in kept and (names.is_object_name(name) or name.endswith(".json")):
                self._store.delete(name)

    # ------------------------------------------------------------------ timestamp (TUF 5.4)

    def _load_online(self, now: float) -> None:
        """Timestamp and snapshot of the store, as far as the current root still stands for them."""
        root = self._chain.root
        if self._online_under != root.digest:
            self._chain.finish_rotation()
            self._timestamp = self._stored(Timestamp, names.TIMESTAMP, "timestamp")
            self._snapshot = self._stored(Snapshot, names.SNAPSHOT, "snapshot")
            self._roles.clear()
            self._online_under = root.digest
        self._time = self._trusted_time(now, self._timestamp)

    def _stored(self, kind: type[OnlineT], name: str, role: str) -> Verified[OnlineT] | None:
        data = read_or_none(self._store, name)
        if data is None:
            return None
        try:
            document = self.reader.read(kind, data, self._chain.root, role)
        except TrustError:
            return None
        self._hold(name, document.digest)
        return document

    def _trusted_time(self, now: float, timestamp: Verified[Timestamp] | None) -> float:
        signed = 0.0 if timestamp is None else issued_at(timestamp) or 0.0
        return trusted_time(now, build_time=self._build_time, signed_time=signed)

    def _refresh_timestamp(self, now: float) -> Steps[bool]:
        def judge(data: bytes) -> bool:
            return self._accept_timestamp(data, now)

        need = Need(
            NeedKind.METADATA, "timestamp.json", "timestamp", None, None, None,
            limits.TIMESTAMP_SIZE_MAX, mutable=True, may_be_absent=True,
        )  # fmt: skip
        moved = yield from obtain(need, judge)
        if moved is not None:
            return moved
        if self._timestamp is None:
            raise OriginError("unreachable", "timestamp: nobody can be asked, and none is held")
        self._check_expiry(self._timestamp)
        return False

    def _accept_timestamp(self, data: bytes, now: float) -> bool:
        """Judge and keep; False if it is the one that is held. Raises `TrustError`, changing nothing."""
        root = self._chain.root
        new = self.reader.read(Timestamp, data, root, "timestamp")
        held = self._timestamp
        if held is not None:
            if new.version < held.version:
                raise TrustError("rollback", f"timestamp: version {new.version} after {held.version}")
            if new.version == held.version:
                self._check_expiry(held)
                return False
            if new.signed.snapshot_meta.version < held.signed.snapshot_meta.version:
                raise TrustError(
                    "rollback",
                    f"timestamp: names snapshot {new.signed.snapshot_meta.version}"
                    f" after {held.signed.snapshot_meta.version}",
                )
        issued = issued_at(new)
        if issued is not None and issued >= min(new.expires, root.expires):
            # Else a stolen online key could push every clock past the root's own expiry.
            raise TrustError("issued", "timestamp: issued after it, or the root, expires")
        time = self._trusted_time(now, new)
        if "timestamp" not in self._outlived:
            check_expiry(new, time)
        self._keep(names.TIMESTAMP, data, new.digest)
        self._timestamp = new
        self._time = time
        return True

    # ------------------------------------------------------------------ snapshot (TUF 5.5)

    def _refresh_snapshot(self) -> Steps[Verified[Snapshot]]:
        assert self._timestamp is not None  # set by _refresh_timestamp
        meta = self._timestamp.signed.snapshot_meta
        held = self._snapshot
        digest = digest_of(meta)
        if (
            held is not None
            and held.version == meta.version
            and (digest is None or digest == held.digest)
            and (held.expires > self._time or "snapshot" in self._outlived)
        ):
            return held

        def judge(data: bytes) -> Verified[Snapshot]:
            check_meta(data, meta, "snapshot")
            new = self.reader.read(Snapshot, data, self._chain.root, "snapshot")
            check_version(new, meta.version)
            if held is not None:
                check_forward(held.signed, new.signed)
            self._check_expiry(new)
            self._keep(names.SNAPSHOT, data, new.digest)
            return new

        new = yield from obtain(self._need("snapshot", meta, limits.SNAPSHOT_SIZE_MAX), judge)
        if new is None:
            raise OriginError("not-found", "snapshot: nobody has it")
        self._roles.clear()
        return new

    # ------------------------------------------------------------------ targets (TUF 5.6)

    def _role(self, role: str, delegator: Delegator) -> Steps[Verified[Targets]]:
        """Targets metadata of `role`, verified against *this* delegator whatever was cached before."""
        assert self._snapshot is not None  # set by refresh
        meta = self._snapshot.signed.meta.get(f"{role}.json")
        if meta is None:
            raise TrustError("not-in-snapshot", f"{role}: the snapshot does not name it")
        digest = digest_of(meta)
        key = (role, delegator.digest, (meta.version, digest))
        cached = self._roles.get(key)
        if cached is not None:
            self._check_expiry(cached)
            return cached
        name = names.role_name(role)
        if len(name) > _STORED_NAME_MAX:
            raise TrustError("role-name", f"{role[:40]!r}…: the name is too long")

        def judge(data: bytes) -> Verified[Targets]:
            check_meta(data, meta, role)
            new = self.reader.read(Targets, data, delegator, role)
            check_version(new, meta.version)
            self._check_expiry(new)
            return new

        stored = read_or_none(self._store, name)
        found: Verified[Targets] | None = None
        if stored is not None:
            try:
                found = judge(stored)
            except TrustError:
                if digest is not None and sha256(stored) == digest:
                    raise  # these are the bytes that the snapshot means: nobody has better ones
            else:
                self._hold(name, found.digest)
        if found is None:

            def accept(data: bytes) -> Verified[Targets]:
                new = judge(data)
                self._keep(name, data, new.digest)
                return new

            found = yield from obtain(self._need(role, meta, limits.TARGETS_SIZE_MAX), accept)
            if found is None:
                raise OriginError("not-found", f"{role}: nobody has it")
        self._roles[key] = found
        return found

    # ------------------------------------------------------------------ shared

    def _need(self, role: str, meta: MetaFile, size_max: int) -> Need:
        return metadata_need(role, meta, size_max, consistent=self._chain.root.signed.consistent_snapshot)

    def _keep(self, name: str, data: bytes, digest: Digest) -> None:
        self._store.write(name, data)
        self._hold(name, digest)

    def _hold(self, name: str, digest: Digest) -> None:
        for stale in [d for d, held_as in self._held.items() if held_as == name]:
            del self._held[stale]
        self._held[digest] = name

    def _check_expiry(self, document: Verified[DocumentT]) -> None:
        if document.role not in self._outlived:
            check_expiry(document, self._time)

    def _check_fresh(self) -> None:
        if not self._fresh:
            raise TrustError("not-refreshed", "the metadata was not refreshed, or its refresh failed")
