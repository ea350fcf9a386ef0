"""Which sources of peers a device has, by its configuration."""

from __future__ import annotations

from p2p.adapters.roster import StaticDiscovery
from p2p.config import AgentConfig
from p2p.ports import Discovery


def discovery_sources(config: AgentConfig, site: str, port: int, roster: Discovery) -> list[Discovery]:
    """`site` and `port` are what this device announces; `roster` is fed by its check-ins."""
    discovery = config.discovery
    sources: list[Discovery] = []
    if discovery.roster:
        sources.append(roster)
    if discovery.peers:
        sources.append(StaticDiscovery((p.host, p.port) for p in discovery.peers))
    if discovery.mdns:
        from p2p.adapters.mdns import MdnsDiscovery

        sources.append(MdnsDiscovery(config.device.id, site, port, interfaces=discovery.mdns_interfaces))
    return sources
