"""Bugs to plant, each in the place of one function of the node or of its device, for one test."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from math import inf
from typing import Any

import pytest

from p2p.content.digests import Buffer, Digest
from p2p.content.pieces import PieceMap
from p2p.swarm.gateway import Gateway
from p2p.swarm.leases import Leases
from p2p.swarm.ledger import Ledger
from p2p.swarm.plan import Participant, SitePlan
from p2p.swarm.site_view import SiteView
from sim.world.device import Device
from sim.world.run import Seams


class TrustingDevice(Device):
    """Skips the check of a piece's digest."""

    def verifies(self, payload: Buffer, size: int) -> bool:
        return True


TRUSTING = Seams(make_device=TrustingDevice)


def lease_that_never_expires(patch: pytest.MonkeyPatch) -> None:
    """A node waits for ever for whoever says that it fetches, whether anything comes of it or not."""

    def patience(self: Leases, *lease: object) -> float:
        return inf

    patch.setattr(Leases, "patience", patience)


def ledger_that_forgets_retries(patch: pytest.MonkeyPatch) -> None:
    """What fetches brought for nothing is in no account."""

    def in_vain(self: Ledger, size: int) -> None:
        pass

    patch.setattr(Ledger, "in_vain", in_vain)


def waiting_in_a_circle(patch: pytest.MonkeyPatch) -> None:
    """A node that has some of the image leaves the rest to any peer that takes part, and waits for it."""
    renewed = SiteView.renew

    def renew(
        self: SiteView,
        own: Participant,
        packs: Mapping[Digest, PieceMap],
        serves: Mapping[Digest, AbstractSet[int]],
        *others: Any,
        **named: Any,
    ) -> None:
        renewed(self, own, packs, serves, *others, **named)
        if any(serves.values()) and len(self._context.remotes(self._task.image)):
            self.plan, self.gateways = SitePlan(None), ()

    def deadline_s(self: Gateway) -> float:
        return inf

    patch.setattr(SiteView, "renew", renew)
    patch.setattr(Gateway, "_deadline_s", deadline_s)
