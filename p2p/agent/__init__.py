"""The agent: one device's pieces wired together on trio. Start at `runtime`.

`runtime` opens everything and starts the tasks, `polling` asks what is meant, `updates` installs it, `driver`
runs the swarm node, `links` keeps the connections, `fetch` and `images` move frames into the slot.
"""

from p2p.agent.runtime import run

__all__ = ["run"]
