"""How quickly frames come over the site's WAN, as far as one node knows.

What the devices of a site bring at the same time is about the same, as they share the link. So who needs
many times longer for a frame than the slowest of the others does not fetch it. Bytes per second.
"""

from __future__ import annotations

from p2p.swarm.context import Context

DEVICES_MAX = 16
"""Of so many devices is it known, of those that were measured last."""

SPAN_S = 2.0
"""A rate is measured over at least so long, as news is gathered and links are uneven."""


class WanRate:
    """One node's measurements: what it fetches itself, and what leases of others are seen to bring."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rates: dict[str, float] = {}
        self._came = 0
        self._since = 0.0
        self._at_least: float | None = None

    def slowest(self, *, other_min: float) -> float | None:
        """The rate of the slowest device, or, where none was measured, what it is at least; None: not known.

        None of the others counts as slower than `other_min`: they may be slow to be waited for. Nor does a
        short fetch of little mean that frames come so slowly.
        """
        me = self._context.device
        if not self._rates:
            return max(self._at_least, other_min) if self._at_least is not None else None
        return min(rate if device == me else max(rate, other_min) for device, rate in self._rates.items())

    @property
    def unknown(self) -> bool:
        """Whether nothing was measured yet."""
        return not self._rates

    def began(self) -> None:
        """A fetch of this node begins; its rate is measured from now on."""
        self._came, self._since = 0, self._context.now

    def moved(self, size: int) -> None:
        """`size` bytes came of fetches of this node."""
        self._came += size
        seconds = self._context.now - self._since
        if seconds >= SPAN_S:
            self._measured(self._context.device, self._came / seconds)
            self._came, self._since = 0, self._context.now

    def fetched(self, size: int, seconds: float) -> None:
        """A fetch of this node is whole. One that took less than `SPAN_S` says how slow frames are not."""
        self._at_least = max(self._at_least or 0.0, size / max(seconds, SPAN_S))

    def brought(self, device: str, size: int, seconds: float) -> None:
        """A device has brought `size` bytes of frames in so long."""
        if size and seconds > 0:
            self._measured(device, size / max(seconds, SPAN_S))

    def _measured(self, device: str, rate: float) -> None:
        self._rates.pop(device, None)
        self._rates[device] = rate
        if len(self._rates) > DEVICES_MAX:
            del self._rates[next(iter(self._rates))]
