"""Looks now and then at what the integrator says of the device's link and power, and tells what changed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from p2p.adapters.conditions import read_conditions
from p2p.config import AgentConfig
from p2p.errors import ContentError, StoreError
from p2p.swarm.conditions import Conditions

log = logging.getLogger(__name__)

LOOK_S = 10.0


class ConditionsWatch:
    """`now` is what holds: what the configuration says, and what the file says besides.

    A file that cannot be read or understood changes nothing, and is told once: what it said last holds.
    Without the file nothing holds but what is configured, which is told once too: it may only not have been
    written yet (the device is starting), or never be (a name that is wrong).
    """

    def __init__(self, config: AgentConfig, changed: Callable[[Conditions], None]) -> None:
        self._path = config.budgets.conditions
        self._always = Conditions(metered=config.budgets.wan_metered)
        self._changed = changed
        self._trouble = ""
        self.now = self._always
        self.now = self._read()

    async def run(self) -> None:
        """Until cancelled; ends at once where there is no file to look at."""
        while self._path is not None:
            await trio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Look at once."""
        before, self.now = self.now, self._read()
        if self.now != before:
            log.info("link and power: %s", self.now)
            self._changed(self.now)

    def _read(self) -> Conditions:
        if self._path is None:
            return self._always
        try:
            said = read_conditions(self._path)
        except (StoreError, ContentError) as error:
            if error.message != self._trouble:
                self._trouble = error.message
                log.warning("%s; link and power are taken to be as before (%s)", error.message, self.now)
            return self.now
        if said is None:
            missing = f"budgets.conditions: {self._path} is not there"
            if missing != self._trouble:
                self._trouble = missing
                log.warning("%s; link and power are taken to be %s until it is", missing, self._always)
            return self._always
        self._trouble = ""
        return self._always.joined(said)
