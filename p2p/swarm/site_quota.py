"""A month's WAN bytes of a whole site: what its devices have used, and how many of them one device may use.

Each device counts its own, and tells its peers the sum of the month so far (`uplinks`); of what is told of a
device the largest counts, so that it does not matter in which order or by which way it comes. A quarter of
the quota is reserved, in equal parts for the devices that this one has met; what a device uses beyond its
own part comes out of the rest, which is everybody's. So a device that uses nothing leaves most of the quota
to the others, and one that claims to have used everything takes everybody's part, but nobody's own.

Pure. Not for one device's own quota (`allowance`), nor for keeping counts over restarts
(`p2p.agent.metering`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from p2p.content import limits

RESERVED, RESERVED_CROWD = 4, 64
"""One part of so many of the quota is divided among devices and cannot be used up by what others claim. Less
in large sites: there may be many more devices than this one has met, and each takes its part for granted."""

CROWD = 12
"""With more than so many others a site may be larger than what one device sees."""

STEPS = 256
"""Sums are told when they have grown by this part of the quota."""


class SiteQuota:
    """`most`: bytes a month of all devices of the site together. `device`: this one's name.

    `month`: such as 202611. `version` changes whenever anything of others does.
    """

    def __init__(self, most: int, device: str) -> None:
        self.most = most
        self.month = 0
        self.version = 0
        self._device = device
        self._used: dict[str, int] = {}
        self._met: dict[str, None] = {}

    @property
    def step(self) -> int:
        """So much is worth telling of."""
        return max(1, self.most // STEPS)

    @property
    def own(self) -> int:
        """What this device has used in the month."""
        return self._used.get(self._device, 0)

    @property
    def site(self) -> int:
        """What all that is known of have used, this device included."""
        return sum(self._used.values())

    @property
    def share(self) -> int:
        """How many bytes this device may have used in the month, by what the others have."""
        among = 1 + len(self._met)
        reserve = self.most // (among * (RESERVED if among <= CROWD else RESERVED_CROWD))
        rest = self.most - reserve * among
        for device, used in self._used.items():
            if device != self._device:
                rest -= max(0, used - reserve)
        return reserve + max(0, rest)

    def used(self, month: int, size: int) -> None:
        """This device's own sum, by its own clock. A later month begins at nothing, for all."""
        if month > self.month:
            self.month = month
            self.version += 1
            self._used.clear()
        self._used[self._device] = max(size, self.own)

    def heard(self, device: str, size: int, *, met: bool) -> bool:
        """A sum of this month; whether it is news. `met`: the device itself says so, by its certificate."""
        if device == self._device:
            return False
        new = device not in self._met and met
        if new and len(self._met) < limits.UPLINKS_MAX:
            self._met[device] = None
            self.version += 1
        if size <= self._used.get(device, 0):
            return False
        if (
            device not in self._used
            and len(self._used) >= limits.UPLINKS_MAX
            and not self._make_room(met=met)
        ):
            return False
        self._used[device] = size
        self.version += 1
        return True

    def forget(self, devices: Collection[str]) -> None:
        """What these say, and what is said of them, counts no more: they are out of the fleet."""
        for device in devices & self._used.keys():
            del self._used[device]
            self.version += 1
        for device in devices & self._met.keys():
            del self._met[device]
            self.version += 1

    def used_by(self, device: str) -> int:
        """What a device has used, as far as is known."""
        return self._used.get(device, 0)

    def names(self) -> Iterable[str]:
        """Devices of which that is known, this one perhaps among them."""
        return self._used.keys()

    def entries(self) -> list[tuple[str, int, bool]]:
        """Other devices: name, bytes, and whether this one has met it."""
        names = dict.fromkeys((*self._met, *self._used))
        return [(d, self._used.get(d, 0), d in self._met) for d in names if d != self._device]

    def restore(self, month: int, entries: Iterable[tuple[str, int, bool]]) -> None:
        """What an earlier run knew. Whom it met is known in any month, what they used only in that one."""
        self.month = month
        for device, size, met in entries:
            self.heard(device, size, met=met)

    def _make_room(self, *, met: bool) -> bool:
        """Word of a device itself takes the place of the smallest sum that is only told of."""
        told = [d for d in self._used if d not in self._met and d != self._device]
        if not met or not told:
            return False
        del self._used[min(told, key=self._used.__getitem__)]
        return True
