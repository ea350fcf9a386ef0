"""Frames that are on the device already, because somebody imported them: the node waits until they are used.

While the driver fills the image with them, this node asks neither peers nor the WAN for anything of it, and
announces each piece as it is made, as ever. What is missing afterwards it gets as any other node does.
"""

from __future__ import annotations

from p2p.content.digests import Digest
from p2p.swarm.pursuits import Pursuit


def fill(pursuit: Pursuit, indexes: tuple[tuple[Digest, bytes], ...]) -> None:
    """Frames of these packs are at hand."""
    image = pursuit.image
    if image.complete:
        return
    image.wanted.filling = True
    for name, data in indexes:
        image.index_ready(name, data)
    image.wanted.renew()
    pursuit.gateway.cancel_all()


def filled(pursuit: Pursuit) -> None:
    """They are used up."""
    image = pursuit.image
    image.wanted.filling = False
    image.last_progress = image.context.now
    image.replan = pursuit.gateway.dirty = True
    image.wanted.renew()
