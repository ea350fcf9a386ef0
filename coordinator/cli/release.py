"""`slipstream release`: build, sign, rebase, publish, list."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

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
    size_text,
    table,
)
from coordinator.cli.signing import sign_document, signing_options
from coordinator.errors import KeyUnavailable
from coordinator.publishing.files import hash_file, import_object, make_directory
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.proposal import (
    read_proposal,
    write_proposal,
)
from coordinator.publishing.releases import (
    BuiltRelease,
    PayloadInput,
    ReleaseRequest,
    build_release,
    check_request,
    list_releases,
    publish_release,
    rebase_release,
)
from coordinator.publishing.releases import Progress as Report
from coordinator.publishing.repository import Repository, utc_now
from coordinator.publishing.settings import DEFAULT_EXPIRY_DAYS
from coordinator.publishing.setup import add_product
from coordinator.publishing.state import State, load_state, product_role
from p2p.content.digests import Digest
from p2p.content.fields import NAME
from p2p.content.manifest import Manifest
from p2p.errors import OperatorError

DEFAULT_PAYLOAD_NAMES = {"rootfs-image": "rootfs"}


@click.group()
def release() -> None:
    """Build, sign and publish releases."""


@release.command()
@click.argument("payloads", nargs=-1, required=False, metavar="[NAME=]FILE...")
@click.option("--repo", "repo_dir", type=DIRECTORY, metavar="DIR", help="The repository to build for.")
@click.option(
    "--objects", "objects_dir", type=DIRECTORY, help="Leave the objects here, not in the repository."
)
@click.option(
    "--metadata",
    "metadata_dir",
    type=DIRECTORY,
    help="Without --repo: a copy of the repository's metadata directory.",
)
@click.option("--product", type=Name(), required=True)
@click.option("--version", "version", type=Name(), required=True)
@click.option(
    "--hardware", type=Name(), multiple=True, required=True, help="Hardware id it is for; repeatable."
)
@click.option("--type", "payload_type", type=Name(), default="rootfs-image", show_default=True)
@click.option("--payload", "named", multiple=True, metavar="[NAME=]FILE", help="A payload; as the argument.")
@click.option(
    "--base", "bases", multiple=True, metavar="[NAME=]OLD", help="An older image that devices have."
)
@click.option("--counter", type=click.IntRange(1), help="Release counter (default: the last one plus one).")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For the payload's installer.")
@click.option("--security", is_flag=True, help="Mark it as a security update.")
@click.option("--sbom", type=EXISTING, help="Software bill of materials to publish with it.")
@click.option("--provenance", type=EXISTING, help="Build provenance to publish with it.")
@click.option("--retire", type=Name(), multiple=True, help="Withdraw this older version in the same step.")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes that build packs (default: all cores)."
)
@click.option("--out", type=FILE, help="The document to sign (default: PRODUCT-VERSION.release.json).")
@passphrase_options
@json_option
def build(
    payloads: tuple[str, ...],
    repo_dir: Path | None,
    objects_dir: Path | None,
    metadata_dir: Path | None,
    product: str,
    version: str,
    hardware: tuple[str, ...],
    payload_type: str,
    named: tuple[str, ...],
    bases: tuple[str, ...],
    counter: int | None,
    options: tuple[str, ...],
    security: bool,
    sbom: Path | None,
    provenance: Path | None,
    retire: tuple[str, ...],
    workers: int | None,
    out: Path | None,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    """Build a release: a full pack, a delta pack per --base, and a document to sign.

    Nothing is published. With --repo the objects go to the repository, where nobody finds them before
    the release is published. Without it, give --objects and --metadata.

    \b
    Examples:
      slipstream release build new.img --base old.img --repo fleet \\
          --product engine --version 1.1.0 --hardware board-a --out engine-1.1.0.json
      slipstream release build --payload rootfs=new.img --objects out --metadata metadata \\
          --product engine --version 1.1.0 --hardware board-a
    """
    repository = None if repo_dir is None else Repository.open(repo_dir, passphrases)
    if repository is None and (objects_dir is None or metadata_dir is None):
        raise OperatorError("give --repo, or both --objects and --metadata")
    state = repository.state() if repository is not None else load_state(_required(metadata_dir))
    if repository is not None and product_role(product) not in state.delegated():
        state = _add_product(repository, product)
    objects = objects_dir or _required(repository).objects
    inputs = _payload_inputs((*payloads, *named), bases, payload_type)
    request = ReleaseRequest(
        product=product,
        version=version,
        hardware=tuple(dict.fromkeys(hardware)),
        payloads=inputs,
        type=payload_type,
        counter=counter,
        security=security,
        options=dict(_split_option(o) for o in options),
        retire=retire,
    )
    check_request(request, state)
    make_directory(objects)
    request = _with_attachments(request, objects, sbom, provenance)
    days = repository.settings.expiry("release") if repository is not None else DEFAULT_EXPIRY_DAYS["release"]
    expires = utc_now() + timedelta(days=days)
    with _progress(as_json) as report:
        built = build_release(request, state, objects, expires, workers=workers, progress=report)
    path = out or Path(f"{product}-{version}.release.json")
    write_proposal(path, built.proposal)
    facts = _build_facts(built, path, objects)
    rows = [
        (
            p.payload,
            "full" if p.base is None else f"delta from {p.base}",
            size_text(p.wan_bytes),
            f"{100 * p.wan_bytes / max(1, p.image_size):.2f} %",
            f"{p.seconds:.1f} s",
        )
        for p in built.packs
    ]
    emit(
        facts,
        as_json,
        [
            f"{product} {version}, release counter {built.manifest.counter}",
            *table(("payload", "pack", "over the WAN", "of the image", "built in"), rows),
            f"next: slipstream release sign {path} --key KEY",
        ],
    )


@release.command("sign")
@signing_options
def release_sign(
    document: Path,
    keys: tuple[str, ...],
    keyid: str | None,
    repo_dir: Path | None,
    yes: bool,
    passphrases: Passphrases,
) -> None:
    """Show what DOCUMENT would publish, then sign it. Needs nothing but the document and a key.

    \b
    Example:
      slipstream release sign engine-1.1.0.json --key alice.pem
    """
    sign_document(document, keys, keyid, repo_dir, yes, passphrases)


@release.command()
@click.argument("document", type=EXISTING)
@repo_option
@json_option
def rebase(document: Path, repo_dir: Path, as_json: bool) -> None:
    """Put DOCUMENT on top of what has been published since; it has to be signed again."""
    repository = Repository.open(repo_dir)
    proposal = rebase_release(read_proposal(document), repository.state(), repository.expiry("release"))
    write_proposal(document, proposal)
    emit(
        {"document": str(document), "role": proposal.role, "version": proposal.version},
        as_json,
        [f"{document}: now version {proposal.version} of {proposal.role}; have it signed again"],
    )


@release.command("publish")
@click.argument("documents", type=EXISTING, nargs=-1, required=True, metavar="DOCUMENT...")
@repo_option
@click.option("--objects", "objects_dir", type=DIRECTORY, help="Where the build left its objects.")
@click.option("--sign", "sign_here", is_flag=True, help="Sign with the keys of the repository first.")
@passphrase_options
@json_option
def release_publish(
    documents: tuple[Path, ...],
    repo_dir: Path,
    objects_dir: Path | None,
    sign_here: bool,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    """Publish a signed release. Several copies of DOCUMENT, signed apart, are put together.

    \b
    Examples:
      slipstream release publish engine-1.1.0.json --repo fleet
      slipstream release publish alice.json bob.json --repo fleet --objects out
    """
    repository = Repository.open(repo_dir, passphrases)
    manifest = publish_release(
        repository, [read_proposal(d) for d in documents], objects_dir, sign_here=sign_here
    )
    facts = _manifest_facts(manifest)
    note_in_audit(repository, "release.published", f"{manifest.product} {manifest.version}", facts)
    emit(
        facts,
        as_json,
        [
            f"{manifest.product} {manifest.version} is published; devices install it once an order says so",
            f"next: slipstream order create --repo {repo_dir} --product {manifest.product}"
            f" --version {manifest.version} --all",
        ],
    )


@release.command("list")
@repo_option
@click.option("--product", type=Name())
@json_option
def release_list(repo_dir: Path, product: str | None, as_json: bool) -> None:
    """List published releases."""
    repository = Repository.open(repo_dir)
    found = list_releases(repository, repository.state(), product)
    rows = [
        (
            m.product,
            m.version,
            str(m.counter),
            ",".join(m.hardware),
            size_text(sum(p.image.size for p in m.payloads)),
            str(sum(len(p.packs) - 1 for p in m.payloads)),
        )
        for m in found
    ]
    headings = ("product", "version", "counter", "hardware", "size", "deltas")
    emit([_manifest_facts(m) for m in found], as_json, table(headings, rows))


def _add_product(repository: Repository, product: str) -> State:
    """A product is born with its first release, where the keys for that are at hand."""
    with repository.locked() as state:
        try:
            state = add_product(repository, state, product)
        except KeyUnavailable as error:
            raise OperatorError(
                f"this repository has no product {product!r}: {error.message}",
                kept=error.kept,
                next_step=f"slipstream repo product add {product} --repo {repository.directory}",
            ) from error
    note_in_audit(repository, "product.added", product, {})
    click.echo(f"product {product} added, with the keys of repo.toml", err=True)
    return state


def _payload_inputs(
    arguments: tuple[str, ...], bases: tuple[str, ...], payload_type: str
) -> tuple[PayloadInput, ...]:
    default = DEFAULT_PAYLOAD_NAMES.get(payload_type, payload_type)
    images = [_split_file(argument, default) for argument in arguments]
    names = [name for name, _ in images]
    if not images:
        raise OperatorError("there is nothing to release", next_step="give an image file, or NAME=FILE")
    if len(set(names)) != len(names):
        raise OperatorError("two payloads have the same name", next_step="name them: NAME=FILE")
    found: dict[str, list[Path]] = {name: [] for name in names}
    for base in bases:
        name, path = _split_file(base, names[0] if len(names) == 1 else "")
        if name not in found:
            raise OperatorError(
                f"--base {base}: which payload is it a base of?", next_step="write --base NAME=FILE"
            )
        found[name].append(path)
    return tuple(PayloadInput(name, path, tuple(found[name])) for name, path in images)


def _split_file(argument: str, default: str) -> tuple[str, Path]:
    name, separator, rest = argument.partition("=")
    path = Path(argument)
    if separator and NAME.fullmatch(name) and not path.exists():
        default, path = name, Path(rest)
    if not path.exists():
        raise OperatorError(f"{path} does not exist")
    return default, path


def _split_option(argument: str) -> tuple[str, str]:
    key, separator, value = argument.partition("=")
    if not separator or not NAME.fullmatch(key):
        raise OperatorError(f"--option {argument}: write KEY=VALUE")
    return key, value


def _with_attachments(
    request: ReleaseRequest, objects: Path, sbom: Path | None, provenance: Path | None
) -> ReleaseRequest:
    def attach(path: Path | None) -> Digest | None:
        if path is None:
            return None
        ref = hash_file(path)
        import_object(path, objects, ref)
        return ref.sha256

    return replace(request, sbom=attach(sbom), provenance=attach(provenance))


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Report | None]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield report


def _build_facts(built: BuiltRelease, path: Path, objects: Path) -> dict[str, Any]:
    return _manifest_facts(built.manifest) | {
        "document": str(path),
        "objects": str(objects),
        "signatures_needed": built.proposal.threshold,
        "packs": [
            {
                "payload": p.payload,
                "base": p.base,
                "wan_bytes": p.wan_bytes,
                "image_size": p.image_size,
                "seconds": round(p.seconds, 3),
            }
            for p in built.packs
        ],
    }


def _manifest_facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "product": manifest.product,
        "version": manifest.version,
        "counter": manifest.counter,
        "hardware": list(manifest.hardware),
        "security": manifest.security,
        "payloads": [
            {
                "name": p.name,
                "type": p.type,
                "image": p.image.sha256.hex(),
                "size": p.image.size,
                "bases": [pack.base.hex() for pack in p.packs if pack.base is not None],
            }
            for p in manifest.payloads
        ],
    }


def _required(value: Any) -> Any:
    assert value is not None  # options were checked together
    return value
