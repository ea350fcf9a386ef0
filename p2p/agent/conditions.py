"""Looks now and then at what the integrator says of the device's link and power, and tells what changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from p2p.adapters.conditions import read_conditions
from p2p.config import AgentConfig
from p2p.errors import ContentError, StoreError
from p2p.swarm.conditions import Conditions

log = logging.getLogger(__name__)

LOOK_S = 10.0

START_S, START_LOOK_S = 60.0, 1.0
"""So long after the agent's start, and looked for so often, the file may only not have been written yet."""

UNTOLD = Conditions(metered=True, roaming=True)
"""What is taken to hold meanwhile: a minute without images costs nothing, a minute of roaming may."""


class ConditionsWatch:
    """`now` is what holds: what the configuration says, and what the file says besides.

    A file that cannot be read or understood changes nothing, and is told once: what it said last holds.
    Without the file nothing holds but what is configured, which is told once too (its name may be wrong); but
    until it was there once, for the first `START_S`, what costs most is assumed (`UNTOLD`): as the device
    starts, whoever writes it may have been slower than the agent. `clock`: seconds, from anywhere.
    """

    def __init__(
        self,
        config: AgentConfig,
        changed: Callable[[Conditions], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = config.budgets.conditions
        self._always = Conditions(metered=config.budgets.wan_metered)
        self._changed = changed
        self._trouble = ""
        self._clock = clock
        self._started_until = clock() + START_S
        self._told = False
        self.now = self._always
        self.now = self._read()

    async def run(self) -> None:
        """Until cancelled; ends at once where there is no file to look at."""
        while self._path is not None:
            await trio.sleep(START_LOOK_S if self._starts else LOOK_S)
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
            if self._told:
                self._warn(f"{error.message}; link and power are taken to be as before ({self.now})")
                return self.now
            return self._assumed(error.message)
        if said is None:
            return self._assumed(f"budgets.conditions: {self._path} is not there")
        self._trouble, self._told = "", True
        return self._always.joined(said)

    @property
    def _starts(self) -> bool:
        return not self._told and self._clock() < self._started_until

    def _assumed(self, why: str) -> Conditions:
        """What is taken to hold without a file that says it."""
        if self._starts:
            assumed = self._always.joined(UNTOLD)
            self._warn(f"{why}; link and power are taken to be {assumed} for {START_S:.0f} s from the start")
            return assumed
        self._warn(f"{why}; link and power are taken to be {self._always} until it says otherwise")
        return self._always

    def _warn(self, trouble: str) -> None:
        """Once, however often it is found."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("%s", trouble)
