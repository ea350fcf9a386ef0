"""`slipstream pack build`: make a pack from image files."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from coordinator.publishing.packing import BuiltPack, build_pack
from p2p.cli.output import json_option, print_facts, print_json, size_text

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("target", type=_EXISTING)
@click.option("--base", type=_EXISTING, help="Make a delta pack from this image; without it, a full pack.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Objects directory."
)
@click.option("--workers", type=click.IntRange(min=1), help="Child processes; default one per core.")
@json_option
def build(target: Path, base: Path | None, out: Path, workers: int | None, as_json: bool) -> None:
    """Build a pack that makes the image TARGET.

    The index and the frames object are written to OUT, named by their SHA-256.

    \b
    Examples:
      slipstream pack build new.img --out objects
      slipstream pack build new.img --base old.img --out objects --json
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("packing", total=target.stat().st_size)
        built = build_pack(
            target,
            base,
            out,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(_facts(built, out))
    else:
        _print(built, out)


def _facts(built: BuiltPack, out: Path) -> dict[str, object]:
    ref = built.ref
    return {
        "image": built.image.sha256.hex(),
        "image_size": built.image.size,
        "base": None if ref.base is None else ref.base.hex(),
        "base_size": built.index.base_size,
        "index": {"sha256": ref.index.sha256.hex(), "size": ref.index.size},
        "frames": {"sha256": ref.frames.sha256.hex(), "size": ref.frames.size},
        "pack_size": ref.wan_bytes,
        "ratio": ref.wan_bytes / built.image.size if built.image.size else 0.0,
        "entries": len(built.index.entries),
        "out": str(out),
        "seconds": round(built.seconds, 3),
        "codec_deaths": built.codec_deaths,
    }


def _print(built: BuiltPack, out: Path) -> None:
    ref = built.ref
    ratio = f", {ref.wan_bytes / built.image.size:.2%} of the image" if built.image.size else ""
    print_facts(
        [
            ("image", f"{built.image.sha256.hex()}  {size_text(built.image.size)}"),
            ("base", "none (full pack)" if ref.base is None else ref.base.hex()),
            ("index", f"{out / ref.index.sha256.hex()}  {size_text(ref.index.size)}"),
            ("frames", f"{out / ref.frames.sha256.hex()}  {size_text(ref.frames.size)}"),
            ("pack", f"{size_text(ref.wan_bytes)}{ratio}, built in {built.seconds:.1f} s"),
        ]
    )
