"""`slipstream pack apply|inspect|verify`: packs as plain files, without a fleet.

Peak memory is that of one frame. Output appears under its name only when the whole image is right.
`slipstream pack build` belongs to the coordinator's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from p2p.adapters.files import SYSTEM_FILES, SystemFile, parent_of
from p2p.cli.output import json_option, print_facts, print_json, size_text
from p2p.content import limits
from p2p.content.digests import Digest
from p2p.content.index import PackIndex, decode
from p2p.delta.inspect import PackFacts, Share, facts_of
from p2p.delta.rebuild import check_frames, image_parts
from p2p.errors import ContentError, OperatorError, StoreError

_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def pack() -> None:
    """Build, apply, inspect and verify packs as plain files."""


@pack.command()
@click.option("--index", "index_path", type=_EXISTING, required=True, help="The pack's index object.")
@click.option("--frames", "frames_path", type=_EXISTING, required=True, help="The pack's frames object.")
@click.option("--base", "base_path", type=_EXISTING, help="The image that a delta pack starts from.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The image.")
@json_option
def apply(index_path: Path, frames_path: Path, base_path: Path | None, output: Path, as_json: bool) -> None:
    """Make the image of a pack.

    The image is written to a temporary name beside OUTPUT, checked as a whole, made durable and only
    then renamed; an existing OUTPUT is kept until that moment.

    \b
    Examples:
      slipstream pack apply --index objects/3f… --frames objects/a0… --output new.img
      slipstream pack apply --index i --frames f --base old.img --output new.img --json
    """
    index, _ = _read_index(index_path)
    with _open(frames_path) as frames, _open_base(index, base_path) as base:
        _check_frames_size(index, frames)
        _write_image(index, frames, base, output)
    if as_json:
        print_json({"image": index.image.hex(), "image_size": index.image_size, "output": str(output)})
    else:
        click.echo(f"{output}: {size_text(index.image_size)}, sha256 {index.image.hex()}")


@pack.command()
@click.option("--index", "index_path", type=_EXISTING, required=True, help="The pack's index object.")
@click.option("--frames", "frames_path", type=_EXISTING, required=True, help="The pack's frames object.")
@click.option("--base", "base_path", type=_EXISTING, help="The image that a delta pack starts from.")
@json_option
def verify(index_path: Path, frames_path: Path, base_path: Path | None, as_json: bool) -> None:
    """Check a pack without writing anything.

    With the base of a delta pack the whole image is made and its digest checked; without it, every
    stored frame is checked (compression, delta digests, chunk digests). A full pack needs no base.

    \b
    Examples:
      slipstream pack verify --index objects/3f… --frames objects/a0…
      slipstream pack verify --index i --frames f --base old.img --json
    """
    index, _ = _read_index(index_path)
    whole = index.is_full or base_path is not None
    with _open(frames_path) as frames:
        _check_frames_size(index, frames)
        if whole:
            with _open_base(index, base_path) as base:
                for _ in image_parts(index, frames.read_at, base.read_at):
                    pass
        else:
            check_frames(index, frames.read_at)
    if as_json:
        facts = {"verified": "image" if whole else "frames", "frames": len(index.frames)}
        print_json(facts | {"image": index.image.hex(), "image_size": index.image_size})
    elif whole:
        click.echo(f"the pack makes the image {index.image.hex()} ({size_text(index.image_size)})")
    else:
        click.echo(f"all {len(index.frames)} frames are sound; give --base to check the image as well")


@pack.command()
@click.argument("index_path", metavar="INDEX", type=_EXISTING)
@click.option("--frames", "frames_path", type=_EXISTING, help="Check the size of the frames object too.")
@json_option
def inspect(index_path: Path, frames_path: Path | None, as_json: bool) -> None:
    """Show where each byte of the image comes from.

    \b
    Examples:
      slipstream pack inspect objects/3f…
      slipstream pack inspect objects/3f… --frames objects/a0… --json
    """
    index, index_size = _read_index(index_path)
    if frames_path is not None:
        with _open(frames_path) as frames:
            _check_frames_size(index, frames)
    facts = facts_of(index, index_size)
    if as_json:
        names = {
            "image": index.image.hex(),
            "image_size": index.image_size,
            "base": None if index.base is None else index.base.hex(),
            "base_size": index.base_size,
            "pack_size": facts.index_size + facts.frames_size,
        }
        print_json(names | asdict(facts))
    else:
        _print_facts(index, facts)


def _print_facts(index: PackIndex, facts: PackFacts) -> None:
    size = facts.index_size + facts.frames_size
    print_facts(
        [
            ("image", f"{index.image.hex()}  {size_text(index.image_size)}"),
            (
                "base",
                "none (full pack)"
                if index.base is None
                else f"{index.base.hex()}  {size_text(index.base_size)}",
            ),
            ("pack", f"{size_text(size)}, {facts.ratio:.2%} of the image"),
            ("index", size_text(facts.index_size)),
            ("frames", f"{size_text(facts.frames_size)} in {facts.frames} frames, {facts.chunks} chunks"),
            ("base views", size_text(facts.base_view_size)),
        ]
    )
    for title, shares in (
        ("kind", facts.kinds),
        ("codec", facts.codecs),
        ("compression", facts.compressions),
    ):
        if shares:
            click.echo()
            _print_shares(title, shares, index.image_size)


def _print_shares(title: str, shares: tuple[Share, ...], image_size: int) -> None:
    head = (title, "entries", "image bytes", "of image", "unpacked", "stored")
    rows = [
        (
            s.name,
            str(s.entries),
            str(s.target_size),
            f"{s.target_size / image_size:.2%}" if image_size else "-",
            str(s.raw_size),
            str(s.stored_size),
        )
        for s in shares
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        first = row[0].ljust(widths[0])
        rest = "  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        click.echo(f"{first}  {rest}")


def _read_index(path: Path) -> tuple[PackIndex, int]:
    with _open(path) as file:
        data = file.read_at(0, min(file.size(), limits.INDEX_SIZE_MAX + 1))
    try:
        return decode(data), len(data)
    except ContentError as error:
        raise type(error)(
            f"{path}: {error}", next_step="fetch the index again and compare its digest with the manifest's"
        ) from error


def _check_frames_size(index: PackIndex, frames: SystemFile) -> None:
    size = frames.size()
    if size != index.frames_size:
        how = "truncated" if size < index.frames_size else "too long"
        raise ContentError(
            f"frames object: {how} ({size} bytes instead of {index.frames_size})",
            kept="nothing was written",
            next_step="check that index and frames are of the same pack, or fetch the frames again",
        )


@contextmanager
def _open(path: Path) -> Iterator[SystemFile]:
    try:
        file = SYSTEM_FILES.open(str(path))
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    try:
        yield file
    finally:
        file.close()


class _NoBase:
    """Reads of a base that there is not: a full pack never asks."""

    def read_at(self, offset: int, length: int) -> bytes:
        return b""


@contextmanager
def _open_base(index: PackIndex, path: Path | None) -> Iterator[SystemFile | _NoBase]:
    """The base, after its digest was checked: what is read later is what was checked only if nobody
    writes to it meanwhile, and every frame is verified in any case."""
    if index.base is None:
        yield _NoBase()
        return
    if path is None:
        raise OperatorError(
            "this is a delta pack: it needs its base",
            next_step=f"give --base the image with sha256 {index.base.hex()}",
        )
    with _open(path) as file:
        if file.size() != index.base_size or _digest(file) != index.base:
            raise ContentError(
                f"{path} is not the base of this pack",
                kept="nothing was written",
                next_step=f"give --base the image with sha256 {index.base.hex()} ({index.base_size} bytes)",
            )
        yield file


def _digest(file: SystemFile) -> Digest:
    state = hashlib.sha256()
    at = 0
    while part := file.read_at(at, limits.MIB):
        state.update(part)
        at += len(part)
    return Digest(state.digest())


def _write_image(index: PackIndex, frames: SystemFile, base: SystemFile | _NoBase, output: Path) -> None:
    temporary = str(output.with_name(f".{output.name}.partial"))
    try:
        file = SYSTEM_FILES.open(temporary, write=True, create=True)
        try:
            file.resize(0)
            at = 0
            for part in image_parts(index, frames.read_at, base.read_at):
                file.write_at(at, part)
                at += len(part)
            file.sync()
        finally:
            file.close()
        SYSTEM_FILES.rename(temporary, str(output))
        SYSTEM_FILES.sync_directory(parent_of(str(output)))
    except ContentError as error:
        raise type(error)(
            str(error),
            kept=f"nothing was written to {output}",
            next_step="fetch the pack again, or check the base",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot write {output}: {error.strerror}",
            kept="what was there before",
            next_step="free space or choose another --output",
        ) from error
    finally:
        SYSTEM_FILES.remove(temporary)
