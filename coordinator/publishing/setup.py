"""Making a repository: keys, TUF metadata, fleet CA; and adding products to it.

The default is a development set-up that one person can run: one key per role, all of them in
`keys/`. Thresholds and the number of keys (or other people's public keys) are options. Before production
the root, release and order key files leave this machine; only the online key and the CA's key stay.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from coordinator.errors import KeyUnavailable
from coordinator.publishing.authority import CA_DIRECTORY, FleetAuthority
from coordinator.publishing.files import locked, make_directory, write_atomic
from coordinator.publishing.keys import Passphrases, create_signing_key, read_public
from coordinator.publishing.repository import Clock, Repository, utc_now
from coordinator.publishing.settings import SETTINGS_FILE, RoleKeys, Settings, render_settings
from coordinator.publishing.state import (
    ONLINE_PATHS,
    State,
    file_name,
    meta_file,
    orders_role,
    product_role,
)
from p2p.content.fields import check_name
from p2p.errors import OperatorError
from p2p.trust import ISSUED, format_time

KEYS_MAX = 32


@dataclass(frozen=True, slots=True)
class RoleRequest:
    """The keys of a kind of role at set-up: how many to make, or public key files of others."""

    threshold: int = 1
    make: int = 1
    public: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.public) or self.make
        if not 1 <= self.threshold <= count <= KEYS_MAX:
            raise OperatorError(
                f"a threshold of {self.threshold} of {count} keys cannot be",
                next_step=f"have 1 <= threshold <= keys <= {KEYS_MAX}",
            )


@dataclass(frozen=True, slots=True)
class Roles:
    """Who signs what at set-up."""

    root: RoleRequest = RoleRequest()
    release: RoleRequest = RoleRequest()
    order: RoleRequest = RoleRequest()


def init_repository(
    directory: Path,
    passphrases: Passphrases,
    roles: Roles | None = None,
    *,
    fleet: str = "fleet",
    products: Sequence[str] = (),
    clock: Clock = utc_now,
) -> Repository:
    """Make a repository in `directory`, which must be absent or empty; returns it opened.

    `repo.toml` is written last but for the metadata's timestamp, so that an interrupted `init` is seen
    as no repository at all.
    """
    check_name(fleet, "fleet")
    for product in products:
        check_name(product, "product")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OperatorError(
            f"{directory} is not empty", kept="everything in it", next_step="choose another directory"
        )
    wanted = roles or Roles()
    passphrase = passphrases.new()
    service_passphrase = passphrases.new(service=True)
    for name in ("metadata", "objects", "keys", CA_DIRECTORY):
        make_directory(directory / name, 0o700 if name in ("keys", CA_DIRECTORY) else 0o755)
    settings = Settings(
        roles={
            "root": _make_keys(directory, "root", wanted.root, passphrase),
            "release": _make_keys(directory, "release", wanted.release, passphrase),
            "order": _make_keys(directory, "order", wanted.order, passphrase),
            "online": _make_keys(directory, "online", RoleRequest(), service_passphrase),
        }
    )
    local = [name for role in settings.roles.values() for name in role.keys]
    signers = {n: f"slipstream-key:keys/{n}.pem" for n in local if (directory / f"keys/{n}.pem").is_file()}
    settings = replace(settings, signers=signers)
    FleetAuthority.create(directory, service_passphrase, fleet, clock())
    repository = Repository(directory, settings, passphrases, clock)
    with locked(directory):
        state = repository.write_metadata(_first_metadata(repository))
        write_atomic(directory / "root.json", (repository.metadata / "1.root.json").read_bytes())
        write_atomic(directory / SETTINGS_FILE, render_settings(settings))
        for product in products:
            state = add_product(repository, state, product)
    return repository


def add_product(
    repository: Repository,
    state: State,
    product: str,
    release: RoleKeys | None = None,
    order: RoleKeys | None = None,
) -> State:
    """Delegate a product's manifests and orders, signed with the targets keys that are here.

    Where the product's own keys are here too, its (empty) first versions are published at once;
    otherwise the first release and the first order bring them. The lock must be held. Raises
    `KeyUnavailable` below the threshold of the targets role.
    """
    check_name(product, "product")
    if product_role(product) in state.delegated():
        raise OperatorError(f"product {product!r} exists", kept="its keys and releases")
    targets = copy.deepcopy(state.targets)
    targets.signatures.clear()
    targets.signed.version += 1
    targets.signed.expires = repository.expiry("targets")
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        raise OperatorError("this repository's targets role delegates by hash bins, not by product")
    changed: dict[str, Metadata[Targets]] = {"targets": targets}
    kinds = (
        ("release", product_role(product), f"manifests/{product}/*", release),
        ("order", orders_role(product), f"orders/{product}/*", order),
    )
    for kind, role, pattern, override in kinds:
        wanted = override or repository.settings.roles[kind]
        public = [read_public(repository.keys / f"{name}.pub") for name in wanted.keys]
        keys: dict[str, Key] = {key.keyid: key for key in public}
        delegations.keys |= keys
        delegations.roles[role] = DelegatedRole(
            role, list(keys), wanted.threshold, terminating=True, paths=[pattern]
        )
        first = Metadata(Targets(version=1, expires=repository.expiry(kind)))
        if repository.sign_with_local_keys(first, keys, wanted.threshold, role) >= wanted.threshold:
            changed[role] = first
    _sign_targets(repository, state, targets, f"product {product!r}")
    return repository.commit(state, changed)


def upgrade_repository(repository: Repository, state: State) -> list[str]:
    """Delegate the online key's roles that a repository of an earlier version lacks; returns their names.

    The lock must be held. Raises `KeyUnavailable` below the threshold of the targets role.
    """
    missing = [role for role in ONLINE_PATHS if role not in state.delegated()]
    if not missing:
        return []
    targets = copy.deepcopy(state.targets)
    targets.signatures.clear()
    targets.signed.version += 1
    targets.signed.expires = repository.expiry("targets")
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        raise OperatorError("this repository's targets role delegates by hash bins, not by role")
    threshold, keys = repository.public_keys("online")
    delegations.keys |= keys
    changed: dict[str, Metadata[Targets]] = {"targets": targets}
    for role in missing:
        delegations.roles[role] = _online_role(role, keys, threshold)
        changed[role] = Metadata(Targets(version=1, expires=repository.expiry(role)))
        _sign(repository, changed[role], keys, threshold, role)
    _sign_targets(repository, state, targets, f"role {', '.join(missing)}")
    repository.commit(state, changed)
    return missing


def _sign_targets(repository: Repository, state: State, targets: Metadata[Targets], what: str) -> None:
    root = state.root.signed
    keys = {k: root.keys[k] for k in root.roles["targets"].keyids}
    threshold = root.roles["targets"].threshold
    found = repository.sign_with_local_keys(targets, keys, threshold, "targets")
    if found < threshold:
        raise KeyUnavailable(
            f"{what} needs {threshold} signatures of the root keys and {found} can be made here",
            kept="what is published",
            next_step="bring the root key files to keys/ (or their URIs to repo.toml) for this one command",
        )


def _online_role(role: str, keys: dict[str, Key], threshold: int) -> DelegatedRole:
    return DelegatedRole(role, list(keys), threshold, terminating=True, paths=[ONLINE_PATHS[role]])


def adopt_public_keys(repository: Repository, paths: Sequence[Path]) -> tuple[str, ...]:
    """Copy public key files of other people into `keys/`; returns their names."""
    return tuple(_adopt(repository.directory, path) for path in paths)


def _make_keys(directory: Path, kind: str, request: RoleRequest, passphrase: bytes | None) -> RoleKeys:
    if request.public:
        names = tuple(_adopt(directory, path) for path in request.public)
    else:
        names = tuple(kind if request.make == 1 else f"{kind}-{n + 1}" for n in range(request.make))
        for name in names:
            create_signing_key(directory / "keys" / f"{name}.pem", passphrase)
    if len(set(names)) != len(names):
        raise OperatorError("two public key files have the same name", next_step="rename one of them")
    return RoleKeys(request.threshold, names)


def _adopt(directory: Path, path: Path) -> str:
    key = read_public(path)
    name = check_name(path.stem, f"name of {path}")
    target = directory / "keys" / f"{name}.pub"
    if not target.exists():
        shutil.copyfile(path, target)
    elif read_public(target).keyid != key.keyid:
        raise OperatorError(f"another key is already named {name}", next_step=f"rename {path}")
    return name


def _first_metadata(repository: Repository) -> dict[str, bytes]:
    root_threshold, root_keys = repository.public_keys("root")
    online_threshold, online_keys = repository.public_keys("online")
    root = Metadata(
        Root(
            version=1,
            expires=repository.expiry("root"),
            keys=root_keys | online_keys,
            roles={
                "root": Role(list(root_keys), root_threshold),
                "targets": Role(list(root_keys), root_threshold),
                "snapshot": Role(list(online_keys), online_threshold),
                "timestamp": Role(list(online_keys), online_threshold),
            },
            consistent_snapshot=True,
        )
    )
    targets = Metadata(
        Targets(
            version=1,
            expires=repository.expiry("targets"),
            delegations=Delegations(
                keys=dict(online_keys),
                roles={role: _online_role(role, online_keys, online_threshold) for role in ONLINE_PATHS},
            ),
        )
    )
    online = {role: Metadata(Targets(version=1, expires=repository.expiry(role))) for role in ONLINE_PATHS}
    _sign(repository, root, root_keys, root_threshold, "root")
    _sign(repository, targets, root_keys, root_threshold, "targets")
    for role, metadata in online.items():
        _sign(repository, metadata, online_keys, online_threshold, role)
    snapshot = Metadata(Snapshot(version=1, expires=repository.expiry("snapshot")))
    files: dict[str, bytes] = {"1.root.json": root.to_bytes()}
    for role, metadata in {"targets": targets, **online}.items():
        data = metadata.to_bytes()
        files[file_name(role, metadata)] = data
        snapshot.signed.meta[f"{role}.json"] = meta_file(data, 1)
    _sign(repository, snapshot, online_keys, online_threshold, "snapshot")
    timestamp = Metadata(Timestamp(version=1, expires=repository.expiry("timestamp")))
    data = files["1.snapshot.json"] = snapshot.to_bytes()
    timestamp.signed.snapshot_meta = meta_file(data, 1)
    timestamp.signed.unrecognized_fields[ISSUED] = format_time(repository.clock().timestamp())
    _sign(repository, timestamp, online_keys, online_threshold, "timestamp")
    files["timestamp.json"] = timestamp.to_bytes()
    return files


def _sign(
    repository: Repository, metadata: Metadata[Any], keys: dict[str, Key], threshold: int, role: str
) -> None:
    if repository.sign_with_local_keys(metadata, keys, threshold, role) < threshold:
        raise KeyUnavailable(
            f"{role} needs {threshold} signatures at set-up",
            next_step="make the root keys here with --root-keys N, then take them off this machine",
        )
