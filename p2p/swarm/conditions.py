"""What a device's link and power are like just now, and what follows for its part in the swarm.

Pure: that it is told is for `p2p.adapters.conditions`. Not for what an operator allows at all (`allowance`).
"""

from __future__ import annotations

from typing import NamedTuple


class Conditions(NamedTuple):
    """`metered`: bytes of its WAN cost money. `roaming`: it is in another operator's network. `battery`: it
    runs on its battery."""

    metered: bool = False
    roaming: bool = False
    battery: bool = False

    def weight(self, usual: int) -> int:
        """How gladly it is a gateway, where it is as a rule so with weight `usual`.

        0: only when nobody else can be, so that a site pays for metered bytes only where it has no others.
        """
        return 0 if self.metered or self.roaming or self.battery else usual

    @property
    def serves(self) -> bool:
        """Whether it gives to peers what it has itself no use for any more; while it makes an image it gives
        what it has of it in any case, as others would pay for that again."""
        return not self.battery

    def joined(self, other: Conditions) -> Conditions:
        """All that either says."""
        return Conditions(
            self.metered or other.metered, self.roaming or other.roaming, self.battery or other.battery
        )

    def __str__(self) -> str:
        said = [name for name, holds in self._asdict().items() if holds]
        return ", ".join(said) or "ordinary"
