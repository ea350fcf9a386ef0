"""Going away with an image, as for a reboot: when a node may, and who of its peers has.

Pieces that only this node holds would be fetched over the WAN again by those who were just about to
get them. Who leaves with a whole image will be back with it, also for those that had not begun with
it then. All times are seconds on the caller's clock.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from p2p.content.digests import Digest

STEP_S = 0.25
"""How often to ask `may_leave`."""

QUIET_S = 3.0
"""Nobody has asked for a piece for this long: whoever could use one has it, or does not know of it."""

LONGEST_S = 60.0
"""The update of this device is not held up longer than this by others."""

IMAGES_MAX, DEVICES_MAX = 8, 64
"""How many images that this node is not at, and how many devices that left with each, are remembered."""


class Departed:
    """Devices that left with an image that this node was not at."""

    def __init__(self) -> None:
        self._left: dict[Digest, dict[str, float]] = {}

    def note(self, image: Digest, device: str, now: float) -> None:
        """A peer that had the whole image is gone."""
        devices = self._left.pop(image, {})
        devices.pop(device, None)
        devices[device] = now
        self._left[image] = devices
        if len(devices) > DEVICES_MAX:
            del devices[next(iter(devices))]
        if len(self._left) > IMAGES_MAX:
            del self._left[next(iter(self._left))]

    def forget(self, devices: AbstractSet[str]) -> None:
        """These will not be back."""
        for left in self._left.values():
            for device in devices & left.keys():
                del left[device]

    def take(self, image: Digest) -> dict[str, float]:
        """Who left with an image, and when: this node begins with it now."""
        return self._left.pop(image, {})


def may_leave(
    now: float,
    done_at: float,
    served_at: float,
    *,
    all_complete: bool,
    all_begun: bool = True,
    needed: bool = False,
) -> bool:
    """Whether the node may go. `done_at`: when its image was whole; `served_at`: its last answer to a peer.

    `all_complete`: every peer that takes part has said that it is done. `all_begun`: every peer that is here
    takes part; others are given a moment to begin. `needed`: one that is not done lacks something that it
    can have from nobody else, even if it is so busy that it has not asked for it yet.
    """
    if now - done_at >= LONGEST_S:
        return True
    if all_complete:
        return all_begun or now - done_at >= QUIET_S
    return not needed and now - max(done_at, served_at) >= QUIET_S
