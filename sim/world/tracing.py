"""Messages in the trace: as a number, which the digest is of, and as words for whoever reads it."""

from __future__ import annotations

from p2p.swarm import messages as m

_KINDS = {
    kind: number << 56
    for number, kind in enumerate(
        (
            m.Hello, m.News, m.MetadataWant, m.ObjectWant, m.Blob, m.Refuse, m.Join, m.Leave, m.Have,
            m.HaveMore, m.Want, m.Piece, m.Lease, m.Peers, m.Bye, m.Hearsay,
        )
    )
}  # fmt: skip


def key_of(message: m.Message, size: int) -> int:
    """What kind a message is, how long, and what it is about, in 63 bits."""
    kind = type(message)
    about = size
    if kind is m.HaveMore:
        about = sum(message.pieces)  # type: ignore[union-attr]
    elif kind is m.Want:
        about = message.piece << 20 | message.request & 0xFFFFF  # type: ignore[union-attr]
    elif kind is m.Piece:
        about = message.request  # type: ignore[union-attr]
    return _KINDS[kind] | about & 0xFFFFFFFFFFFFFF


def label(message: m.Message) -> str:
    """A message in words."""
    kind = type(message)
    if kind is m.HaveMore:
        return f"have {message.pieces}"  # type: ignore[union-attr]
    if kind is m.Want:
        return f"want {message.request} {message.piece}"  # type: ignore[union-attr]
    if kind is m.Piece:
        return f"piece {message.request}"  # type: ignore[union-attr]
    return kind.__name__
