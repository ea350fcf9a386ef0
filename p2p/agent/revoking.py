"""What follows from the revocation list at one device: who is cut off, and what if that is this device.

The list is read with the metadata and kept by `p2p.trust.Revocations`; here what it says takes effect. A
device that is revoked itself has no peers any more and goes on alone, with what it runs and the origin:
its own software is none of its neighbours' business, and a false revocation must not stop updates. When the
offline keys have taken that back, it has peers again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from p2p.agent.driver import SwarmDriver
from p2p.agent.links import PeerLinks
from p2p.content.digests import Digest
from p2p.content.revocation import Revocation
from p2p.swarm import events as e
from p2p.trust import Revocations
from p2p.trust.revocations import revocation_facts

log = logging.getLogger(__name__)


class Revoking:
    """`certificate`: this device's own. `silenced` is told when it is found to be revoked, or no more."""

    def __init__(
        self,
        register: Revocations,
        certificate: Digest,
        driver: SwarmDriver,
        links: PeerLinks,
        silenced: Callable[[bool], None],
    ) -> None:
        self.register = register
        self._certificate = certificate
        self._driver = driver
        self._links = links
        self._silenced = silenced
        self._heeded = -1
        self._silent = False
        self._told = ""

    def presents(self, certificate: Digest) -> None:
        """This device has another certificate from now on."""
        self._certificate = certificate
        self._heeded = -1
        self.heed()

    @property
    def own(self) -> Revocation | None:
        """The revocation of this device, if it is revoked."""
        return self.register.find(self._certificate)

    def is_out(self, device: str | None) -> bool:
        """Whether a device of this name is out of the fleet."""
        return device in self.register.devices

    def heed(self) -> None:
        """Have what the register says take effect. Call it at the start, and whenever it may say more."""
        register = self.register
        if register.trouble != self._told:
            self._told = register.trouble
            if register.trouble:
                log.warning("the revocation list: %s (kept: version %d)", self._told, register.version)
        if register.taken == self._heeded:
            return
        self._heeded = register.taken
        self._driver.feed(e.Barred(register.devices))
        self._links.cut_revoked()
        if (self.own is not None) == self._silent:
            return
        self._silent = not self._silent
        if self.own is None:
            log.warning("this device is not revoked any more: it has peers again")
            self._links.speak()
        else:
            log.error(
                "this device is revoked (%s): it has no peers any more and updates alone; if that is a"
                " mistake, remove its key and certificate and enrol it again",
                self.own.reason.value,
            )
            self._links.silence()
        self._silenced(self._silent)

    def facts(self) -> dict[str, Any]:
        """For the status file."""
        return revocation_facts(self.register, self._certificate)
