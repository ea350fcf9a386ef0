"""Nothing is fetched twice over a WAN, beyond a slack that is written down here.

For every site and image, of all bytes of frames that came over the site's WAN:

    fetched <= 1.05 * floor + slack

`floor` is the frames of the cheapest pack that a device with WAN can use, of those that had taken the
image up when the site's first fetch began; metered ones count only where there are no others, and those
whose price makes their pack the cheapest where they say prices. `slack`
is the sum of what happened since:

- a device that took the image up later: its cheapest pack, if that is of a kind that was not there and
  cheaper than the floor, or if nobody else of the site was there to give it the image;
- a device that stopped (or gave the image up): what it held and nobody else did, and what came of its
  fetches under way; and if nobody is left who can use what was begun, the cheapest pack of the rest;
- a fetch that failed: what came for nothing (where nothing goes wrong, one that was called off is not
  in this);
- a range found damaged: the frames of the full pack over it, and what came to be made of the bad base;
- while a partition lasts, every part is a site of its own: one floor for each partition, or the floors of
  both parts, where one needs a larger pack than the other;
- a hostile device: `HOSTILE_FLOORS` floors;
- a device that is revoked: `REVOKED_FLOORS` full packs: it fetches for itself from then on, and what
  it was fetching, or had and nobody else did, others fetch;
- faults of links, disks and crashes of whole groups that leave nodes without news of each other: one
  run of each device (`Policy.run_bytes`, or its largest frame) for each such fault;
- one frame or run that was under way when the site found a better way: for each device that joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from p2p.content.digests import Digest
from p2p.content.pieces import PieceMap
from p2p.swarm import events as e
from sim.outcome import Violation
from sim.scenario.model import Fault, FaultKind, Who
from sim.world.observer import Observer

if TYPE_CHECKING:
    from sim.world.device import Device
    from sim.world.run import World
    from sim.world.site import Site
    from sim.world.synthetic import Material

__all__ = ["AMPLIFICATION_MAX", "SiteWan", "WanRule"]

AMPLIFICATION_MAX = 1.05
HOSTILE_FLOORS = 1
"""What one hostile device may cost its site, in floors."""

REVOKED_FLOORS = 2
"""What one revoked device may cost its site, in full packs."""

_ISOLATING = frozenset(
    {FaultKind.WAN_DOWN, FaultKind.WAN_SLOW, FaultKind.ORIGIN_DOWN, FaultKind.CUT, FaultKind.DISK_SLOW,
     FaultKind.DISK_FULL, FaultKind.PARTITION, FaultKind.CRASH, FaultKind.RESTART, FaultKind.LEAVE}
)  # fmt: skip


class SiteWan:
    """What crossed a site's WAN for one image. `floor` and all others are bytes of frames."""

    def __init__(self, site: Site, material: Material) -> None:
        self.site = site
        self.material = material
        self.floor: int | None = None
        self.fetched = 0
        self.exceeded = False
        self.slack: Counter[str] = Counter()
        """By what happened."""
        self.kinds: dict[Digest | None, None] = {}
        self._held: dict[str, dict[Digest, bytearray]] = {}
        """By device and pack: a byte for each piece, 1 where the device holds it."""
        self._holders = {pack: [0] * len(pieces) for pack, pieces in material.maps.items()}
        """How many devices hold each piece."""

    @property
    def amplification(self) -> float | None:
        """Fetched per byte of the floor."""
        return self.fetched / self.floor if self.floor else None

    @property
    def allowed(self) -> int:
        return int(AMPLIFICATION_MAX * (self.floor or 0)) + sum(self.slack.values())

    def pack_of(self, base: Digest | None) -> int:
        """Frames of the cheapest pack that a device with this base can use."""
        packs = [p.frames.size for p in self.material.packs if p.base is None or p.base == base]
        return min(packs)

    def cheapest(self, able: Iterable[Device]) -> int:
        """Frames of the pack that costs the site least: bytes, times the price of whose WAN they cross.

        Who says no price is as dear as the dearest; where nobody does, bytes decide.
        """
        payers = _payers(able)
        said = [d.klass.wan_price_per_mb for d in payers if d.klass.wan_price_per_mb]
        most = max(said, default=1.0)
        sizes = [self.pack_of(d.base) for d in payers]
        pairs = zip(payers, sizes, strict=True)
        return min((size * (d.klass.wan_price_per_mb or most), size) for d, size in pairs)[1]

    def hold(self, device: str, pack: Digest, pieces: Iterable[int]) -> None:
        """A device can give these pieces."""
        holders, held = self._holders[pack], self._held.setdefault(device, {})
        marks = held.get(pack)
        if marks is None:
            marks = held[pack] = bytearray(len(holders))
        for n in pieces:
            if not marks[n]:
                marks[n] = 1
                holders[n] += 1

    def let_go(self, device: str) -> int:
        """A device can give nothing any more; returns the stored bytes of the frames that only it held."""
        size = 0
        for pack, marks in self._held.pop(device, {}).items():
            holders, pieces = self._holders[pack], self.material.maps[pack]
            lost: dict[int, None] = {}
            for n, mark in enumerate(marks):
                if mark:
                    holders[n] -= 1
                    if not holders[n]:
                        lost[pieces[n].frame] = None
            size += sum(pieces.index.frames[frame].stored_size for frame in lost)
        return size

    def run_of(self, base: Digest | None, run_bytes: int) -> int:
        """The most that one fetch brings a device with this base."""
        frames = [
            frame.stored_size
            for pieces in self.material.maps.values()
            if pieces.index.base is None or pieces.index.base == base
            for frame in pieces.index.frames
        ]
        return min(max(run_bytes, max(frames, default=0)), self.pack_of(None))


class WanRule(Observer):
    """Keeps account of every site; `violations` are collected as they happen."""

    heeds = frozenset({e.Pursue, e.Offer, e.Drop, e.BaseDamaged, e.Damaged, e.WanChanged})

    def __init__(self) -> None:
        self.sites: dict[tuple[str, Digest], SiteWan] = {}
        self.violations: list[Violation] = []
        self._came: Counter[str] = Counter()
        self._faulty = False
        self._partitions: Counter[str] = Counter()
        """How often a site fell apart so far."""
        self._revoked: Counter[str] = Counter()
        """How many devices of a site were revoked so far, at the most."""
        self._pursuing: dict[tuple[str, Digest], None] = {}

    def begun(self, world: World) -> None:
        self._world = world
        self._faulty = bool(world.scenario.faults)
        self._materials = {m.image: m for m in world.materials.values()}
        self._run_bytes = world.scenario.policy.run_bytes

    def fed(self, device: Device, event: e.Event, actions: list[e.Action]) -> None:
        match event:
            case e.Pursue():
                self._pursued(device, event)
            case e.Offer():
                account = self._account(device, event.task.image)
                self._hold_again(account, device, ((0, event.task.size),))
            case e.Drop():
                self._left(device, event.image, "given up")
                if self._faulty:  # with its base only it could use what it had fetched
                    self._without(self._account(device, event.image), device)
            case e.BaseDamaged():
                self._damaged(device, event.image, ((event.start, event.stop),))
            case e.Damaged():
                self._damaged(device, event.image, event.ranges)
            case e.WanChanged() if event.closed:
                for account in self.sites.values():
                    if account.site is device.site:
                        self._without(account, device)
            case _:
                pass

    def fault(self, fault: Fault, sites: list[Site]) -> None:
        names = {site.name for site in sites}
        if fault.kind is FaultKind.PARTITION:
            self._partitions.update(names)
        revoked = {s.name: _hit(fault, s) for s in sites} if fault.kind is FaultKind.REVOKED else {}
        self._revoked.update(revoked)
        for account in self.sites.values():
            if account.site.name not in names or account.floor is None:
                continue
            if hit := revoked.get(account.site.name):
                account.slack["revoked"] += REVOKED_FLOORS * hit * account.pack_of(None)
            if fault.kind is FaultKind.PARTITION:
                account.slack["partition"] += account.floor
            if fault.kind in _ISOLATING:
                account.slack["isolated"] += sum(
                    account.run_of(d.base, self._run_bytes)
                    for d in account.site.honest
                    if (d.name, account.material.image) in self._pursuing and d.has_wan
                )

    def stored(self, device: Device, event: e.Stored, good: bool) -> None:
        if event.pack is None:
            return
        account = self._account(device, event.image)
        pieces = account.material.maps[event.pack].pieces
        given = event.pieces if event.kept else [n for n in event.pieces if not pieces[n].is_patch]
        account.hold(device.name, event.pack, given)

    def fetch_started(self, device: Device, action: e.Fetch) -> None:
        account = self._account(device, action.image)
        if account.floor is None:
            self._begun(account, device, action)
        self._apart(account, action.image)

    def _begun(self, account: SiteWan, device: Device, action: e.Fetch) -> None:
        """The first fetch of a site."""
        here = [d for d in account.site.honest if (d.name, action.image) in self._pursuing]
        account.kinds = dict.fromkeys(d.base for d in here)
        account.floor = account.cheapest(d for d in here if d.has_wan or d is device)
        account.slack["partition"] += self._partitions[account.site.name] * account.floor
        gone = self._revoked[account.site.name]
        account.slack["revoked"] += REVOKED_FLOORS * gone * account.pack_of(None)
        hostile = sum(not d.honest for d in account.site.devices)
        if hostile:
            account.slack["hostile"] += HOSTILE_FLOORS * hostile * account.pack_of(None)

    def _apart(self, account: SiteWan, image: Digest) -> None:
        """A part of the site may have nobody who can use the pack of the other."""
        parted = account.site.parted
        if parted is None or account.floor is None:
            return
        able = [d for d in account.site.honest if d.has_wan and (d.name, image) in self._pursuing]
        parts = [[d for d in able if (d.name in parted) == inside] for inside in (False, True)]
        floors = sum(account.cheapest(part) for part in parts if part)
        account.slack["partition"] = max(account.slack["partition"], floors - account.floor)

    def fetch_ended(self, device: Device, action: e.Fetch, error: str | None, size: int, wasted: int) -> None:
        self._came[device.name] += size
        account = self._account(device, action.image)
        account.fetched += size
        if wasted and error is not None and (self._faulty or error != "cancelled"):
            account.slack["cut"] += wasted
        elif wasted and action.image not in device.images:
            account.slack["given up"] += wasted
        self._check(account)

    def remnants_lost(self, device: Device, image: Digest, size: int) -> None:
        """What a fetch brought for nothing is known only now."""
        if self._faulty:
            self._account(device, image).slack["cut"] += size

    def stopped(self, device: Device, why: str) -> None:
        """What came of its fetches under way, nobody was told of."""
        came = device.frames_wan - self._came[device.name]
        images = [image for name, image in self._pursuing if name == device.name]
        if came and images:
            self._came[device.name] += came
            account = self._account(device, images[-1])
            account.fetched += came
            account.slack["stopped"] += came
            self._check(account)
        for key, account in list(self.sites.items()):
            if account.site is device.site:
                self._left(device, key[1], "stopped")
                self._without(account, device)

    def _without(self, account: SiteWan, gone: Device) -> None:
        """Who is left may be able to use nothing of what was begun."""
        able = [
            d for d in account.site.honest
            if d is not gone and d.has_wan and not d.meter.closed
            and (d.name, account.material.image) in self._pursuing
        ]  # fmt: skip
        floor = account.floor
        if floor is not None and able and (cheapest := account.cheapest(able)) > floor:
            account.slack["without"] = max(account.slack["without"], cheapest)

    # Inside

    def _check(self, account: SiteWan) -> None:
        """What comes later cannot excuse what came before."""
        if account.floor is None or account.fetched <= account.allowed or account.exceeded:
            return
        account.exceeded = True
        slack = ", ".join(f"{what} {size}" for what, size in account.slack.items() if size)
        self.violations.append(
            Violation(
                "fetched-twice", self._world.kernel.now, account.site.name, None,
                f"{account.fetched} bytes of frames for {account.material.name} crossed the WAN; the "
                f"floor is {account.floor}, allowed are {account.allowed} (slack: {slack or 'none'})",
            )
        )  # fmt: skip

    def _account(self, device: Device, image: Digest) -> SiteWan:
        key = device.site.name, image
        found = self.sites.get(key)
        if found is None:
            found = self.sites[key] = SiteWan(device.site, self._materials[image])
        return found

    def _pursued(self, device: Device, event: e.Pursue) -> None:
        image = event.task.image
        account = self._account(device, image)
        self._hold_again(account, device, event.done)
        again = (device.name, image) in self._pursuing
        self._pursuing[device.name, image] = None
        if account.floor is None or again:
            return
        alone = not any(
            d is not device and d.up and image in d.images and device.site.reaches(device, d)
            for d in account.site.honest
        )
        pack = account.pack_of(device.base)
        new = device.base not in account.kinds and pack < account.floor
        account.kinds[device.base] = None
        if alone or new:
            account.slack["joined"] += pack
        if device.has_wan:
            account.slack["joined"] += min(account.run_of(device.base, self._run_bytes), pack)

    def _hold_again(self, account: SiteWan, device: Device, done: tuple[tuple[int, int], ...]) -> None:
        """Chunks that an earlier life left in the slot."""
        for digest, pieces in account.material.maps.items():
            if pieces.index.base is None:
                for start, stop in done:
                    account.hold(device.name, digest, pieces.inside(start, stop))

    def _left(self, device: Device, image: Digest, why: str) -> None:
        """A device can give nothing any more: what only it had must cross the WAN again."""
        account = self.sites.get((device.site.name, image))
        if account is None:
            return
        self._pursuing.pop((device.name, image), None)
        waited_for = any(
            d is not device and not d.gone and d.base != image and not _is_complete(d, image)
            for d in account.site.honest
        )
        account.slack[why] += waited_for * account.let_go(device.name)

    def _damaged(self, device: Device, image: Digest, ranges: tuple[tuple[int, int], ...]) -> None:
        account = self._account(device, image)
        for pieces in account.material.maps.values():
            if pieces.index.base in (None, device.base):
                for start, stop in ranges:
                    account.slack["damaged"] += _over(pieces, start, stop)


def _payers(able: Iterable[Device]) -> list[Device]:
    """Whose packs count for a floor: who is metered pays only where nobody else can."""
    devices = list(able)
    return [d for d in devices if not d.klass.metered] or devices


def _hit(fault: Fault, site: Site) -> int:
    """How many devices of a site a fault may hit."""
    return len(site.devices) if fault.who is Who.ALL else min(fault.count, len(site.devices))


def _is_complete(device: Device, image: Digest) -> bool:
    holding = device.images.get(image)
    return holding is not None and holding.complete


def _over(pieces: PieceMap, start: int, stop: int) -> int:
    """Stored bytes of the frames over a target range."""
    frames = dict.fromkeys(pieces[n].frame for n in pieces.overlapping(start, stop))
    return sum(pieces.index.frames[frame].stored_size for frame in frames)
