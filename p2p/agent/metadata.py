"""Where the trust client's needs are answered from: origin, imported bundle and peers, in the right order.

What has a digest comes through the node's object exchange, so that each such file crosses the WAN
once per site. The mutable files (root probes, timestamp) come from the origin when it can be
reached; where it cannot, from peers, which can only bring them forward. Everything is verified by
the trust client, whoever sent it.
"""

from __future__ import annotations

import logging

import trio

from p2p.agent.driver import SwarmDriver
from p2p.agent.imported import ImportedBundle
from p2p.errors import OriginError
from p2p.ports import Origin
from p2p.trust import Need
from p2p.trust.need import breaks_its_word

log = logging.getLogger(__name__)

ORIGIN = ""
IMPORTED = "\0imported"
"""Stand for the origin and the imported bundle among those that were asked."""


class MetadataSource:
    """Answers the needs of one refresh; `origin_reached` tells afterwards whether the origin answered.

    `origin_told`: it gave a timestamp that was accepted; that it has no newer root says nothing of that.
    `expired`: a timestamp was refused only because it is over. `known`: the version of the timestamp that is
    trusted now; of an imported bundle, like of peers, only a newer one is of interest.
    """

    def __init__(
        self, driver: SwarmDriver, origin: Origin, imported: ImportedBundle, *, wan: bool, known: int
    ) -> None:
        self._driver = driver
        self._imported = imported
        self._known = known
        self._origin = origin
        self._wan = wan
        self._asked: dict[str, list[str]] = {}
        self._origin_refused = False
        self.origin_reached = self.origin_told = False
        self.expired = False

    async def answer(self, need: Need) -> bytes | None:
        """The bytes, None for "nobody has it"; raises `OriginError` when every source is used up."""
        if need.digest is not None and need.size is not None:
            if need.error is not None:
                raise OriginError("bad-bytes", need.error.message)
            held = await trio.to_thread.run_sync(self._imported.object, need.digest)
            if held is not None:
                return held
            self._driver.objects.paths[need.digest] = need.path
            return await self._driver.objects.object(need.digest, need.size)
        return await self._mutable(need)

    async def _mutable(self, need: Need) -> bytes | None:
        asked = self._asked.setdefault(need.name, [])
        self.expired |= need.error is not None and need.error.reason == "expired"
        if need.error is not None and asked == [ORIGIN]:
            log.warning("%s from the origin is refused: %s", need.path, need.error.message)
            self._origin_refused = True
            self.origin_told = False
        if self._wan and ORIGIN not in asked:
            asked.append(ORIGIN)
            try:
                data = await self._origin.metadata(need.name, need.size_max)
            except OriginError as error:
                if error.reason == "not-found" and need.role == "root":
                    self.origin_reached = True
                    return None
                log.info("%s: %s", need.path, error.message)
            else:
                self.origin_reached = True
                self.origin_told = need.role == "timestamp"
                return data
        if IMPORTED not in asked:
            asked.append(IMPORTED)
            held = await trio.to_thread.run_sync(self._from_bundle, need)
            if held is not None:
                return held
        for device, (root, timestamp) in sorted(
            self._driver.news_from.items(), key=lambda item: item[1], reverse=True
        ):
            version = need.version or 0
            if device in asked or (need.role == "root" and root < version) or (not root and not timestamp):
                continue
            asked.append(device)
            found = await self._driver.objects.metadata(device, need.name)
            if found is not None and not breaks_its_word(need, found, timestamp):
                return found
        if need.may_be_absent and not self._origin_refused:
            return None  # bad bytes of a peer do not keep this device from going on with what it holds
        raise OriginError("unreachable", f"{need.path}: neither the origin nor a peer gives it")

    def _from_bundle(self, need: Need) -> bytes | None:
        if need.role == "root":
            return self._imported.root(need.version or 0)
        return self._imported.timestamp() if self._imported.timestamp_version > self._known else None
