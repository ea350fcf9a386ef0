"""`slipstream coordinator`: serve a repository, look at the fleet, tokens, the audit log."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from coordinator.api.operator import device_facts, fleet_facts, site_facts
from coordinator.app import Coordinator, ServeOptions, serve
from coordinator.cli.common import (
    DIRECTORY,
    EXISTING,
    FILE,
    Duration,
    Name,
    emit,
    json_option,
    operator_name,
    passphrase_options,
    repo_option,
    size_text,
    table,
)
from coordinator.cli.revocation import decommission, revocations, revoke
from coordinator.clock import wall_clock
from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.db.devices import create_token, revoke_token
from coordinator.domain.audit import Checkpoint
from coordinator.publishing.checkpoints import CHECKPOINT_FILE, read_checkpoint, write_checkpoint
from coordinator.publishing.files import write_atomic
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.repository import Repository
from p2p.errors import LocalError, OperatorError


@click.group()
def coordinator() -> None:
    """Serve a repository and look after the fleet."""


@coordinator.command("serve")
@click.argument("directory", type=DIRECTORY)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDR:PORT")
@click.option("--tls-cert", type=EXISTING, help="Certificate chain, to serve HTTPS.")
@click.option("--tls-key", type=EXISTING)
@click.option("--ready-file", type=FILE, help="Gets the URL once requests are taken.")
@passphrase_options
def coordinator_serve(
    directory: Path,
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    ready_file: Path | None,
    passphrases: Passphrases,
) -> None:
    """Serve the repository in DIRECTORY: metadata, objects, device API, operators' API.

    Port 0 takes a free port; the URL is printed when requests are taken. Devices verify everything,
    so plain HTTP is fine for them; give the operators' API TLS.

    \b
    Example:
      slipstream coordinator serve fleet --listen 0.0.0.0:8080
    """
    if (tls_cert is None) != (tls_key is None):
        raise OperatorError("--tls-cert and --tls-key go together")
    host, port = parse_address(listen)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    opened = Coordinator.open(Repository.open(directory, passphrases))
    options = ServeOptions(host, port, tls_cert, tls_key, ready_file)
    serve(opened, options, lambda url: click.echo(f"serving {directory} at {url}"))


@coordinator.command("fleet")
@repo_option
@json_option
def coordinator_fleet(repo_dir: Path, as_json: bool) -> None:
    """Count the fleet's devices, releases and bytes, by site."""
    with _Reading(repo_dir) as (database, online_s):
        facts = fleet_facts(database, wall_clock(), online_s)
    rows = [_site_row(site) for site in facts["sites"]]
    emit(facts, as_json, table(_SITE_HEADINGS, [*rows, _site_row(facts | {"site": "fleet"})]))


@coordinator.command("site")
@click.argument("site", type=Name())
@repo_option
@json_option
def coordinator_site(site: str, repo_dir: Path, as_json: bool) -> None:
    """Show a site and its devices."""
    with _Reading(repo_dir) as (database, online_s):
        facts = site_facts(database, site, wall_clock(), online_s)
    rows = [
        (
            d["device"],
            "revoked" if d["revoked"] else "online" if d["online"] else "silent",
            "never" if d["seen_s_ago"] is None else f"{d['seen_s_ago']} s ago",
            d["status"].get("release") or "unknown",
            d["status"].get("state") or "unknown",
            size_text((d["status"].get("ledger") or {}).get("wan", 0)),
        )
        for d in facts["devices"]
    ]
    emit(facts, as_json, table(("device", "link", "seen", "release", "state", "WAN"), rows))


@coordinator.command("device")
@click.argument("device", type=Name())
@repo_option
@json_option
def coordinator_device(device: str, repo_dir: Path, as_json: bool) -> None:
    """Show a device, its last report and its history."""
    with _Reading(repo_dir) as (database, online_s):
        facts = device_facts(database, device, wall_clock(), online_s)
    shown = {key: value for key, value in facts.items() if key not in ("history", "status")}
    shown |= facts["status"]
    lines = [f"{key:<18} {_text(value)}" for key, value in shown.items()]
    lines += [
        f"{_utc(h['at'])}  {h.get('release') or 'unknown'}  {h.get('state') or 'unknown'}"
        for h in facts["history"]
    ]
    emit(facts, as_json, lines)


for _command in (revoke, decommission, revocations):
    coordinator.add_command(_command)


@coordinator.group()
def token() -> None:
    """Bearer tokens of the operators' API."""


@token.command("create")
@click.argument("name", type=Name())
@repo_option
@click.option("--expires", type=Duration(), help="Such as 90d (default: never).")
@json_option
def token_create(name: str, repo_dir: Path, expires: int | None, as_json: bool) -> None:
    """Make a token for reading; only its digest is kept, so note it down now."""
    now = int(wall_clock())
    until = None if expires is None else now + expires
    with _Reading(repo_dir) as (database, _), database.write() as session:
        made = create_token(session, name, now, until)
        audit.append(session, now, operator_name(), "token.created", name, {"expires_at": until})
    emit({"name": name, "token": made, "expires_at": until}, as_json, [made])


@token.command("revoke")
@click.argument("name", type=Name())
@repo_option
def token_revoke(name: str, repo_dir: Path) -> None:
    """Make a token invalid at once."""
    with _Reading(repo_dir) as (database, _), database.write() as session:
        revoke_token(session, name)
        audit.append(session, int(wall_clock()), operator_name(), "token.revoked", name)
    click.echo(f"token {name} is revoked")


@coordinator.group("audit")
def audit_group() -> None:
    """The audit log: who did what, in a chain that shows tampering."""


@audit_group.command("list")
@repo_option
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries after this number.")
@json_option
def audit_list(repo_dir: Path, after: int, as_json: bool) -> None:
    """List the entries."""
    with _Reading(repo_dir) as (database, _), database.read() as session:
        found = list(audit.entries(session, after))
    facts = [
        {
            "seq": e.seq,
            "at": e.at,
            "actor": e.actor,
            "action": e.action,
            "subject": e.subject,
            "details": e.details,
            "digest": e.digest,
        }
        for e in found
    ]
    lines = [
        f"{e.seq:>6}  {_utc(e.at)}  {e.actor}  {e.action}  {e.subject}  {json.dumps(e.details)}"
        for e in found
    ]
    emit(facts, as_json, lines)


@audit_group.command("verify")
@repo_option
@click.option("--checkpoint", "paths", type=EXISTING, multiple=True, help="A checkpoint kept elsewhere.")
@json_option
def audit_verify(repo_dir: Path, paths: tuple[Path, ...], as_json: bool) -> None:
    """Check the whole chain, against the repository's checkpoint and any that were kept elsewhere."""
    repository = Repository.open(repo_dir)
    state = repository.state()
    own = repository.directory / CHECKPOINT_FILE
    checkpoints = [read_checkpoint(path, state) for path in (*([own] if own.is_file() else []), *paths)]
    with _Reading(repo_dir) as (database, _), database.read() as session:
        fault = audit.verify(session, checkpoints)
        head = audit.head(session) or Checkpoint(0, "")
    facts = {
        "entries": head.seq,
        "head": head.digest,
        "checkpoints": len(checkpoints),
        "fault": None if fault is None else {"reason": fault.reason, "seq": fault.seq},
    }
    if fault is not None:
        if as_json:
            emit(facts, True, [])
        raise LocalError(
            f"the audit log has been tampered with ({fault.reason}): {fault.message}",
            kept="the log as it is",
            next_step="compare it with a backup; entries before this one are sound",
        )
    emit(facts, as_json, [f"{head.seq} entries, whole; {len(checkpoints)} checkpoints agree"])


@audit_group.command("checkpoint")
@repo_option
@click.option("--out", type=FILE, help="Also write it here, to be kept elsewhere.")
@passphrase_options
def audit_checkpoint(repo_dir: Path, out: Path | None, passphrases: Passphrases) -> None:
    """Sign the head of the log, so that a log that was cut off is found out."""
    repository = Repository.open(repo_dir, passphrases)
    with _Reading(repo_dir) as (database, _), database.read() as session:
        head = audit.head(session)
    if head is None:
        raise OperatorError("the audit log is empty")
    write_checkpoint(repository, head)
    if out is not None:
        write_atomic(out, (repository.directory / CHECKPOINT_FILE).read_bytes())
    click.echo(f"entry {head.seq}, {head.digest}")


def parse_address(text: str) -> tuple[str, int]:
    """`ADDR:PORT` or `[ADDR]:PORT`; raises `OperatorError`."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise OperatorError(
            f"--listen {text}: not ADDR:PORT", next_step="write it like 0.0.0.0:8080 or [::]:8080"
        )
    return host, int(port)


class _Reading:
    """The database of a repository, for one command."""

    def __init__(self, directory: Path) -> None:
        repository = Repository.open(directory)
        self._online_s = repository.settings.roster_age_s
        self._database = Database.open(repository.database)

    def __enter__(self) -> tuple[Database, float]:
        return self._database, self._online_s

    def __exit__(self, *_: object) -> None:
        self._database.close()


_SITE_HEADINGS = ("site", "devices", "online", "releases", "WAN", "from peers", "from base")


def _site_row(site: dict[str, Any]) -> tuple[str, ...]:
    releases = ", ".join(f"{name} ×{count}" for name, count in site["releases"].items())
    return (
        site["site"],
        str(site["devices_enrolled"]),
        str(site["devices_online"]),
        releases or "-",
        size_text(site["wan_bytes"]),
        size_text(site["peer_bytes"]),
        size_text(site["base_bytes"]),
    )


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _utc(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
