"""What devices tell each other of their WANs: what a MB costs, and what the site has used of its month.

Only where an operator has set a price or a quota for the site is anything told, and only to peers that say
that they take it: older nodes would close the connection. Prices are heeded as each device's own word
(`plan`); sums are passed on, since not all who fetch for a large site are connected (`site_quota` says what
becomes of them).
"""

from __future__ import annotations

from collections.abc import Collection

from p2p.content import limits
from p2p.swarm import events as e
from p2p.swarm import messages as m
from p2p.swarm.context import Context
from p2p.swarm.peer import Asked, Peer
from p2p.swarm.site_quota import SiteQuota

PROBE = "uplinks"
"""Asked for like metadata, which a node that takes no word of uplinks does not have."""


class Uplinks:
    """Of one node. `price`: millionths per MB of its own WAN, None if nobody says; `quota`: of its site."""

    def __init__(self, context: Context, price: int | None, quota: SiteQuota | None) -> None:
        self._context = context
        self._price = price
        self._quota = quota
        self._takes: dict[str, dict[str, int]] = {}
        """By peer that takes such word: which sums it knows."""
        self._months: dict[str, int] = {}
        """By peer: of which month it spoke last."""
        if price is not None:
            context.prices[context.device] = price

    @property
    def _tells(self) -> bool:
        return self._price is not None or self._quota is not None

    def greet(self, device: str) -> None:
        """A peer has said hello: whether it takes word of uplinks."""
        if self._tells:
            request = self._context.peers[device].ask(Asked(self._context.now, metadata=PROBE))
            self._context.send(device, m.MetadataWant(request, PROBE))

    def wanted(self, peer: Peer, message: m.MetadataWant) -> None:
        """A peer asks whether this node takes it."""
        self._context.stirred = False
        self._context.send(peer.device, m.Blob(message.request, b""))

    def answered(self, device: str, takes: bool) -> None:
        """A peer's answer to that."""
        self._context.stirred = False
        if takes:
            self._takes[device] = {}
            self._tell(device)

    def used(self, event: e.WanUsed) -> None:
        """This device's own sum."""
        self._context.stirred = False
        quota = self._quota
        if quota is None:
            return
        before = quota.month
        quota.used(event.month, event.size)
        if quota.month != before:
            for known in self._takes.values():
                known.clear()
        self._spread([self._context.device])

    def heard(self, peer: Peer, message: m.Uplink) -> bool:
        """A peer's word of its uplink and of sums; whether a price is news."""
        device = peer.device
        priced = self._context.prices.get(device) != message.price
        if message.price is None:
            self._context.prices.pop(device, None)
        else:
            self._context.prices[device] = message.price
        quota, known = self._quota, self._takes.get(device)
        if quota is None or message.month != quota.month:
            return priced  # another's clock does not end a month here
        if known is not None and self._months.get(device) != message.month:
            known.clear()  # it did not heed what it was told while its own month was another
        self._months[device] = message.month
        news = []
        for name, size in message.used:
            if name not in self._context.barred and quota.heard(name, size, met=name == device):
                news.append(name)
            if known is not None and (name == self._context.device or quota.used_by(name)):
                known[name] = max(size, known.get(name, 0))  # of names that mean nothing here, none is kept
        if news:
            self._spread(news)
        if known is not None and self._news_for(device):
            self._tell(device)
        return priced

    def lost(self, device: str) -> None:
        """A peer is gone: what it used counts, what its uplink costs does not."""
        self._takes.pop(device, None)
        self._months.pop(device, None)
        self._context.prices.pop(device, None)

    def barred(self, devices: Collection[str]) -> None:
        """These are out of the fleet."""
        if self._quota is not None:
            self._quota.forget(devices)

    # Inside

    def _spread(self, names: Collection[str]) -> None:
        """Tell all of these sums who do not know them yet."""
        for device in self._takes:
            if news := self._news_for(device, names):
                self._tell(device, news)

    def _news_for(self, device: str, names: Collection[str] | None = None) -> dict[str, int]:
        """Sums (of all, or of `names`) that a peer does not know, by enough to be told.

        Whoever is known to have used all of the quota changes nothing by using more.
        """
        quota, known = self._quota, self._takes[device]
        if quota is None:
            return {}
        me, news = self._context.device, {}
        for name in quota.names() if names is None else names:
            size, told = quota.used_by(name), known.get(name, 0)
            if name not in (me, device) and size and told + quota.step <= size and told < quota.most:
                news[name] = size
        told = known.get(me, -quota.step)  # at first in any case, to be counted
        if quota.own >= told + quota.step and told < quota.most:
            news[me] = quota.own
        return news

    def _tell(self, device: str, news: dict[str, int] | None = None) -> None:
        """A peer of the price, and of sums: `news`, or all that it does not know."""
        if news is None:
            news = self._news_for(device)
        self._takes[device] |= news
        month = self._quota.month if self._quota is not None else 0
        entries = tuple(news.items())
        for at in range(0, max(1, len(entries)), limits.UPLINKS_TOLD_MAX):
            told = entries[at : at + limits.UPLINKS_TOLD_MAX]
            self._context.send(device, m.Uplink(self._price, month, told))
