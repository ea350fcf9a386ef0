"""What the coordinator's commands share: options, output, and the audit entry that each change leaves."""

from __future__ import annotations

import functools
import getpass
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from securesystemslib.signer import Signer

from coordinator.clock import wall_clock
from coordinator.publishing.keys import (
    PASSPHRASE_VARIABLE,
    KeyFileSigner,
    Passphrases,
    open_key_file,
    open_signer,
)
from coordinator.publishing.proposal import Proposal, Review, vouched_by
from coordinator.publishing.repository import Repository
from p2p.content.fields import check_name
from p2p.content.manifest import Manifest, decode_manifest, manifest_path
from p2p.content.order import Audience, Order
from p2p.content.times import format_time
from p2p.errors import ContentError, OperatorError

_F = TypeVar("_F", bound=Callable[..., Any])
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)

repo_option = click.option(
    "--repo", "repo_dir", type=DIRECTORY, required=True, metavar="DIR", help="The repository."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


def passphrase_options(function: _F) -> _F:
    """Adds --passphrase-file and gives the command `passphrases`."""

    @click.option(
        "--passphrase-file",
        type=EXISTING,
        help=f"File with the passphrase of the keys (else ${PASSPHRASE_VARIABLE}, else a prompt).",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, passphrase_file: Path | None, **kwargs: Any) -> Any:
        return function(*args, passphrases=Passphrases(file=passphrase_file), **kwargs)

    return wrapped  # type: ignore[return-value]  # a TypeVar cannot say that one argument is taken away


class Name(click.ParamType[str]):
    """A name: safe as a path element, see `p2p.content.fields.NAME`."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_name(str(value), param.human_readable_name if param else "name")
        except ContentError as error:
            self.fail(error.message, param, ctx)


class Duration(click.ParamType[int]):
    """A duration such as `90s`, `36h`, `7d`; converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is not a duration such as 90s, 36h or 7d", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


def emit(facts: Any, as_json: bool, lines: Iterable[str]) -> None:
    """Facts for a program or lines for a person, on standard output."""
    if as_json:
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
    else:
        for line in lines:
            click.echo(line)


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned lines; numbers keep to the left, for `cut` and `awk`."""
    widths = [max(len(row[n]) for row in [headings, *rows]) for n in range(len(headings))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [headings, *rows]
    ]


def size_text(size: int) -> str:
    """Bytes for a person: `1.4 MB`."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def operator_name() -> str:
    """Who runs this command, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def note_in_audit(repository: Repository, action: str, subject: str, details: dict[str, Any]) -> None:
    """Leave an audit entry for what a command has done."""
    # Commands that only read start in half the time without SQLAlchemy.
    from coordinator.db import audit
    from coordinator.db.database import Database

    database = Database.open(repository.database)
    try:
        with database.write() as session:
            audit.append(session, int(wall_clock()), operator_name(), action, subject, details)
    finally:
        database.close()


def signer_for(key: str, proposal: Proposal, passphrases: Passphrases, keyid: str | None) -> Signer:
    """The signer behind `--key`: a key file, or the URI of a key elsewhere."""
    if ":" not in key or Path(key).exists():
        return open_key_file(Path(key), passphrases)
    candidates = [k for k in proposal.keys.values() if k.keyid.startswith(keyid or "")]
    if len(candidates) != 1:
        raise OperatorError(
            f"which of the {len(proposal.keys)} keys of {proposal.role} is at {key}?",
            next_step="add --keyid with the first characters of its id",
        )
    if key.startswith(f"{KeyFileSigner.SCHEME}:"):
        return open_key_file(Path(key.partition(":")[2]), passphrases)
    return open_signer(key, candidates[0], passphrases)


def describe_review(proposal: Proposal, found: Review, signer: Signer | None) -> list[str]:
    """What a signature covers, in words; `signer` decides what of the rest is known to be seen before."""
    until = found.expires.strftime("%Y-%m-%d")
    lines = [f"{proposal.role}, version {proposal.version}, valid until {until}"]
    for manifest in found.manifests:
        lines += ["", *_manifest_lines(manifest)]
    for order in found.orders:
        lines += ["", *_order_lines(order)]
        data = proposal.documents.get(manifest_path(order.product, order.version))
        if data is not None:  # `review` has compared its digest with the order's
            lines += [f"    {line}" for line in _manifest_lines(decode_manifest(data))[1:]]
    for path in found.removed:
        lines.append(f"\n- withdrawn: {path}")
    if found.kept:
        known = signer is not None and vouched_by(proposal, signer.public_key)
        lines.append("")
        if known:
            lines.append(
                f"= {len(found.kept)} kept as this key signed them in version {proposal.version - 1}"
            )
        else:
            lines.append(
                f"= {len(found.kept)} kept; the version before was not signed by this key, so check each:"
            )
            targets = proposal.metadata.signed.targets
            lines += [f"    {path}  sha256 {targets[path].hashes.get('sha256')}" for path in found.kept]
    return lines


def signature_line(proposal: Proposal) -> str:
    """How many signatures there are and are needed."""
    valid = len(proposal.valid_signatures())
    missing = proposal.signers_missing()
    state = "ready to publish" if not missing else f"{missing} more needed"
    return f"{valid} of {proposal.threshold} signatures: {state}"


def audience_text(audience: Audience) -> str:
    if audience.all:
        return "everybody"
    parts = [
        f"{noun} {', '.join(names)}"
        for noun, names in (
            ("groups", audience.groups),
            ("sites", audience.sites),
            ("devices", audience.devices),
        )
        if names
    ]
    return "; ".join(parts)


def _manifest_lines(manifest: Manifest) -> list[str]:
    lines = [
        f"+ release {manifest.product} {manifest.version}, release counter {manifest.counter}"
        + (", security update" if manifest.security else ""),
        f"    for hardware {', '.join(manifest.hardware)}",
    ]
    for payload in manifest.payloads:
        lines.append(f"    {payload.name} ({payload.type}), {size_text(payload.image.size)}")
        lines.append(f"      image sha256 {payload.image.sha256.hex()}")
        for pack in payload.packs:
            kind = "full pack" if pack.base is None else f"delta from {pack.base.hex()[:16]}"
            lines.append(f"      {kind}: {size_text(pack.wan_bytes)} over the WAN")
        lines += [f"      option {key} = {value}" for key, value in sorted(payload.options.items())]
    for noun, digest in (("SBOM", manifest.sbom), ("provenance", manifest.provenance)):
        if digest is not None:
            lines.append(f"    {noun} sha256 {digest.hex()}")
    return lines


def _order_lines(order: Order) -> list[str]:
    lines = [
        f"+ order {order.id}: install {order.product} {order.version}, release counter {order.counter}",
        f"    manifest sha256 {order.manifest.hex()}",
        f"    for {audience_text(order.audience)}",
    ]
    for n, phase in enumerate(order.phases, 1):
        who = "" if phase.audience.all else f", only {audience_text(phase.audience)}"
        lines.append(f"    phase {n} {phase.name}: {phase.sites_percent} % of the sites{who}")
    if order.allow_downgrade:
        lines.append(f"    MAY GO BELOW THEIR FLOOR: {', '.join(order.allow_downgrade)}")
    if order.allow_stale:
        lines.append(
            f"    MAY BE INSTALLED FROM EXPIRED METADATA until {format_time(order.allow_stale.until)}"
            f" (nobody can stop it there): {', '.join(order.allow_stale.devices)}"
        )
    if order.note:
        lines.append(f"    note: {order.note}")
    return lines
