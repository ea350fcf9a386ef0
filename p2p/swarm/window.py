"""How much a node may have asked of its peers at once: as much as arrives in a moment, and not more.

On a radio channel, or any link that many share, a request that waits behind megabytes of others is no
sooner answered than one made later, and everything small (news, leases) waits behind it too. So the
bytes in flight follow the time that answers take, as the window of a delay-based transport does
(LEDBAT, RFC 6817): it grows while answers come within `target_s` and shrinks in proportion when they
take longer. Not for whom to ask (`rider`), nor for what one peer may be asked (`peer`).
"""

from __future__ import annotations

from p2p.swarm.policy import Policy


class Window:
    """Bytes of pieces that were asked for and have not come: `flying`, of `size` allowed."""

    def __init__(self, policy: Policy) -> None:
        self._least = float(policy.window_min * policy.piece_estimate)
        self._most = float(policy.window_max * policy.piece_estimate)
        self._target_s = policy.window_s
        self.size = float(policy.window_first * policy.piece_estimate)
        self.flying = 0
        self.answer_s = 0.0
        """How long an answer takes, smoothed; 0 while there was none."""

    @property
    def room(self) -> bool:
        """Whether another piece may be asked for."""
        return self.flying < self.size

    def answered(self, size: int, seconds: float) -> None:
        """A piece of `size` bytes came `seconds` after it was asked for. Call before it leaves `flying`."""
        self.answer_s += (seconds - self.answer_s) * (0.1 if self.answer_s else 1.0)
        if seconds > self._target_s:
            self.size = max(self._least, self.size - size * (1.0 - self._target_s / seconds))
        elif 2 * self.flying >= self.size:
            self.size = min(self._most, self.size + size * (1.0 - seconds / self._target_s))
