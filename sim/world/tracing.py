"""Messages in the trace: as a number, which the digest is of, and as words for whoever reads it."""

from __future__ import annotations

from p2p.swarm import messages as m

_KINDS = {
    kind: number << 56
    for number, kind in enumerate(
        (
            m.Hello, m.News, m.MetadataWant, m.ObjectWant, m.Blob, m.Refuse, m.Join, m.Leave, m.Have,
            m.HaveMore, m.Want, m.Piece, m.Lease, m.Peers, m.Bye, m.Hearsay, m.OriginAsked,
            m.Report, m.Reported, m.Part, m.Uplink, m.WantRest,
        )
    )
}  # fmt: skip


def key_of(message: m.Message, size: int) -> int:
    """What kind a message is, how long, and what it is about, in 63 bits."""
    about = size
    if type(message) is m.HaveMore:
        about = sum(message.pieces)
    elif type(message) is m.Want:
        about = message.piece << 20 | message.request & 0xFFFFF
    elif type(message) is m.Piece:
        about = message.request
    return _KINDS[type(message)] | about & 0xFFFFFFFFFFFFFF


def label(message: m.Message) -> str:
    """A message in words."""
    match message:
        case m.HaveMore():
            return f"have {message.pieces}"
        case m.Want():
            return f"want {message.request} {message.piece}"
        case m.Piece():
            return f"piece {message.request}"
        case _:
            return type(message).__name__
