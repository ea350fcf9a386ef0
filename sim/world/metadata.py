"""Where a virtual device's trust client gets its files: as `p2p.agent.metadata`, in callbacks.

What has a digest comes through the node's object exchange; the mutable files come from the origin when
it can be reached, else from peers. `drive` steps the trust client's generators with such answers. Not
for how bytes travel: that is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from p2p.content.digests import Digest
from p2p.errors import OriginError, PeerError, SlipstreamError
from p2p.trust import Need, Steps
from p2p.trust.need import breaks_its_word

T = TypeVar("T")
Answer = bytes | OriginError | PeerError | None
Then = Callable[[Answer], None]

ORIGIN = ""
"""Stands for the origin among those that were asked."""


class Sources(Protocol):
    """A device's ways to small signed files. `then` may be called at once or later, and only once."""

    @property
    def news(self) -> Mapping[str, tuple[int, int]]:
        """By connected peer: the root and timestamp versions that it says it trusts."""

    def object(self, digest: Digest, size: int, path: str, then: Then) -> None:
        """From peers or the origin, its digest checked; None if nobody gives it."""

    def from_origin(self, name: str, size_max: int, then: Then) -> None:
        """A metadata file; `OriginError` (`not-found`, `unreachable`, …) where there is none."""

    def from_peer(self, device: str, name: str, then: Then) -> None:
        """Mutable metadata from one peer, unverified; None if it has none."""


class MetadataAnswers:
    """Answers the needs of one refresh; `wan`: whether the origin may be asked.

    `origin_reached` tells afterwards whether it answered, `origin_told` whether with a good timestamp.
    """

    def __init__(self, sources: Sources, *, wan: bool) -> None:
        self._sources = sources
        self._wan = wan
        self._asked: dict[str, list[str]] = {}
        self._origin_refused = False
        self.origin_reached = self.origin_told = False

    def answer(self, need: Need, then: Then) -> None:
        """The bytes, None for "nobody has it", `OriginError` when every source is used up."""
        if need.digest is not None and need.size is not None:
            if need.error is not None:
                then(OriginError("bad-bytes", need.error.message))
                return

            def found(data: Answer) -> None:
                if data is None:
                    data = OriginError("not-found", f"{need.path}: neither a peer nor the origin gives it")
                then(data)

            self._sources.object(need.digest, need.size, need.path, found)
            return
        asked = self._asked.setdefault(need.name, [])
        if need.error is not None and asked == [ORIGIN]:
            self._origin_refused = True
            self.origin_told = False
        if not self._wan or ORIGIN in asked:
            self._ask_peers(need, then)
            return
        asked.append(ORIGIN)

        def came(data: Answer) -> None:
            if not isinstance(data, OriginError | PeerError):
                self.origin_reached = True
                self.origin_told = need.role == "timestamp"
                then(data)
            elif isinstance(data, OriginError) and data.reason == "not-found" and need.role == "root":
                self.origin_reached = True
                then(None)
            else:
                self._ask_peers(need, then)

        self._sources.from_origin(need.name, need.size_max, came)

    def _ask_peers(self, need: Need, then: Then) -> None:
        """The next peer that may have it, those that claim the newest first."""
        asked = self._asked[need.name]
        by_age = sorted(self._sources.news.items(), key=lambda item: item[1], reverse=True)
        for device, (root, timestamp) in by_age:
            version = need.version or 0
            if device in asked or (need.role == "root" and root < version) or (not root and not timestamp):
                continue
            asked.append(device)

            def came(data: Answer, claimed: int = timestamp) -> None:
                if isinstance(data, bytes) and not breaks_its_word(need, data, claimed):
                    then(data)
                else:
                    self._ask_peers(need, then)

            self._sources.from_peer(device, need.name, came)
            return
        if need.may_be_absent and not self._origin_refused:
            then(None)  # bad bytes of a peer do not keep this device from going on with what it holds
            return
        then(OriginError("unreachable", f"{need.path}: neither the origin nor a peer gives it"))


def drive(
    steps: Steps[T],
    answer: Callable[[Need, Then], None],
    done: Callable[[T], None],
    failed: Callable[[SlipstreamError], None],
) -> None:
    """Run `steps` to their end. Answers that come at once do not nest."""
    waiting: list[Answer] = []
    running = False

    def resume(data: Answer) -> None:
        nonlocal running
        waiting.append(data)
        if running:
            return
        running = True
        try:
            while waiting:
                sent = waiting.pop()
                need = steps.throw(sent) if isinstance(sent, SlipstreamError) else steps.send(sent)
                answer(need, resume)
        except StopIteration as stop:
            result: T = stop.value
        except SlipstreamError as error:
            failed(error)
            return
        else:
            return
        finally:
            running = False
        done(result)

    resume(None)
