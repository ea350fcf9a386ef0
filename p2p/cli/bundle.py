"""`slipstream bundle`: updates by stick, for sites and devices that see no WAN.

Arguments in, exit code out; what they do is in `p2p.bundles`. Imports that cost time or memory stay inside
the commands, for `import` runs on small machines.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2p.cli.agent import config_option
from p2p.cli.output import json_option, print_facts, print_json, size_text
from p2p.content.digests import Digest
from p2p.content.fields import check_name
from p2p.content.limits import IMAGE_SIZE_MAX
from p2p.errors import ContentError, OperatorError

if TYPE_CHECKING:
    from p2p.bundles.copying import Progress
    from p2p.bundles.export import ExportPlan
    from p2p.ports import Origin

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?")
_UNITS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Size(click.ParamType[int]):
    """Bytes: `4GB`, `512MiB` or a number."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        size = 0.0 if match is None else float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]]
        if match is None or size > IMAGE_SIZE_MAX:
            self.fail(f"{str(value)[:40]!r} is not a size like 4GB, 512MiB or 1000000", param, ctx)
        return int(size)


@click.group()
def bundle() -> None:
    """Carry updates on a stick to where no WAN is.

    \b
    Examples:
      slipstream bundle export --from fleet --out /media/stick/engine
      slipstream bundle inspect /media/stick/engine --root root.json
      slipstream bundle import /media/stick/engine --config agent.toml
    """


@bundle.command()
@click.option(
    "--from",
    "source",
    required=True,
    metavar="DIR|URL",
    help="Where to read: a repository's directory, the origin or coordinator (http:// or https://),"
    " another bundle, or a device's state directory.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The bundle's directory. One that is there is renewed: what is the same in it stays.",
)
@click.option("--product", "products", multiple=True, help="Only this product. Default: all.")
@click.option("--hardware", multiple=True, metavar="ID", help="Only releases for this hardware id.")
@click.option("--group", "groups", multiple=True, help="For devices of this group, …")
@click.option("--site", "sites", multiple=True, help="… of this site, …")
@click.option("--device", "devices", multiple=True, help="… or this device. Default: for everybody.")
@click.option(
    "--release", "versions", multiple=True, metavar="VERSION",
    help="Take this release along. Default: those that open orders mean for the audience.",
)  # fmt: skip
@click.option(
    "--base", "bases", multiple=True, metavar="VERSION|SHA256",
    help="Only deltas from this release or image. Default: every published pack.",
)  # fmt: skip
@click.option(
    "--full/--no-full",
    default=True,
    show_default=True,
    help="The full packs, from which any device can make its image.",
)
@click.option("--metadata-only", is_flag=True, help="Only what is signed: news, pauses, a new timestamp.")
@click.option("--max-bytes", type=Size(), help="No larger than this; what does not fit is named.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The fleet's root.json, to be sure that it is this fleet's repository.",
)
@click.option(
    "--since-root",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="VERSION",
    help="The oldest root that a device may have been shipped with.",
)
@click.option(
    "--part-size",
    type=Size(),
    help="Larger objects are split into files of this size. Default: what FAT32 can hold.",
)
@click.option(
    "--expired", is_flag=True, help="Although the metadata has expired: for devices that an order excepts."
)
@click.option(
    "--ca", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="CA of an https URL."
)
@json_option
def export(
    source: str,
    out: Path,
    products: tuple[str, ...],
    hardware: tuple[str, ...],
    groups: tuple[str, ...],
    sites: tuple[str, ...],
    devices: tuple[str, ...],
    versions: tuple[str, ...],
    bases: tuple[str, ...],
    full: bool,
    metadata_only: bool,
    max_bytes: int | None,
    root: Path | None,
    since_root: int,
    part_size: int | None,
    expired: bool,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Write a bundle: signed metadata, orders and the chosen packs, in a directory of plain files.

    An export that was interrupted goes on when the same command is run again. Run again later, it renews the
    bundle and copies only what is new.

    \b
    Examples:
      slipstream bundle export --from fleet --out /media/stick/engine
      slipstream bundle export --from https://updates.example.org --root root.json \\
          --site ship-3 --base 1.0 --no-full --max-bytes 4GB --out /media/stick/engine
      slipstream bundle export --from fleet --metadata-only --out /media/stick/news
    """
    import trio

    from p2p.bundles import export as exporting
    from p2p.content.bundle import FAT32_PART_SIZE, PART_SIZE_MIN
    from p2p.content.order import Audience
    from p2p.trust.bundling import Wanted

    if part_size is not None and part_size < PART_SIZE_MIN:
        raise OperatorError(f"--part-size: at least {PART_SIZE_MIN} bytes")
    for noun, names in (("product", products), ("hardware", hardware), ("group", groups), ("site", sites),
                        ("device", devices)):  # fmt: skip
        for name in names:
            try:
                check_name(name, f"--{noun}")
            except ContentError as error:
                raise OperatorError(error.message) from error
    by_digest = frozenset(Digest(bytes.fromhex(b)) for b in bases if _DIGEST.fullmatch(b))
    by_version = tuple(b for b in bases if not _DIGEST.fullmatch(b))
    everybody = not (groups or sites or devices)
    wanted = Wanted(
        audience=Audience(everybody, groups, sites, devices),
        hardware=frozenset(hardware),
        versions=versions,
        bases=by_digest if bases else None,
        full=full,
    )

    async def work() -> tuple[ExportPlan, exporting.Exported]:
        origin, close = _origin(source, ca, out)
        try:
            plan = await exporting.plan_export(
                origin,
                wanted,
                time.time(),
                products=products,
                base_versions=by_version,
                root=None if root is None else root.read_bytes(),
                since_root=since_root,
                part_size=part_size or FAT32_PART_SIZE,
                metadata_only=metadata_only,
                expired=expired,
            )
            if max_bytes is not None:
                exporting.check_size(plan, max_bytes)
            with progress_bar("exporting", plan.table.size) as progress:
                return plan, await exporting.export(plan, origin, str(out), progress)
        finally:
            await close()

    plan, done = trio.run(work)
    releases = [
        {"product": m.product, "version": m.version, "order": o.id}
        for c in plan.choices
        for o, m in c.releases
    ]
    if as_json:
        print_json(
            {
                "bundle": str(out),
                "size": done.size,
                "copied": done.fetched,
                "products": list(plan.table.products),
                "releases": releases,
                "packs": [p.name for p in plan.packs if p.whole],
            }
        )
        return
    click.echo(f"exported to {out}")
    print_facts(
        [
            ("releases", ", ".join(f"{r['product']} {r['version']}" for r in releases) or None),
            *(("pack", f"{p.name}  {size_text(p.size)}") for p in plan.packs if p.whole),
            ("size", size_text(done.size)),
            ("copied now", size_text(done.fetched)),
        ]
    )


@bundle.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--root",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Verify the signatures as a device with this pinned root would.",
)
@click.option("--quick", is_flag=True, help="Do not read the frames: only sizes, and what is signed.")
@json_option
def inspect(directory: Path, root: Path | None, quick: bool, as_json: bool) -> int:
    """Show what a bundle holds and check every digest; with --root, the signatures too.

    Exits 3 if it is damaged, 4 if a device with that root would refuse it.

    \b
    Examples:
      slipstream bundle inspect /media/stick/engine
      slipstream bundle inspect /media/stick/engine --root root.json --json
    """
    import trio

    from p2p.adapters.bundle_files import BundleReader
    from p2p.bundles.inspection import inspect_bundle

    total = 0 if quick else BundleReader.open(str(directory)).table.size
    with progress_bar("reading", total) as progress:
        found = trio.run(
            lambda: inspect_bundle(
                str(directory),
                time.time(),
                progress,
                root=None if root is None else root.read_bytes(),
                quick=quick,
            )
        )
    facts = found.facts(time.time())
    if as_json:
        print_json(facts)
    else:
        _show(facts, quick=quick)
    if found.damaged:
        return 3
    return 4 if found.refused is not None else 0


@bundle.command("import")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@config_option
@click.option(
    "--all", "everything", is_flag=True,
    help="Every pack that this device could use, not only the smallest: for a base that may be damaged.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the frames when their release is committed.")
@json_option
def import_(directory: Path, config_file: Path, everything: bool, keep: bool, as_json: bool) -> None:
    """Bring a bundle to this device, which installs it and gives it to its peers.

    Whether the agent runs or not: a running one is told, another finds it when it starts. An import that was
    interrupted goes on when it is run again. Exits 4 if the bundle is not to be trusted or is stale, 8 if
    it brought news only: nothing in it is meant for this device, or can be used by it.

    \b
    Examples:
      slipstream bundle import /media/stick/engine --config /etc/slipstream/agent.toml
      slipstream bundle import /media/stick/engine --all --json
    """
    import trio

    from p2p.bundles.importing import import_bundle
    from p2p.config import read_config

    config = read_config(config_file)
    bar = partial(progress_bar, "importing")
    done = trio.run(
        lambda: import_bundle(config, str(directory), time.time(), bar, everything=everything, keep=keep)
    )
    if done.nothing is not None:
        raise done.nothing
    if as_json:
        print_json(
            {
                "release": done.release,
                "order": done.order,
                "packs": list(done.packs),
                "size": done.size,
                "copied": done.copied,
                "stale": done.stale,
                "installed": done.installed,
                "agent": done.agent,
                "told": done.told,
            }
        )
        return
    if done.installed:
        click.echo(f"{done.release} is installed already; what is signed was brought up to date")
    else:
        click.echo(f"imported: {done.release} (order {done.order})")
    print_facts(
        [
            *(("pack", name) for name in done.packs),
            ("size", size_text(done.size)),
            ("copied now", size_text(done.copied)),
            ("by exception", None if done.stale is None else f"the bundle is stale ({done.stale})"),
            ("agent", _agent_line(done.agent, done.told)),
        ]
    )


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Progress]:
    """A bar on standard error while bytes are worked on; nothing where that is no terminal."""
    with click.progressbar(
        length=total, label=what, file=sys.stderr, show_pos=False, hidden=not sys.stderr.isatty(), width=30
    ) as bar:
        yield bar.update


def _agent_line(pid: int | None, told: bool) -> str:
    if pid is None:
        return "not running: it finds the bundle when it starts"
    return f"told (pid {pid})" if told else "running: it finds the bundle at its next poll"


def _origin(source: str, ca: Path | None, out: Path) -> tuple[Origin, Any]:
    """What to export from, and how to close it. Raises `OperatorError`, also where it is what `out` is."""
    from p2p.adapters.bundle_files import BundleReader
    from p2p.adapters.directory_origin import BundleOrigin, RepositoryOrigin

    async def nothing() -> None:
        pass

    if source.startswith(("http://", "https://")):
        from p2p.adapters.http import HttpClient
        from p2p.adapters.origin import HttpOrigin

        origin = HttpOrigin(source, HttpClient(ca_file=ca, now=time.time))
        return origin, origin.aclose
    place = Path(source)
    if out.resolve() in (place.resolve(), (place / "imported").resolve()):
        raise OperatorError(
            f"--out {out} is what is exported from",
            kept="everything in it",
            next_step="name an empty directory for the bundle, or one that holds another bundle",
        )
    if (place / "metadata" / "timestamp.json").exists():
        return RepositoryOrigin(source), nothing
    for candidate in (place, place / "imported"):
        if (candidate / "bundle.json").exists():
            return BundleOrigin(BundleReader.open(str(candidate))), nothing
    raise OperatorError(
        f"{source}: neither a repository, nor a bundle, nor a state directory with an imported bundle",
        next_step="name a directory with metadata/timestamp.json or bundle.json, or an http(s) URL",
    )


def _show(facts: dict[str, Any], *, quick: bool) -> None:
    audience = facts["audience"]
    who = [f"{noun[:-1]} {name}" for noun in ("groups", "sites", "devices") for name in audience[noun]]
    signatures = facts["signatures"]
    print_facts(
        [
            ("bundle", facts["bundle"]),
            ("created", facts["created"]),
            ("size", f"{size_text(facts['size'])} in {facts['objects']} objects"),
            ("products", ", ".join(facts["products"]) or None),
            ("audience", "everybody" if audience["all"] else ", ".join(who) or None),
            ("hardware", ", ".join(facts["hardware"]) or "any"),
            *((f"expires: {name}", at) for name, at in facts["expires"].items()),
            ("expired", f"yes ({facts['first_to_expire']})" if facts["expired"] else "no"),
            (
                "signatures",
                "not verified (give --root)"
                if signatures is None
                else "valid"
                if signatures["valid"]
                else f"REFUSED ({signatures['reason']}): {signatures['message']}",
            ),
        ]
    )
    for order in facts["orders"]:
        click.echo(
            f"order {order['order']}: {order['product']} {order['version']}, {order['opened']} of"
            f" {order['phases']} phases open, {order['status'] or 'not opened'}"
        )
        if order["allow_stale"]:
            stale = order["allow_stale"]
            click.echo(f"  also when expired, until {stale['until']}: {', '.join(stale['devices'])}")
    for release in facts["releases"]:
        click.echo(
            f"release {release['product']} {release['version']} (counter {release['counter']})"
            f" for {', '.join(release['hardware'])}"
        )
        for payload in release["payloads"]:
            for pack in payload["packs"]:
                if pack["here"]:
                    base = "any base (full)" if pack["base"] is None else f"base {pack['base']}"
                    click.echo(f"  {payload['name']}: {base}  {size_text(pack['size'])}")
    if facts["revoked"]:
        click.echo(f"revoked devices: {', '.join(sorted({r['device'] for r in facts['revoked']}))}")
    for damage in facts["damaged"]:
        click.echo(f"DAMAGED {damage['kind']} {damage['name']}: {damage['reason']}")
    if not facts["damaged"]:
        click.echo("files: all there" if quick else "digests: all right")
