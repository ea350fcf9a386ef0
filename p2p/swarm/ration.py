"""How much of something each device may cause here: a few at once, and one back in each span of time."""

from __future__ import annotations


class Ration:
    """`most` at once for each; what time gave back to all of a device, it is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spent: dict[str, tuple[float, float]] = {}
        """By device: how much it has spent, less what time gave back, and when that was reckoned."""

    def take(self, device: str, back_s: float, now: float) -> bool:
        """Whether this device may have one more, which is counted; one comes back every `back_s` seconds."""
        left = {d: (max(0.0, n - (now - at) / back_s), now) for d, (n, at) in self._spent.items()}
        self._spent = {d: spent for d, spent in left.items() if spent[0] > 0}
        spent, _ = self._spent.get(device, (0.0, now))
        if spent > self._most - 1:
            return False
        self._spent[device] = spent + 1, now
        return True
