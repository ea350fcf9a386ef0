"""What devices without a WAN have asked a carrier for: the products that it takes along next time.

A device that asks what is meant for it needs the signed metadata of its product, and asks for that by digest;
so the carrier hears it without a word more. Each device counts for one product, and may choose another once a
day: who asks for a thousand products, all of which must be signed, moves one image a day at most. A product
that more devices asked for goes before others. Who was not heard of for long is forgotten.

Of which hardware a device is its questions do not tell, but the image that it takes up does, as the signed
manifest names what that is for. So it is remembered by hardware too whom the carrier meets, for each device
one set of ids, by the same rules.

Kept over restarts. Not for what is taken along (`p2p.trust.cargo`).
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TypeAlias

from p2p.content import limits
from p2p.content.fields import dump_object, load_object
from p2p.errors import ContentError, StoreError
from p2p.ports import BlobStore

log = logging.getLogger(__name__)

NAME, DOCUMENT, VERSION = "interest", "slipstream-interest", 2
_SIZE_MAX = 2 << 20

FORGET_S = 90 * 86_400
"""After so long without a visit nobody needs what a device once asked for."""

CHANGE_S = 86_400
"""How often a device may name another product; and how old what is kept of its last question may be."""

TIME_MAX = 1 << 40

_Asked: TypeAlias = dict[str, tuple[str, int]]
_Met: TypeAlias = dict[str, tuple[str, tuple[str, ...], int]]


class Interest:
    """By device, of which product it asked, and of which hardware it is; times are seconds since 1970."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._asked: dict[str, tuple[str, int]] = {}
        self._met: dict[str, tuple[str, tuple[str, ...], int]] = {}
        self._kept: object = None
        try:
            data = store.read(NAME)
            if data is not None:
                self._asked, self._met = _decode(data)
        except (StoreError, ContentError) as error:
            log.warning("what was asked of this carrier is forgotten: %s", error)
        self._kept = self._state()

    def _state(self) -> tuple[_Asked, _Met]:
        return dict(self._asked), dict(self._met)

    def asked(self, device: str, product: str, now: float) -> bool:
        """A device asks about a product; whether that is to be written down."""
        _, at = self._asked.get(device, (product, 0))
        if now - at < CHANGE_S:
            return False  # also where it names another
        self._asked.pop(device, None)
        while len(self._asked) >= limits.CARRIED_ASKERS_MAX:
            del self._asked[next(iter(self._asked))]  # who was not heard of for longest
        self._asked[device] = product, int(now)
        return True

    def met(self, device: str, product: str, hardware: tuple[str, ...], now: float) -> bool:
        """A device of one of these kinds of hardware was met; whether that is to be written down."""
        *_, at = self._met.get(device, (product, hardware, -FORGET_S))
        if now - at < CHANGE_S:
            return False  # also where it is said to be of another
        self._met.pop(device, None)
        while len(self._met) >= limits.CARRIED_ASKERS_MAX:
            del self._met[next(iter(self._met))]  # who was not heard of for longest
        self._met[device] = product, hardware, int(now)
        return True

    def kinds(self, now: float) -> frozenset[tuple[str, str]]:
        """Products and hardware ids of those that were met."""
        met = self._met.values()
        return frozenset((product, one) for product, ids, at in met if now - at < FORGET_S for one in ids)

    def products(self, now: float) -> tuple[str, ...]:
        """What was asked for, by the most devices first; names decide where those are equal."""
        counts = Counter(product for product, at in self._asked.values() if now - at < FORGET_S)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(product for product, _ in ranked[: limits.CARRIED_PRODUCTS_MAX])

    def save(self) -> None:
        """Make it durable, if it changed. Blocks; a disk that fails costs no more than what was learned."""
        asked, met = state = self._state()
        if state == self._kept:
            return
        document = {"_type": DOCUMENT, "spec": VERSION, "asked": [
            {"device": device, "product": product, "at": at} for device, (product, at) in asked.items()
        ], "met": [
            {"device": device, "product": product, "hardware": list(ids), "at": at}
            for device, (product, ids, at) in met.items()
        ]}  # fmt: skip
        try:
            self._store.write(NAME, dump_object(document))
        except StoreError as error:
            log.warning("what was asked of this carrier is not kept: %s", error.message)
        else:
            self._kept = state


def _decode(data: bytes) -> tuple[_Asked, _Met]:
    fields = load_object(data, "interest", _SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    version = fields.integer("spec", 1, VERSION)  # the first knew nothing of hardware
    found: _Asked = {}
    met: _Met = {}
    for entry in fields.objects("asked", length_max=limits.CARRIED_ASKERS_MAX):
        found[entry.name("device")] = entry.name("product"), entry.integer("at", 0, TIME_MAX)
        entry.finish()
    for entry in fields.objects("met", length_max=limits.CARRIED_ASKERS_MAX) if version > 1 else ():
        kind = entry.name("product"), entry.names("hardware")
        met[entry.name("device")] = *kind, entry.integer("at", 0, TIME_MAX)
        entry.finish()
    fields.finish()
    return found, met
