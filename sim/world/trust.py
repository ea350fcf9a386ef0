"""What the people of a virtual fleet sign: a TUF repository in memory, the same for the same seed.

It has the roles of a real one (`docs/spec/trust.md`): root, targets, a role per product for releases
and one for orders, the online key for phases, snapshot and timestamp. Devices verify it with the real
`p2p.trust`; `RememberingReader` lets a thousand of them in one process pay for each verification once.
Not for what a device makes of it (`sim.world.lifecycle`), nor for how bytes get there (the network).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
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

from p2p.content import limits
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, encode_manifest
from p2p.content.order import (
    Audience,
    Order,
    Phase,
    PhaseState,
    PhaseStatus,
    encode_order,
    encode_phase_state,
    phases_path,
)
from p2p.content.revocation import PATHS, Revocation, RevocationPart, encode_part
from p2p.errors import ContentError, OriginError, TrustError
from p2p.trust import ISSUED, PHASES_ROLE, REVOCATIONS_ROLE, Need, format_time, orders_role, product_role
from p2p.trust.documents import Delegator, Reader, Verified, read, read_root
from sim.scenario import model

EPOCH = datetime(2030, 1, 7, tzinfo=UTC).timestamp()
"""POSIX seconds of virtual time 0 (midnight of a Monday): what right clocks show then."""

DAY_S = 86_400.0
EXPIRY_DAYS = {
    "root": 1095,
    "targets": 1095,
    "product": 730,
    "orders": 365,
    "phases": 90,
    "revocations": 90,
    "snapshot": 60,
    "timestamp": 14,
}
"""As `coordinator.publishing.settings` has them."""

TOP_LEVEL = {"root": "root", "targets": "root", "snapshot": "online", "timestamp": "online"}
"""Whose keys sign a top-level role."""

OFFLINE = ("root", "product", "orders")
_MEMORY_MAX = 4096

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)
D = TypeVar("D")


class VirtualRepository:
    """A fleet's repository. `files` is what an origin serves, by path; `objects` by digest.

    Every method that signs takes `now`, seconds of virtual time. `thresholds`: how many people must sign
    for `root`, `product` and `orders` (each has that many keys). `seed` gives all keys.
    """

    def __init__(
        self,
        seed: int,
        products: Iterable[str],
        *,
        now: float = 0.0,
        thresholds: Mapping[str, int] | None = None,
        expiry_days: Mapping[str, int] | None = None,
    ) -> None:
        self._seed = seed
        self._expiry = EXPIRY_DAYS | dict(expiry_days or {})
        thresholds = {"online": 1, **dict.fromkeys(OFFLINE, 1), **(thresholds or {})}
        self.files: dict[str, bytes] = {}
        self.objects: dict[Digest, bytes] = {}
        self._signers = {
            kind: [self._signer(f"{kind}-{n}") for n in range(count)] for kind, count in thresholds.items()
        }
        self._signed: dict[str, Any] = {}
        self._orders: list[Order] = []
        self._states: dict[str, PhaseState] = {}  # by target path
        self._begin(tuple(products), thresholds, now)

    @property
    def root(self) -> bytes:
        """The first root, which devices are shipped with."""
        return self.files["metadata/1.root.json"]

    @property
    def timestamp_version(self) -> int:
        return int(self._signed["timestamp"].version)

    @property
    def root_version(self) -> int:
        return int(self._signed["root"].version)

    def current(self) -> list[bytes]:
        """What has a digest and a device needs now: the roles, and the newest order with what it names."""
        roles = sorted(self._signed.keys() - {"root", "timestamp"})
        found = [self.files[f"metadata/{self._signed[role].version}.{role}.json"] for role in roles]
        for order in self._orders[-1:]:
            state = self._states[phases_path(order.product, order.id)]
            found += [encode_order(order), encode_phase_state(state), self.objects[order.manifest]]
        return found

    def answer(self, need: Need) -> bytes | None:
        """An origin that is always there, for `p2p.trust.run`."""
        data = self.files.get(need.path)
        if need.error is not None or (data is None and not need.may_be_absent):
            raise OriginError("not-found" if need.error is None else "exhausted", need.path)
        return data

    # What people do

    def publish_release(self, manifest: Manifest, now: float) -> Digest:
        """Sign a release; returns the digest of its manifest."""
        role = product_role(manifest.product)
        data = encode_manifest(manifest)
        self._target(role, manifest.target_path, data)
        self._publish(now, role)
        return sha256(data)

    def publish_order(
        self,
        manifest: Manifest,
        now: float,
        *,
        audience: Audience | None = None,
        phases: tuple[Phase, ...] = (),
        opened: int = 1,
        allow_downgrade: tuple[str, ...] = (),
    ) -> Order:
        """Sign an order for a release and open its first `opened` phases; no phases means one for all."""
        everybody = Audience(all=True)
        earlier = [order.sequence for order in self._orders if order.product == manifest.product]
        sequence = max(earlier, default=0) + 1
        order = Order(
            id=f"{sequence}-{manifest.version}",
            product=manifest.product,
            version=manifest.version,
            counter=manifest.counter,
            manifest=sha256(encode_manifest(manifest)),
            sequence=sequence,
            audience=audience or everybody,
            phases=phases or (Phase("all", everybody),),
            allow_downgrade=allow_downgrade,
        )
        self._orders.append(order)
        self._target(orders_role(order.product), order.target_path, encode_order(order))
        self._state(PhaseState(order.id, order.product, min(opened, len(order.phases))))
        self._publish(now, orders_role(order.product), PHASES_ROLE)
        return order

    def open_phases(self, order: Order, opened: int, now: float) -> None:
        """Open phases up to number `opened` (1 is the first)."""
        self._state(PhaseState(order.id, order.product, opened))
        self._publish(now, PHASES_ROLE)

    def halt(self, order: Order, status: PhaseStatus, now: float, reason: str = "") -> None:
        """Pause, resume or abort an order."""
        opened = self._states[phases_path(order.product, order.id)].opened
        self._state(PhaseState(order.id, order.product, opened, status, reason))
        self._publish(now, PHASES_ROLE)

    def revoke(self, revoked: Sequence[Revocation], now: float) -> None:
        """Publish a list of these; until the first there is no such role."""
        roles = [REVOCATIONS_ROLE]
        if REVOCATIONS_ROLE not in self._signed:
            self._delegate(REVOCATIONS_ROLE, "online", PATHS, 1)
            roles.append("targets")
        size = limits.REVOCATIONS_PER_PART_MAX
        for number, start in enumerate(range(0, len(revoked), size), 1):
            part = RevocationPart(number, tuple(revoked[start : start + size]))
            self._target(REVOCATIONS_ROLE, part.target_path, encode_part(part))
        self._publish(now, *roles)

    def sign_again(self, now: float) -> bool:
        """What the coordinator does now and then: sign anew what is past half of its life."""
        due = [
            role
            for role in (PHASES_ROLE, "snapshot", "timestamp")
            if self._signed[role].expires.timestamp() - EPOCH - now < self._expiry[role] * DAY_S / 2
        ]
        if PHASES_ROLE in due:
            self._publish(now, PHASES_ROLE)
        elif "snapshot" in due:
            self._publish(now)
        elif due:
            self._sign_timestamp(now)
        return bool(due)

    def rotate_online(self, now: float) -> None:
        """A new online key, by a new root: what the old one signed no longer counts."""
        root: Root = self._signed["root"]
        targets: Targets = self._signed["targets"]
        assert targets.delegations is not None
        delegated = [role for role in (PHASES_ROLE, REVOCATIONS_ROLE) if role in self._signed]
        old, new = self._signers["online"], [self._signer(f"online-0/{root.version + 1}")]
        for signer in old:
            for role in ("snapshot", "timestamp"):
                root.revoke_key(signer.public_key.keyid, role)
            for role in delegated:
                targets.revoke_key(signer.public_key.keyid, role)
        self._signers["online"] = new
        for role in ("snapshot", "timestamp"):
            root.add_key(new[0].public_key, role)
        for role in delegated:
            targets.add_key(new[0].public_key, role)
        root.version += 1
        self._put(f"{root.version}.root.json", self._sign("root", now))
        self._publish(now, "targets", *delegated)

    # Inside

    def _begin(self, products: tuple[str, ...], thresholds: Mapping[str, int], now: float) -> None:
        root = self._signed["root"] = Root(consistent_snapshot=True)
        for role, kind in TOP_LEVEL.items():
            for signer in self._signers[kind]:
                root.add_key(signer.public_key, role)
            root.roles[role].threshold = thresholds[kind]
        self._signed["targets"] = Targets(delegations=Delegations({}, {}))
        delegated = [(PHASES_ROLE, "online", "phases/*/*")]
        for product in products:
            delegated.append((product_role(product), "product", f"manifests/{product}/*"))
            delegated.append((orders_role(product), "orders", f"orders/{product}/*"))
        for role, kind, pattern in delegated:
            self._delegate(role, kind, pattern, thresholds[kind])
        self._signed |= {"snapshot": Snapshot(), "timestamp": Timestamp()}
        for role in self._signed.keys() - {"root"}:
            self._signed[role].version = 0  # the next one is the first to be signed
        self._put("1.root.json", self._sign("root", now))
        self._publish(now, "targets", *(role for role, _, _ in delegated))

    def _delegate(self, role: str, kind: str, pattern: str, threshold: int) -> None:
        targets: Targets = self._signed["targets"]
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles[role] = DelegatedRole(role, [], threshold, True, [pattern])
        for signer in self._signers[kind]:
            targets.add_key(signer.public_key, role)
        self._signed[role] = Targets()
        self._signed[role].version = 0

    def _signer(self, name: str) -> CryptoSigner:
        secret = sha256(f"{self._seed}/key/{name}".encode())
        return CryptoSigner(Ed25519PrivateKey.from_private_bytes(secret))

    def _target(self, role: str, path: str, data: bytes) -> None:
        self._signed[role].targets[path] = TargetFile.from_data(path, data, ["sha256"])
        self._hold(data)

    def _state(self, state: PhaseState) -> None:
        self._states[state.target_path] = state
        self._target(PHASES_ROLE, state.target_path, encode_phase_state(state))

    def _publish(self, now: float, *roles: str) -> None:
        snapshot: Snapshot = self._signed["snapshot"]
        for role in roles:
            signed = self._signed[role]
            signed.version += 1
            data = self._sign(role, now)
            self._put(f"{signed.version}.{role}.json", data)
            snapshot.meta[f"{role}.json"] = MetaFile.from_data(signed.version, data, ["sha256"])
        snapshot.version += 1
        data = self._sign("snapshot", now)
        self._put(f"{snapshot.version}.snapshot.json", data)
        self._signed["timestamp"].snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        self._sign_timestamp(now)

    def _sign_timestamp(self, now: float) -> None:
        timestamp: Timestamp = self._signed["timestamp"]
        timestamp.version += 1
        timestamp.unrecognized_fields[ISSUED] = format_time(EPOCH + now)
        self.files["metadata/timestamp.json"] = self._sign("timestamp", now)

    def _sign(self, role: str, now: float) -> bytes:
        kind = role.partition("-")[0]
        signed = self._signed[role]
        signed.expires = datetime.fromtimestamp(int(EPOCH + now + self._expiry[kind] * DAY_S), UTC)
        metadata = Metadata(copy.copy(signed))
        for signer in self._signers[TOP_LEVEL.get(role) or (kind if kind in OFFLINE else "online")]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def _put(self, name: str, data: bytes) -> None:
        self.files[f"metadata/{name}"] = data
        self._hold(data)

    def _hold(self, data: bytes) -> None:
        digest = sha256(data)
        self.files[f"objects/{digest.hex()}"] = self.objects[digest] = data


class RememberingReader(Reader):
    """Verifies each document once for all devices that see it under the same delegator, decodes it once.

    What it gives is what `Reader` gave for the same bytes, or the same error.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def read_root(self, data: bytes, previous: Verified[Root] | None) -> Verified[Root]:
        key = ("root", data, None if previous is None else previous.digest)
        found: Verified[Root] = self._remember(key, lambda: read_root(data, previous))
        return found

    def read(self, kind: type[T], data: bytes, delegator: Delegator, role: str) -> Verified[T]:
        key = (kind, data, delegator.digest, role)
        found: Verified[T] = self._remember(key, lambda: read(kind, data, delegator, role))
        return found

    def decode(self, decoder: Callable[[bytes], D], data: bytes) -> D:
        found: D = self._remember((decoder, data), lambda: decoder(data))
        return found

    def _remember(self, key: tuple[Any, ...], verify: Callable[[], Any]) -> Any:
        found = self._known.get(key)
        if found is None:
            try:
                found = verify()
            except (TrustError, ContentError) as error:
                found = error
            if len(self._known) >= _MEMORY_MAX:
                self._known.clear()
            self._known[key] = found
        if isinstance(found, TrustError):
            raise TrustError(found.reason, found.message, kept=found.kept, next_step=found.next_step)
        if isinstance(found, ContentError):
            raise type(found)(found.message, kept=found.kept, next_step=found.next_step)
        return found


class DeviceClock:
    """A device's own clock: off by `error_s`, which a fault may change."""

    def __init__(self, error_s: float = 0.0) -> None:
        self.error_s = error_s

    def read(self, now: float) -> float:
        """POSIX seconds that it shows at virtual time `now`."""
        return EPOCH + now + self.error_s


def phases_of(order: model.Order) -> tuple[Phase, ...]:
    """The phases of a scenario's order, as people would sign them: shares of sites, in whole percent."""
    everybody = Audience(all=True)
    return tuple(
        Phase(f"{n}", everybody, round(phase.share * 100)) for n, phase in enumerate(order.phases, 1)
    )


def opened_at(order: model.Order, now: float) -> int:
    """How many phases of a scenario's order are open at virtual time `now`."""
    return sum(1 for phase in order.phases if phase.opens_s <= now)
