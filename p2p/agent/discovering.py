"""Which sources of peers a device has, by its configuration, and when it listens to them."""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2p.adapters.roster import StaticDiscovery
from p2p.config import AgentConfig
from p2p.ports import Discovery, PeerAddress, PeerIdentity


def discovery_sources(
    config: AgentConfig, identity: PeerIdentity, port: int, roster: Discovery
) -> list[Discovery]:
    """The device announces `port`, and the site of its `identity`; `roster` is fed by its check-ins."""
    discovery = config.discovery
    sources: list[Discovery] = []
    if discovery.roster:
        sources.append(roster)
    if discovery.peers:
        sources.append(StaticDiscovery((p.host, p.port) for p in discovery.peers))
    if discovery.mdns:
        from p2p.adapters.mdns import MdnsDiscovery

        sources.append(
            MdnsDiscovery(
                config.device.id,
                identity.site,
                port,
                interfaces=discovery.mdns_interfaces,
                any_site=identity.is_carrier,
            )
        )
    return sources


class Discovering:
    """Announces a device and looks for its peers, while it may have any."""

    def __init__(self) -> None:
        self._silenced = False
        self._scope = trio.CancelScope()
        self._changed = trio.Event()

    def silence(self, silenced: bool) -> None:
        """This device may have no peers, or may again."""
        self._silenced = silenced
        if silenced:
            self._scope.cancel()
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, sources: Callable[[], list[Discovery]], found: Callable[[PeerAddress], None]) -> None:
        """Until cancelled; `sources` makes them anew each time that this device may be heard."""
        while True:
            changed = self._changed
            if not self._silenced:
                with trio.CancelScope() as self._scope:
                    async with trio.open_nursery() as nursery:
                        for source in sources():
                            nursery.start_soon(source.run, found)
            await changed.wait()
