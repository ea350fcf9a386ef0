"""`slipstream coordinator revoke`, `decommission`, `revocations`: devices that are put out of the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from coordinator.cli.common import (
    Name,
    emit,
    json_option,
    operator_name,
    passphrase_options,
    repo_option,
    table,
)
from coordinator.db.database import Database
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.repository import Repository
from coordinator.revoking import Revoked, revocation_facts, revoke_devices
from p2p.content.revocation import Reason

REASONS = [Reason.COMPROMISED.value, Reason.LOST.value, Reason.RETIRED.value]
NOTE_MAX = 1000


@click.command("revoke")
@click.argument("devices", type=Name(), nargs=-1, required=True, metavar="DEVICE...")
@repo_option
@click.option("--reason", type=click.Choice(REASONS), required=True, help="Why; peers are told the word.")
@click.option("--note", default="", help="For the audit log only, such as a ticket.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@passphrase_options
@json_option
def revoke(
    devices: tuple[str, ...],
    repo_dir: Path,
    reason: str,
    note: str,
    yes: bool,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    """Put devices out of the fleet, for good: peers and this coordinator refuse their certificates.

    Needs the online key, as pausing an order does. It cannot be taken back: a device that was revoked by
    mistake is enrolled anew, with a voucher made for it and another key. It keeps what it runs.

    \b
    Examples:
      slipstream coordinator revoke truck-7 --reason lost --note T-1234 --repo fleet
      slipstream coordinator revoke gw-1 gw-2 --reason compromised --repo fleet --yes --json
    """
    _revoke(devices, repo_dir, Reason(reason), note, yes, passphrases, as_json)


@click.command("decommission")
@click.argument("devices", type=Name(), nargs=-1, required=True, metavar="DEVICE...")
@repo_option
@click.option("--note", default="", help="For the audit log only, such as a ticket.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@passphrase_options
@json_option
def decommission(
    devices: tuple[str, ...], repo_dir: Path, note: str, yes: bool, passphrases: Passphrases, as_json: bool
) -> None:
    """Retire devices: revoke them as `retired`, so that what is sold or thrown away is nobody's peer.

    \b
    Example:
      slipstream coordinator decommission truck-7 --note "sold" --repo fleet
    """
    _revoke(devices, repo_dir, Reason.RETIRED, note, yes, passphrases, as_json)


@click.command("revocations")
@repo_option
@json_option
def revocations(repo_dir: Path, as_json: bool) -> None:
    """Show the published list, and which devices have not said yet that they know it.

    \b
    Example:
      slipstream coordinator revocations --repo fleet
    """
    with _opened(repo_dir, None) as (repository, database):
        facts = revocation_facts(repository, database)
    rows = [(r["device"], r["reason"], r["until"], r["certificate"][:16]) for r in facts["revoked"]]
    behind = [f"{b['device']} ({_version(b['version'])})" for b in facts["behind"]]
    lines = [
        f"version {facts['version']}, known to {facts['seen_by']} devices of those that have checked in",
        *(table(("device", "reason", "until", "certificate"), rows) if rows else ["nothing is revoked"]),
    ]
    if behind:
        lines.append(f"not yet known to {len(behind)}: {', '.join(behind)}")
    if facts["unpublished"]:
        lines.append(f"NOT PUBLISHED: {', '.join(facts['unpublished'])}; run coordinator revoke again")
    emit(facts, as_json, lines)


def _revoke(
    devices: tuple[str, ...],
    repo_dir: Path,
    reason: Reason,
    note: str,
    yes: bool,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    if len(note) > NOTE_MAX:
        raise click.UsageError(f"--note has at most {NOTE_MAX} characters")
    with _opened(repo_dir, passphrases) as (repository, database):
        if not yes:
            click.confirm(
                f"revoke {', '.join(devices)} ({reason.value})? This is for good", abort=True, err=True
            )
        done = revoke_devices(repository, database, devices, reason, actor=operator_name(), note=note)
    emit(_facts(done, reason), as_json, _lines(done, reason))


def _facts(done: Revoked, reason: Reason) -> dict[str, Any]:
    return {
        "version": done.version,
        "devices": [
            {"device": d, "reason": done.before.get(d, reason).value, "revoked_before": d in done.before}
            for d in done.devices
        ],
    }


def _lines(done: Revoked, reason: Reason) -> list[str]:
    lines = [
        f"{d} was revoked before ({done.before[d].value})"
        if d in done.before
        else f"{d} is revoked ({reason.value})"
        for d in done.devices
    ]
    return [*lines, f"published as version {done.version}; see `slipstream coordinator revocations`"]


def _version(version: int | None) -> str:
    return "tells of none" if version is None else f"version {version}"


@contextmanager
def _opened(directory: Path, passphrases: Passphrases | None) -> Iterator[tuple[Repository, Database]]:
    repository = Repository.open(directory, passphrases)
    database = Database.open(repository.database)
    try:
        yield repository, database
    finally:
        database.close()
