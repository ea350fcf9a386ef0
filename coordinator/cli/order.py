"""`slipstream order`: create, sign, rebase, publish, open or stop phases, list."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from coordinator.cli.common import (
    EXISTING,
    FILE,
    Name,
    audience_text,
    emit,
    json_option,
    note_in_audit,
    passphrase_options,
    repo_option,
    table,
)
from coordinator.cli.signing import sign_document, signing_options
from coordinator.domain import rollout
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.orders import (
    OrderRequest,
    change_phases,
    create_order,
    find_order,
    list_orders,
    publish_order,
    rebase_order,
)
from coordinator.publishing.proposal import read_proposal, review, write_proposal
from coordinator.publishing.repository import Repository
from p2p.content.fields import check_name
from p2p.content.order import Audience, Order, Phase, PhaseState, StaleException
from p2p.content.times import format_time
from p2p.errors import ContentError, OperatorError


@click.group()
def order() -> None:
    """Say who may install a release, and open it step by step."""


@order.command()
@repo_option
@click.option("--product", type=Name(), required=True)
@click.option("--version", "version", type=Name(), required=True)
@click.option("--all", "everybody", is_flag=True, help="For every device of the product.")
@click.option("--group", "groups", type=Name(), multiple=True)
@click.option("--site", "sites", type=Name(), multiple=True)
@click.option("--device", "devices", type=Name(), multiple=True)
@click.option(
    "--phase",
    "phases",
    multiple=True,
    metavar="NAME:PERCENT[:group=G|:site=S|:device=D]...",
    help="A phase: which percentage of sites (of some groups, sites or devices) it opens. In order.",
)
@click.option(
    "--allow-downgrade",
    type=Name(),
    multiple=True,
    metavar="DEVICE",
    help="This device may go below its release-counter floor.",
)
@click.option(
    "--allow-stale",
    type=Name(),
    multiple=True,
    metavar="DEVICE",
    help="This device may install it from expired metadata (a stick that was long on its way). "
    "Until then nobody can stop it there.",
)
@click.option(
    "--stale-until",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]),
    help="When that ends (UTC). Needed with --allow-stale.",
)
@click.option("--note", default="", help="Why; shown to those who sign.")
@click.option("--out", type=FILE, help="The document to sign (default: PRODUCT-VERSION.order.json).")
@json_option
def create(
    repo_dir: Path,
    product: str,
    version: str,
    everybody: bool,
    groups: tuple[str, ...],
    sites: tuple[str, ...],
    devices: tuple[str, ...],
    phases: tuple[str, ...],
    allow_downgrade: tuple[str, ...],
    allow_stale: tuple[str, ...],
    stale_until: datetime | None,
    note: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Prepare an order for a published release. Nothing is published before it is signed.

    \b
    Examples:
      slipstream order create --repo fleet --product engine --version 1.1.0 --all
      slipstream order create --repo fleet --product engine --version 1.1.0 --group trucks \\
          --phase canary:5:group=canary --phase half:50 --phase all:100
      slipstream order create --repo fleet --product engine --version 1.1.0 --site ship-3 \\
          --allow-stale bridge --stale-until 2027-03-31
    """
    if bool(allow_stale) != (stale_until is not None):
        raise OperatorError(
            "--allow-stale and --stale-until go together: an exception names its devices and when it ends"
        )
    repository = Repository.open(repo_dir)
    request = OrderRequest(
        product=product,
        version=version,
        audience=Audience(everybody, groups, sites, devices),
        phases=tuple(parse_phase(text) for text in phases),
        allow_downgrade=allow_downgrade,
        note=note,
        allow_stale=(
            StaleException(allow_stale, stale_until.replace(tzinfo=UTC).timestamp()) if stale_until else None
        ),
    )
    proposal = create_order(repository, repository.state(), request)
    path = out or Path(f"{product}-{version}.order.json")
    write_proposal(path, proposal)
    found = review(proposal)
    (made,) = found.orders
    facts = _order_facts(made, None) | {
        "document": str(path),
        "signatures_needed": proposal.threshold,
        "dropped": list(found.removed),
    }
    emit(
        facts,
        as_json,
        [
            f"order {made.id}: {product} {version} for {audience_text(made.audience)},"
            f" {len(made.phases)} phase{'s' if len(made.phases) > 1 else ''}",
            *(f"dropped because it is outdated: {name}" for name in found.removed),
            f"next: slipstream order sign {path} --key KEY",
        ],
    )


@order.command("sign")
@signing_options
def order_sign(
    document: Path,
    keys: tuple[str, ...],
    keyid: str | None,
    repo_dir: Path | None,
    yes: bool,
    passphrases: Passphrases,
) -> None:
    """Show what DOCUMENT would order, then sign it. Needs nothing but the document and a key.

    \b
    Example:
      slipstream order sign engine-1.1.0.order.json --key alice.pem
    """
    sign_document(document, keys, keyid, repo_dir, yes, passphrases)


@order.command()
@click.argument("document", type=EXISTING)
@repo_option
@json_option
def rebase(document: Path, repo_dir: Path, as_json: bool) -> None:
    """Put DOCUMENT on top of what has been published since; it has to be signed again."""
    repository = Repository.open(repo_dir)
    proposal = rebase_order(repository, repository.state(), read_proposal(document))
    write_proposal(document, proposal)
    emit(
        {"document": str(document), "role": proposal.role, "version": proposal.version},
        as_json,
        [f"{document}: now version {proposal.version} of {proposal.role}; have it signed again"],
    )


@order.command("publish")
@click.argument("documents", type=EXISTING, nargs=-1, required=True, metavar="DOCUMENT...")
@repo_option
@click.option("--hold", is_flag=True, help="Do not open the first phase yet.")
@click.option("--sign", "sign_here", is_flag=True, help="Sign with the keys of the repository first.")
@passphrase_options
@json_option
def order_publish(
    documents: tuple[Path, ...],
    repo_dir: Path,
    hold: bool,
    sign_here: bool,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    """Publish a signed order and open its first phase.

    \b
    Example:
      slipstream order publish engine-1.1.0.order.json --repo fleet
    """
    repository = Repository.open(repo_dir, passphrases)
    opened = 0 if hold else 1
    proposals = [read_proposal(d) for d in documents]
    published = publish_order(repository, proposals, sign_here=sign_here, opened=opened)
    facts = _order_facts(published, rollout.first_state(published, opened))
    note_in_audit(repository, "order.published", f"{published.product} {published.id}", facts)
    more = len(published.phases) - opened
    emit(
        facts,
        as_json,
        [
            f"order {published.id} is published, {opened} of {len(published.phases)} phases open",
            *(
                [f"next: slipstream order phase {published.id} --open {opened + 1} --repo {repo_dir}"]
                * (more > 0)
            ),
        ],
    )


@order.command("phase")
@click.argument("order_id", metavar="ORDER")
@repo_option
@click.option("--product", type=Name(), help="Needed where two products have an order of that id.")
@click.option("--open", "opened", type=click.IntRange(1), metavar="N", help="Open phases up to number N.")
@click.option("--pause", is_flag=True, help="Nobody starts to install until it is resumed.")
@click.option("--resume", is_flag=True)
@click.option("--abort", is_flag=True, help="End the order for good; needs --reason.")
@click.option("--reason", default="")
@passphrase_options
@json_option
def phase(
    order_id: str,
    repo_dir: Path,
    product: str | None,
    opened: int | None,
    pause: bool,
    resume: bool,
    abort: bool,
    reason: str,
    passphrases: Passphrases,
    as_json: bool,
) -> None:
    """Open further phases of ORDER, pause, resume or abort it. Needs only the online key.

    \b
    Examples:
      slipstream order phase 3-1.1.0 --open 2 --repo fleet
      slipstream order phase 3-1.1.0 --abort --reason "engines stall" --repo fleet
    """
    if (opened is not None) + pause + resume + abort != 1:
        raise OperatorError("say one of --open N, --pause, --resume, --abort")
    repository = Repository.open(repo_dir, passphrases)

    def change(found: Order, state: PhaseState) -> PhaseState:
        if opened is not None:
            return rollout.open_phases(found, state, opened)
        if pause:
            return rollout.pause(state, reason)
        return rollout.abort(state, reason) if abort else rollout.resume(state)

    changed = change_phases(repository, order_id, change, product)
    found, _ = find_order(repository, repository.state(), order_id, product)
    facts = _order_facts(found, changed)
    note_in_audit(
        repository,
        "order.phase",
        f"{changed.product} {order_id}",
        {"opened": changed.opened, "status": changed.status.value, "reason": changed.reason},
    )
    emit(
        facts,
        as_json,
        [f"order {order_id}: {changed.status.value}, {changed.opened} of {len(found.phases)} phases open"],
    )


@order.command("list")
@repo_option
@click.option("--product", type=Name())
@json_option
def order_list(repo_dir: Path, product: str | None, as_json: bool) -> None:
    """List the orders that are in force, with how far they are open."""
    repository = Repository.open(repo_dir)
    found = list_orders(repository, repository.state(), product)
    rows = [
        (
            o.product,
            o.id,
            o.version,
            audience_text(o.audience),
            f"{0 if s is None else s.opened} of {len(o.phases)}",
            "not opened" if s is None else s.status.value + (f" ({s.reason})" if s.reason else ""),
        )
        for o, s in found
    ]
    headings = ("product", "order", "version", "audience", "phases open", "status")
    emit([_order_facts(o, s) for o, s in found], as_json, table(headings, rows))


def parse_phase(text: str) -> Phase:
    """`NAME:PERCENT[:group=G|:site=S|:device=D]...`; raises `OperatorError`."""
    name, *rest = text.split(":")
    try:
        percent = int(rest[0]) if rest else 100
        members: dict[str, list[str]] = {"group": [], "site": [], "device": []}
        for part in rest[1:]:
            noun, separator, value = part.partition("=")
            if not separator or noun not in members:
                raise ContentError(f"{part!r} is not group=G, site=S or device=D")
            members[noun].append(check_name(value, noun))
        check_name(name, "phase")
        if not 0 <= percent <= 100:
            raise ContentError(f"{percent} is not a percentage")
    except (ContentError, ValueError) as error:
        raise OperatorError(
            f"--phase {text}: {error}", next_step="write it like canary:5 or canary:5:group=test"
        ) from error
    audience = Audience(
        all=not any(members.values()),
        groups=tuple(members["group"]),
        sites=tuple(members["site"]),
        devices=tuple(members["device"]),
    )
    return Phase(name, audience, percent)


def _order_facts(order: Order, state: PhaseState | None) -> dict[str, Any]:
    return {
        "order": order.id,
        "product": order.product,
        "version": order.version,
        "counter": order.counter,
        "sequence": order.sequence,
        "manifest": order.manifest.hex(),
        "audience": _audience_facts(order.audience),
        "phases": [
            {"name": p.name, "sites_percent": p.sites_percent, "audience": _audience_facts(p.audience)}
            for p in order.phases
        ],
        "allow_downgrade": list(order.allow_downgrade),
        "allow_stale": None
        if order.allow_stale is None
        else {
            "devices": list(order.allow_stale.devices),
            "until": format_time(order.allow_stale.until),
        },
        "note": order.note,
        "opened": 0 if state is None else state.opened,
        "status": None if state is None else state.status.value,
        "reason": "" if state is None else state.reason,
    }


def _audience_facts(audience: Audience) -> dict[str, Any]:
    return {
        "all": audience.all,
        "groups": list(audience.groups),
        "sites": list(audience.sites),
        "devices": list(audience.devices),
    }
