"""Where each byte of an image comes from: the facts that `slipstream pack inspect` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from p2p.content.index import Copy, Data, Entry, PackIndex, Patch, Zero


@dataclass(frozen=True, slots=True)
class Share:
    """What entries of one sort add up to. `raw_size`: bytes before outer compression (delta or chunks)."""

    name: str
    entries: int
    target_size: int
    stored_size: int
    raw_size: int


@dataclass(frozen=True, slots=True)
class PackFacts:
    """The facts of one pack; sizes in bytes, `ratio` is pack size over image size (0 for no image)."""

    index_size: int
    frames_size: int
    frames: int
    chunks: int
    base_view_size: int
    kinds: tuple[Share, ...]
    codecs: tuple[Share, ...]
    compressions: tuple[Share, ...]
    ratio: float


def facts_of(index: PackIndex, index_size: int) -> PackFacts:
    """Count an index of `index_size` encoded bytes."""
    entries = index.entries
    stored = [e for e in entries if isinstance(e, Patch | Data)]
    patches = [e for e in stored if isinstance(e, Patch)]
    size = index_size + index.frames_size
    return PackFacts(
        index_size=index_size,
        frames_size=index.frames_size,
        frames=len(stored),
        chunks=sum(len(e.chunks) for e in stored if isinstance(e, Data)),
        base_view_size=sum(p.view_size for p in patches),
        kinds=_shares((type(e).__name__.upper(), e) for e in entries),
        codecs=_shares((p.codec.name.lower(), p) for p in patches),
        compressions=_shares((e.compression.name.lower(), e) for e in stored),
        ratio=size / index.image_size if index.image_size else 0.0,
    )


def _shares(named: Iterable[tuple[str, Entry]]) -> tuple[Share, ...]:
    groups: dict[str, list[Entry]] = {}
    for name, entry in named:
        groups.setdefault(name, []).append(entry)
    return tuple(
        Share(
            name,
            len(group),
            sum(e.length for e in group),
            sum(_stored_size(e) for e in group),
            sum(_raw_size(e) for e in group),
        )
        for name, group in sorted(groups.items())
    )


def _stored_size(entry: Entry) -> int:
    return 0 if isinstance(entry, Zero | Copy) else entry.stored_size


def _raw_size(entry: Entry) -> int:
    match entry:
        case Patch():
            return entry.delta_size
        case Data():
            return entry.length
        case _:
            return 0
