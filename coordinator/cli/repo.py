"""`slipstream repo`: make a repository, look at it, keep it fresh, add products and keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from coordinator.cli.common import (
    DIRECTORY,
    EXISTING,
    FILE,
    Name,
    emit,
    json_option,
    note_in_audit,
    passphrase_options,
    repo_option,
    table,
)
from coordinator.publishing.keys import Passphrases, create_signing_key, read_public
from coordinator.publishing.releases import object_problems
from coordinator.publishing.repository import Repository
from coordinator.publishing.settings import RoleKeys
from coordinator.publishing.setup import (
    RoleRequest,
    Roles,
    add_product,
    adopt_public_keys,
    init_repository,
    upgrade_repository,
)
from coordinator.publishing.state import State
from p2p.errors import OperatorError

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group()
def repo() -> None:
    """Make and keep a repository: keys, metadata, objects, fleet CA."""


def _role_options(kind: str, what: str) -> Callable[[_F], _F]:
    def decorate(function: _F) -> _F:
        function = click.option(
            f"--{kind}-keys",
            f"{kind}_keys",
            multiple=True,
            metavar="N|FILE.pub",
            help=f"Keys {what}: how many to make here, or public key files of other people.",
        )(function)
        return click.option(
            f"--{kind}-threshold",
            f"{kind}_threshold",
            type=click.IntRange(1, 32),
            default=1,
            show_default=True,
            help=f"How many of them must sign {what}.",
        )(function)

    return decorate


@repo.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--product", "products", type=Name(), multiple=True, help="A product to begin with.")
@click.option("--fleet", type=Name(), default="fleet", show_default=True, help="Name in the fleet CA.")
@_role_options("root", "the root and the list of products")
@_role_options("release", "releases")
@_role_options("order", "orders")
@click.option(
    "--insecure-plain-keys",
    is_flag=True,
    help="Leave private keys unencrypted. For development only.",
)
@passphrase_options
@json_option
def init(
    directory: Path,
    products: tuple[str, ...],
    fleet: str,
    root_keys: tuple[str, ...],
    root_threshold: int,
    release_keys: tuple[str, ...],
    release_threshold: int,
    order_keys: tuple[str, ...],
    order_threshold: int,
    insecure_plain_keys: bool,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    """Make a repository in DIRECTORY: keys, TUF metadata, fleet CA, database.

    By default one person can do everything with the keys it makes in DIRECTORY/keys, encrypted with
    one passphrase. Ship DIRECTORY/root.json and DIRECTORY/ca.pem on devices.

    \b
    Examples:
      slipstream repo init fleet --product engine
      slipstream repo init fleet --root-keys 3 --root-threshold 2 \\
          --release-keys alice.pub --release-keys bob.pub --release-threshold 2
    """
    passphrases.plain = insecure_plain_keys
    if insecure_plain_keys:
        click.secho(
            "WARNING: private keys are written WITHOUT encryption. Never use this fleet in production.",
            fg="red",
            bold=True,
            err=True,
        )
    roles = Roles(
        root=_request(root_keys, root_threshold),
        release=_request(release_keys, release_threshold),
        order=_request(order_keys, order_threshold),
    )
    repository = init_repository(directory, passphrases, roles, fleet=fleet, products=products)
    note_in_audit(repository, "repository.created", fleet, {"products": list(products)})
    facts = {
        "directory": str(directory),
        "root": str(directory / "root.json"),
        "ca": str(directory / "ca.pem"),
        "products": list(products),
        "keys_encrypted": not insecure_plain_keys,
    }
    emit(
        facts,
        as_json,
        [
            f"{directory} is a Slipstream repository.",
            f"  ship on devices   {directory}/root.json and {directory}/ca.pem",
            f"  keys              {directory}/keys; take root, release and order keys off this machine"
            " before production",
            f"  products          {', '.join(products) or 'none yet; the first release adds its product'}",
            f"next: slipstream coordinator serve {directory} --listen 0.0.0.0:8080",
        ],
    )


def _request(keys: tuple[str, ...], threshold: int) -> RoleRequest:
    if not keys:
        return RoleRequest(threshold=threshold, make=threshold)
    if len(keys) == 1 and keys[0].isdecimal():
        return RoleRequest(threshold=threshold, make=int(keys[0]))
    for key in keys:
        if not Path(key).is_file():
            raise OperatorError(f"{key} is neither a number of keys nor a public key file")
    return RoleRequest(threshold=threshold, public=tuple(Path(key) for key in keys))


@repo.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--deep", is_flag=True, help="Hash every object that releases name.")
@json_option
def status(directory: Path, deep: bool, as_json: bool) -> None:
    """Check a repository and show versions and expiries.

    \b
    Example:
      slipstream repo status fleet --deep
    """
    repository = Repository.open(directory)
    state = repository.state()
    problems = object_problems(repository, state, deep=deep)
    now = repository.clock()
    roles = {
        name: {"version": _version(state, name), "expires": _utc(expires), "expired": expires <= now}
        for name, expires in state.expiries().items()
    }
    facts = {"directory": str(directory), "products": state.products(), "roles": roles, "problems": problems}
    rows = [
        (name, str(role["version"]), f"{role['expires']}{'  EXPIRED' if role['expired'] else ''}")
        for name, role in roles.items()
    ]
    emit(facts, as_json, [*table(("role", "version", "expires"), rows), *(f"PROBLEM: {p}" for p in problems)])
    if problems:
        raise OperatorError(
            f"{len(problems)} objects are missing or damaged",
            kept="the metadata",
            next_step="restore them from a backup, or build those releases' objects again",
        )


@repo.command()
@click.argument("directory", type=DIRECTORY)
@passphrase_options
def refresh(directory: Path, passphrases: Passphrases) -> None:
    """Sign a new snapshot and timestamp with the online key (the server does this by itself)."""
    repository = Repository.open(directory, passphrases)
    with repository.locked() as state:
        state = repository.refresh(state, snapshot=True)
    click.echo(
        f"timestamp {state.timestamp.signed.version}, snapshot {state.snapshot.signed.version},"
        f" valid until {_utc(state.timestamp.signed.expires)}"
    )


@repo.command()
@click.argument("directory", type=DIRECTORY)
@passphrase_options
@json_option
def upgrade(directory: Path, passphrases: Passphrases, as_json: bool) -> None:
    """Add the roles that this version signs and a repository of an earlier one lacks. Needs the root keys.

    \b
    Example:
      slipstream repo upgrade fleet
    """
    repository = Repository.open(directory, passphrases)
    with repository.locked() as state:
        added = upgrade_repository(repository, state)
    if added:
        note_in_audit(repository, "repository.upgraded", ", ".join(added), {})
    emit({"added": added}, as_json, [f"added: {', '.join(added)}" if added else "nothing was missing"])


@repo.group()
def product() -> None:
    """The products of a repository, each with keys of its own."""


@product.command("add")
@click.argument("name", type=Name())
@repo_option
@click.option("--release-key", "release_keys", multiple=True, type=EXISTING, help="Public key of a releaser.")
@click.option("--release-threshold", type=click.IntRange(1, 32), default=1, show_default=True)
@click.option("--order-key", "order_keys", multiple=True, type=EXISTING, help="Public key of a deployer.")
@click.option("--order-threshold", type=click.IntRange(1, 32), default=1, show_default=True)
@passphrase_options
def product_add(
    name: str,
    repo_dir: Path,
    release_keys: tuple[Path, ...],
    release_threshold: int,
    order_keys: tuple[Path, ...],
    order_threshold: int,
    passphrases: Passphrases,
) -> None:
    """Add product NAME. Needs the root keys; without key options it gets the keys of repo.toml.

    \b
    Example:
      slipstream repo product add engine --repo fleet --release-key alice.pub --release-key bob.pub \\
          --release-threshold 2
    """
    repository = Repository.open(repo_dir, passphrases)
    with repository.locked() as state:
        release = _role_keys(repository, release_keys, release_threshold)
        order = _role_keys(repository, order_keys, order_threshold)
        add_product(repository, state, name, release, order)
    note_in_audit(repository, "product.added", name, {})
    click.echo(f"product {name} added")


def _role_keys(repository: Repository, paths: tuple[Path, ...], threshold: int) -> RoleKeys | None:
    if not paths:
        return None
    if threshold > len(paths):
        raise OperatorError(f"a threshold of {threshold} of {len(paths)} keys cannot be")
    return RoleKeys(threshold, adopt_public_keys(repository, paths))


@repo.group()
def key() -> None:
    """Signing keys in files."""


@key.command("create")
@click.argument("path", type=FILE)
@click.option("--insecure-plain-keys", is_flag=True, help="Leave it unencrypted. For development only.")
@passphrase_options
def key_create(path: Path, insecure_plain_keys: bool, passphrases: Passphrases) -> None:
    """Make a signing key in PATH and its public half beside it (.pub), to hand to the repository.

    \b
    Example:
      slipstream repo key create alice.pem
    """
    passphrases.plain = insecure_plain_keys
    public = create_signing_key(path, passphrases.new())
    if insecure_plain_keys:
        click.secho(f"WARNING: {path} is NOT encrypted.", fg="red", bold=True, err=True)
    click.echo(f"{path}: key {public.keyid}\n{path.with_suffix('.pub')}: its public half")


@key.command("show")
@click.argument("path", type=EXISTING)
def key_show(path: Path) -> None:
    """Print the id of the public key in PATH."""
    click.echo(read_public(path).keyid)


def _version(state: State, name: str) -> int:
    top: dict[str, Any] = {
        "root": state.root,
        "targets": state.targets,
        "snapshot": state.snapshot,
        "timestamp": state.timestamp,
    }
    return int((top.get(name) or state.roles[name]).signed.version)


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
