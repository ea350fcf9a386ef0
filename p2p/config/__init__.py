"""The agent's configuration: a TOML document to an `AgentConfig`.

Every fault is reported at once, each with its key, its line and what is allowed: a technician with one
maintenance window must not learn of them one per run. `deploy/agent.toml` is the commented example.
Paths may be relative to the file's own directory. Not for what a device learns later (its site and
groups are in its certificate, releases in signed documents).
"""

from __future__ import annotations

from p2p.config.model import (
    AgentConfig,
    BootConfig,
    BudgetsConfig,
    CoordinatorConfig,
    DeviceConfig,
    DiscoveryConfig,
    Endpoint,
    HealthConfig,
    NetworkConfig,
    OriginConfig,
    SlotConfig,
    SwarmConfig,
    TrustConfig,
)
from p2p.config.reading import CONFIG_FILE, parse_config, read_config

__all__ = [
    "CONFIG_FILE",
    "AgentConfig",
    "BootConfig",
    "BudgetsConfig",
    "CoordinatorConfig",
    "DeviceConfig",
    "DiscoveryConfig",
    "Endpoint",
    "HealthConfig",
    "NetworkConfig",
    "OriginConfig",
    "SlotConfig",
    "SwarmConfig",
    "TrustConfig",
    "parse_config",
    "read_config",
]
