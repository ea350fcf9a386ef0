"""Caps on what a client may ask for: bodies in bytes, requests in rate, nonces in memory.

All state is in memory and bounded; a restart forgets it, which `NonceMemory` makes harmless by refusing
signatures that are older than itself.
"""

from __future__ import annotations

from collections import OrderedDict

from starlette.requests import ClientDisconnect, Request

from coordinator.api.errors import ApiError

BODY_MAX = 64 * 1024
KEYS_MAX = 50_000
NONCES_PER_DEVICE_MAX = 256


async def read_body(request: Request, size_max: int = BODY_MAX) -> bytes:
    """The whole body, refused as soon as it is over `size_max` bytes."""
    body = bytearray()
    try:
        async for block in request.stream():
            body += block
            if len(body) > size_max:
                raise ApiError(413, "too-large", f"the body is over {size_max} bytes")
    except ClientDisconnect as error:
        raise ApiError(400, "bad-request", "the body ended early") from error
    return bytes(body)


class RateLimit:
    """A token bucket per key: `burst` at once, then `rate` per second."""

    def __init__(self, rate: float, burst: int, keys_max: int = KEYS_MAX) -> None:
        self._rate = rate
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, key: str, now: float) -> None:
        """Raise 429 `rate` with Retry-After when `key` has nothing left; counts nothing."""
        left = self._left(key, now)
        if left < 1:
            wait = max(1, round((1 - left) / self._rate))
            raise ApiError(429, "rate", "too many requests", headers={"Retry-After": str(wait)})

    def take(self, key: str, now: float) -> None:
        """Count one request of `key`, or raise as `check` does."""
        self.check(key, now)
        left = self._left(key, now)
        self._buckets.pop(key, None)
        self._buckets[key] = (left - 1, now)
        while len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)

    def _left(self, key: str, now: float) -> float:
        left, at = self._buckets.get(key, (float(self._burst), now))
        return min(self._burst, left + max(0.0, now - at) * self._rate)


class NonceMemory:
    """Nonces of the signatures that are still young enough to be accepted.

    A nonce is remembered until its signature's window has passed. Signatures made before this memory began
    are refused, so that a restart is no chance for a replay.
    """

    def __init__(self, since: float, window_s: float) -> None:
        self.since = int(since)
        self.window_s = window_s
        self._seen: dict[str, OrderedDict[str, float]] = {}

    def add(self, device: str, nonce: str, created: float, now: float) -> None:
        """Remember a nonce; raises 401 `replay` if it was seen, 429 `rate` if there are too many."""
        seen = self._seen.setdefault(device, OrderedDict())
        while seen and next(iter(seen.values())) < now:
            seen.popitem(last=False)
        if nonce in seen:
            raise ApiError(401, "replay", "this signature has been used before")
        if len(seen) >= NONCES_PER_DEVICE_MAX:
            raise ApiError(429, "rate", "too many requests", headers={"Retry-After": "30"})
        seen[nonce] = max(created, now) + 2 * self.window_s
