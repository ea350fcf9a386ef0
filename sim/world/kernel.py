"""Virtual time: an event heap, randomness by name, and a running digest of all that happened.

Nothing here knows what is simulated. Events at the same instant happen in the order in which they were
asked for, so a run is determined by what asks, and by the seed. Not for rates or bytes (`flows`).
"""

from __future__ import annotations

import hashlib
import random
import sys
from array import array
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

TRACE_BATCH = 4096
"""Trace lines, or numbers, that are hashed together."""

TICKS_PER_S = 1e6
"""Times in the trace are whole microseconds."""


class Timer:
    """An event that can be called off. `due` is its time; after `cancel` nothing happens."""

    __slots__ = ("_arguments", "_call", "due")

    def __init__(self, due: float, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.due = due
        self._call: Callable[..., object] | None = call
        self._arguments = arguments

    @property
    def active(self) -> bool:
        """Whether it is still to come."""
        return self._call is not None

    def cancel(self) -> None:
        """Call it off; it stays on the heap, empty."""
        self._call = None
        self._arguments = ()

    def fire(self) -> None:
        """For the kernel."""
        call, self._call = self._call, None
        if call is not None:
            call(*self._arguments)


class Kernel:
    """The heap and the clock. `now` is in seconds since the start, `events` counts what has happened.

    `seed` and a name make a generator (`rng`); `tell` is called with every trace line, where given.
    """

    __slots__ = (
        "_instants", "_lines", "_notes", "_notes_sha", "_sha", "_tell", "_times", "events", "heard", "now",
        "seed", "stopped",
    )  # fmt: skip

    def __init__(self, seed: int, *, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self.stopped = False
        self._times: list[float] = []
        """A heap of the instants at which something happens; one that is under way is on it no more."""
        self._instants: dict[float, list[tuple[Callable[..., object], tuple[Any, ...]]]] = {}
        """What happens at each, in the order in which it was asked for: messages to many arrive together."""
        self._sha = hashlib.sha256()
        self._lines: list[str] = []
        self._notes: list[int] = []
        self._notes_sha = hashlib.sha256()
        self._tell = tell
        self.heard = tell is not None
        """Whether somebody reads the trace as it comes."""

    def rng(self, name: str) -> random.Random:
        """A generator of its own for `name`: who draws how often elsewhere does not change it."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, time: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call at `time` (now, if that is past); cannot be called off."""
        if not time > self.now:
            time = self.now
        instant = self._instants.get(time)
        if instant is None:
            self._instants[time] = [(call, arguments)]
            heappush(self._times, time)
        else:
            instant.append((call, arguments))

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call in `seconds`."""
        self.at(self.now + seconds, call, *arguments)

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call at this instant, after all that was asked for it before."""
        self.at(self.now, call, *arguments)

    def timer(self, time: float, call: Callable[..., object], *arguments: Any) -> Timer:
        """As `at`, but can be called off."""
        timer = Timer(time, call, arguments)
        self.at(time, timer.fire)
        return timer

    def run(self, until: float) -> None:
        """Let time pass until `until`, until nothing is left to happen, or until `stop`."""
        times, instants = self._times, self._instants
        self.stopped = False
        while times and times[0] <= until:
            self.now = now = heappop(times)
            instant, done = instants[now], 0
            try:
                for call, arguments in instant:  # what is asked for meanwhile for this instant comes in it
                    done += 1
                    self.events += 1
                    call(*arguments)
                    if self.stopped:
                        return
            finally:
                if done < len(instant):
                    del instant[:done]
                    heappush(times, now)
                else:
                    del instants[now]
        self.now = max(self.now, until)

    def step(self) -> None:
        """Let the one next event happen. Raises `IndexError` if there is none."""
        self.now = self._times[0]
        instant = self._instants[self.now]
        call, arguments = instant.pop(0)
        self.events += 1
        try:
            call(*arguments)
        finally:
            if not instant:
                heappop(self._times)
                del self._instants[self.now]

    def stop(self) -> None:
        """Let `run` return after the event under way."""
        self.stopped = True

    def trace(self, line: str) -> None:
        """Add a line, with the time, to what the digest is of."""
        text = f"{self.now:.9g} {line}"
        self._lines.append(text)
        if self._tell is not None:
            self._tell(text)
        if len(self._lines) >= TRACE_BATCH:
            self._hash_lines()

    def note(self, what: int, number: int) -> None:
        """As `trace`, for what happens often: two numbers of at most 63 bits, and the time."""
        notes = self._notes
        notes += (int(self.now * TICKS_PER_S), what, number)
        if len(notes) >= TRACE_BATCH:
            self._hash_notes()

    def tell(self, line: str) -> None:
        """Give whoever reads the trace a line for what was noted in numbers."""
        if self._tell is not None:
            self._tell(f"{self.now:.9g} {line}")

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of all that was traced so far: of the digests of lines and of numbers."""
        self._hash_lines()
        self._hash_notes()
        return hashlib.sha256(self._sha.digest() + self._notes_sha.digest()).hexdigest()

    def _hash_lines(self) -> None:
        if self._lines:
            self._sha.update(("\n".join(self._lines) + "\n").encode())
            self._lines.clear()

    def _hash_notes(self) -> None:
        if self._notes:
            numbers = array("q", self._notes)
            if sys.byteorder == "big":
                numbers.byteswap()
            self._notes_sha.update(numbers.tobytes())
            self._notes.clear()
