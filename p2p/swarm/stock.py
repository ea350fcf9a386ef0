"""What a site has of each pack already, so that it need not cross its WAN.

Frames are what crosses, so whole frames count: one of which a piece is missing has to come whole, however
many of its chunks stood in somebody's base. It is the account of the node that has most; what is spread over
several is on its way to one of them, or nobody has it whole. Not for what one node wants (`wanted`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from p2p.content.digests import Digest
from p2p.content.manifest import PackRef
from p2p.content.pieces import PieceMap
from p2p.swarm.peer import RemoteImage


def stock(
    packs: Iterable[PackRef],
    maps: Mapping[Digest, PieceMap],
    serves: Mapping[Digest, AbstractSet[int]],
    others: Collection[RemoteImage],
) -> dict[Digest, int]:
    """Stored bytes of each pack that the site has, by index digest; the index counts where it is here.

    `maps`: packs whose index is here; `serves`: the pieces of them that this node has; `others`: what those
    peers say that are believed. Of a pack whose index is not here its share of pieces counts.
    """
    found: dict[Digest, int] = {}
    for pack in packs:
        name = pack.index.sha256
        if (pieces := maps.get(name)) is not None:
            has = [marks for r in others if (marks := r.haves.get(name)) is not None and 1 in marks]
            own = bytearray(len(pieces))
            for n in serves.get(name, ()):
                own[n] = 1
            found[name] = pack.index.size + max(map(pieces.stored_in, (own, *has)))
            continue
        shares = [r.count(name) / total for r in others if (total := r.totals.get(name))]
        if share := max(shares, default=0.0):
            found[name] = pack.index.size + int(pack.frames.size * share)
    return found
