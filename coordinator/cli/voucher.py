"""`slipstream voucher`: one-time permissions to enrol a device."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.cli.common import Duration, Name, emit, json_option, operator_name, repo_option
from coordinator.clock import wall_clock
from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.db.devices import create_voucher, digest_of
from coordinator.publishing.authority import COMMON_NAME_MAX
from coordinator.publishing.repository import Repository
from p2p.errors import OperatorError

COUNT_MAX = 10_000


@click.group()
def voucher() -> None:
    """Permissions to enrol devices."""


@voucher.command("create")
@repo_option
@click.option("--site", type=Name(), required=True, help="The site of the device.")
@click.option("--group", "groups", type=Name(), multiple=True, help="A group of the device; repeatable.")
@click.option("--device", type=Name(), help="Only this device may use it (and may replace its old key).")
@click.option("--count", type=click.IntRange(1, COUNT_MAX), default=1, show_default=True)
@click.option("--expires", type=Duration(), default="7d", show_default=True)
@json_option
def voucher_create(
    repo_dir: Path,
    site: str,
    groups: tuple[str, ...],
    device: str | None,
    count: int,
    expires: int,
    as_json: bool,
) -> None:
    """Make vouchers. Each enrols one device once; only its digest is kept, so note it down now.

    \b
    Examples:
      slipstream voucher create --repo fleet --site depot-1 --count 20
      slipstream voucher create --repo fleet --site depot-1 --device truck-7 --expires 2h
    """
    if device is not None and count > 1:
        raise OperatorError("a voucher for one device is made one at a time", next_step="leave out --count")
    if device is not None and len(device) > COMMON_NAME_MAX:
        raise OperatorError(f"a device id has at most {COMMON_NAME_MAX} characters")
    repository = Repository.open(repo_dir)
    now = int(wall_clock())
    database = Database.open(repository.database)
    try:
        with database.write() as session:
            made = [create_voucher(session, site, groups, device, now, now + expires) for _ in range(count)]
            audit.append(
                session,
                now,
                operator_name(),
                "voucher.created",
                site,
                {
                    "groups": list(groups),
                    "device": device,
                    "expires_at": now + expires,
                    "vouchers": [digest_of(secret)[:16] for secret in made],
                },
            )
    finally:
        database.close()
    facts = {
        "vouchers": made,
        "site": site,
        "groups": list(groups),
        "device": device,
        "expires_at": now + expires,
    }
    emit(facts, as_json, made)
