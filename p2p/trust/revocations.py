"""Which certificates of its fleet a device refuses: the revocation list, and what it keeps of it.

The list is signed by the online key, so that a stolen device is out within minutes. So that a stolen
coordinator cannot let one in again, a device never takes a revocation back because a later list lacks it: it
keeps the union of all that it has seen until each certificate would have expired, by signed time. Only
together with a newer root (offline keys, threshold) does a list by other keys replace what was kept; else
whoever had the online key could leave false revocations for good.

Kept apart from TUF's own state, as floors are, in two copies. Nothing of it ever holds an update back: a
list that is refused or cannot be had leaves what is held, and `trouble` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.fields import dump_object, load_object
from p2p.content.revocation import (
    Reason,
    Revocation,
    decode_part,
    part_path,
    read_revoked,
    revoked_to_json,
)
from p2p.content.times import format_time
from p2p.errors import ContentError, OriginError, StoreError, TrustError
from p2p.trust.client import REVOCATIONS_ROLE, TrustClient
from p2p.trust.documents import VERSION_MAX, digest_of
from p2p.trust.floors import FloorStore
from p2p.trust.need import Steps

DOCUMENT = "slipstream-revoked"
VERSION = 1
NAME = "revoked"

_KEYS_MAX = 1024
_ENTRY_SIZE_MAX = 384
_SIZE_MAX = limits.REVOCATIONS_KEPT_MAX * _ENTRY_SIZE_MAX


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A verified list. `version`: of the role that signed it; `signers`: digests of its keys' ids.

    `root`: version of the root that it was verified from.
    """

    version: int
    root: int
    signers: frozenset[str]
    revoked: tuple[Revocation, ...]


class Revocations:
    """What one device knows to be revoked. `first` and `second` should be different directories.

    `devices`: names of those that are out of the fleet, without those that only got another certificate.
    `version`: of the newest list that it has taken, 0 before the first. `taken`: how many it took since the
    start. `trouble`: why the last question
    brought no list, empty if it did (or if there is none). `damaged`: what was kept could not be read in
    either copy, so that only the next list tells who is revoked.
    """

    def __init__(self, first: FloorStore, second: FloorStore) -> None:
        self._stores = (first, second)
        self.version = self.taken = self._root = 0
        self.trouble = ""
        self.damaged = False
        self._signers: frozenset[str] = frozenset()
        self._revoked: dict[Digest, Revocation] = {}
        self.devices: frozenset[str] = frozenset()
        self._load()

    def __len__(self) -> int:
        return len(self._revoked)

    def find(self, certificate: Digest) -> Revocation | None:
        """The revocation of a certificate, if it is revoked."""
        return self._revoked.get(certificate)

    def learn(self, found: RevocationList, signed_time: float) -> bool:
        """Take a list; True if anything of this changed. Durable in both copies when it returns.

        `signed_time`: when the trusted timestamp was issued, which ages what is kept; this device's clock
        does not, as it can be set. Raises `StoreError`, and then nothing is believed that is not kept.
        """
        replaced = found.root > self._root and not self._signers <= found.signers
        if not replaced and (found.root < self._root or found.version < self.version):
            return False
        if (found.version, found.root, found.signers) == (self.version, self._root, self._signers):
            return False
        listed = {r.certificate: r for r in found.revoked}
        kept: dict[Digest, Revocation] = {}
        if not replaced:
            kept = {c: r for c, r in self._revoked.items() if c in listed or r.until > signed_time}
        for certificate, new in listed.items():
            old = kept.get(certificate)
            if old is not None:  # nor can a list make one end sooner
                new = Revocation(certificate, new.device, new.reason, max(old.until, new.until))
            elif new.until <= signed_time or len(kept) >= limits.REVOCATIONS_KEPT_MAX:
                continue
            kept[certificate] = new
        self._write(_encode(replace(found, revoked=tuple(kept.values()))), (None, None))
        changed = kept != self._revoked
        self._believe(found, kept)
        self.damaged = False
        self.taken += 1
        return changed

    def _believe(self, found: RevocationList, revoked: dict[Digest, Revocation]) -> None:
        self.version, self._root, self._signers = found.version, found.root, found.signers
        self._revoked = revoked
        self.devices = frozenset(r.device for r in revoked.values() if r.reason is not Reason.SUPERSEDED)

    def _load(self) -> None:
        """The newest copy that is whole; it mends the other."""
        copies = list(self._copies())
        whole = [state for _, state in copies if state is not None]
        if not whole:
            self.damaged = any(data is not None for data, _ in copies)
            return
        state = max(whole, key=lambda state: (state.root, state.version))
        self._believe(state, {r.certificate: r for r in state.revoked})
        try:
            self._write(_encode(state), tuple(held for held, _ in copies))
        except StoreError:
            return  # the copy that is whole counts; the next list is written to both

    def _copies(self) -> Iterator[tuple[bytes | None, RevocationList | None]]:
        """Each copy's bytes and what they say; unreadable bytes are empty, absent ones None."""
        for store in self._stores:
            try:
                data = store.read(NAME)
            except StoreError:
                yield b"", None
                continue
            try:
                yield data, None if data is None else _decode(data)
            except ContentError:
                yield data, None

    def _write(self, value: bytes, held: Sequence[bytes | None]) -> None:
        for store, before in zip(self._stores, held, strict=True):
            if before != value:
                store.write(NAME, value)


def learn_revocations(client: TrustClient, register: Revocations) -> Steps[set[Digest]]:
    """Read the list that is signed now and have `register` keep it; digests of the files that it is in.

    After a refresh. A list that is refused, that nobody gives or that cannot be kept changes nothing, and is
    asked for again with the next question: see `Revocations.trouble`.
    """
    trouble = ""
    used: set[Digest] = set()
    try:
        found = yield from read_revocations(client, used)
        if found is not None:
            register.learn(found, client.signed_time)
    except TrustError as error:
        trouble = f"{error.reason}: {error.message}"
    except (ContentError, OriginError, StoreError) as error:
        trouble = error.message
    register.trouble = trouble  # not before: while a question is under way, the last one's answer stands
    return used


def read_revocations(client: TrustClient, used: set[Digest] | None = None) -> Steps[RevocationList | None]:
    """The list that is signed now, after a refresh; None where the repository has none.

    `used` gets the digests of its parts. A list counts whole: raises `TrustError`, `ContentError`,
    `OriginError`.
    """
    roles = yield from client.delegated()
    version = client.version_of(REVOCATIONS_ROLE)
    if REVOCATIONS_ROLE not in roles or not version:
        return None
    parts = yield from client.listing(REVOCATIONS_ROLE)
    if len(parts) > limits.REVOCATION_PARTS_MAX:
        raise TrustError(
            "too-many-revocations", f"{len(parts)} parts of the list are over {limits.REVOCATION_PARTS_MAX}"
        )
    if used is not None:
        used |= {digest for target in parts.values() if (digest := digest_of(target)) is not None}
    revoked: dict[Digest, Revocation] = {}
    for path, target in sorted(parts.items()):
        data = yield from client.target(target, limits.REVOCATION_PART_SIZE_MAX)
        part = client.reader.decode(decode_part, data)
        if path != part_path(part.number):
            raise ContentError(f"{path}: it is part {part.number} of the list")
        revoked |= {r.certificate: r for r in part.revoked}
    signers = frozenset(sha256(keyid.encode()).hex() for keyid in roles[REVOCATIONS_ROLE])
    return RevocationList(version, client.versions["root"], signers, tuple(revoked.values()))


def revocation_facts(register: Revocations, certificate: Digest) -> dict[str, Any]:
    """What a device knows to be revoked. `own`: why it is itself, None if it is not."""
    own = register.find(certificate)
    return {
        "version": register.version,
        "known": len(register),
        "trouble": register.trouble or None,
        "damaged": register.damaged,
        "own": None if own is None else {"reason": own.reason.value, "until": format_time(own.until)},
    }


def _encode(state: RevocationList) -> bytes:
    body = {
        "_type": DOCUMENT,
        "spec": VERSION,
        "version": state.version,
        "root": state.root,
        "signers": sorted(state.signers),
        "revoked": revoked_to_json(state.revoked),
    }
    return dump_object({**body, "check": sha256(dump_object(body)).hex()})


def _decode(data: bytes) -> RevocationList:
    fields = load_object(data, "revoked", _SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    state = RevocationList(
        version=fields.integer("version", 0, VERSION_MAX),
        root=fields.integer("root", 0, VERSION_MAX),
        signers=frozenset(fields.names("signers", length_max=_KEYS_MAX)),
        revoked=read_revoked(fields, limits.REVOCATIONS_KEPT_MAX),
    )
    fields.digest("check")
    fields.finish()
    if _encode(state) != data:
        raise ContentError("revoked.check: wrong")
    return state
