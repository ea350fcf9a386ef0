"""When a node may go away after it has made an image, as for a reboot: not while peers need it.

Pieces that only this node holds would be fetched over the WAN again by those who were just about to
get them. All times are seconds on the caller's clock.
"""

from __future__ import annotations

STEP_S = 0.25
"""How often to ask `may_leave`."""

QUIET_S = 3.0
"""Nobody has asked for a piece for this long: whoever could use one has it, or does not know of it."""

LONGEST_S = 60.0
"""The update of this device is not held up longer than this by others."""


def may_leave(
    now: float, done_at: float, served_at: float, *, all_complete: bool, needed: bool = False
) -> bool:
    """Whether the node may go. `done_at`: when its image was whole; `served_at`: its last answer to a peer.

    `all_complete`: every peer that takes part has said that it is done. `needed`: one that has not lacks
    something that it can have from nobody else, even if it is so busy that it has not asked for it yet.
    """
    if all_complete or now - done_at >= LONGEST_S:
        return True
    return not needed and now - max(done_at, served_at) >= QUIET_S
