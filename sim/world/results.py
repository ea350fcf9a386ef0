"""What a run came to, from what its parts counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.outcome import DeviceOutcome, RunOutcome, Series, SiteOutcome
from sim.world.device import Device
from sim.world.hostile import Hostile
from sim.world.orders import ABSENT

if TYPE_CHECKING:
    from sim.world.run import World
    from sim.world.site import Site


def outcome_of(world: World) -> RunOutcome:
    """The outcome of a world as it stands."""
    kernel = world.kernel
    return RunOutcome(
        scenario=world.scenario.name,
        seed=kernel.seed,
        virtual_s=kernel.now,
        events=kernel.events,
        trace_digest=kernel.digest,
        devices=tuple(_device(d) for d in world.devices.values()),
        sites=tuple(_site(world, s) for s in world.sites.values()),
        origin_egress=_egress(world),
        completion=_completion(world),
        timelines={name: tuple(spans) for name, spans in world.spans.of.items()},
        violations=(),
    )


def _device(device: Device | Hostile) -> DeviceOutcome:
    if isinstance(device, Hostile):
        return DeviceOutcome(
            device.name, device.site.name, "hostile", "none", "hostile", device.started_s, None, None, None,
            0, 0, 0, device.sent_bytes, 0,
        )  # fmt: skip
    agent, totals = device.agent, device.totals.with_node(device.node)
    state = agent.state
    if state not in ("committed", "rolled-back", "failed") and (
        device.gone or (not device.up and device.absent)
    ):
        state = "down"
    if device.klass.cargo and state == "waiting":
        state = "carrying"
    return DeviceOutcome(
        device=device.name,
        site=device.site.name,
        device_class=device.klass.name,
        base=device.first_base,
        state=state,
        started_s=device.started_s,
        meant_s=agent.meant_s,
        verified_s=agent.verified_s,
        finished_s=agent.finished_s if state == "committed" else None,
        wan_bytes=device.wan_down + device.wan_up,
        frames_wan=device.frames_wan,
        from_peers=totals.from_peers,
        sent=totals.sent,
        wasted=totals.wasted,
    )


def _site(world: World, site: Site) -> SiteOutcome:
    down, up = sum(u.down for u in site.uplinks), sum(u.up for u in site.uplinks)
    done = [d for d in site.honest if d.agent.state == "committed"]
    meant = [d for d in site.honest if world.coordinator.last_order_for(d) is not None]
    times = [d.agent.finished_s for d in meant if d.agent.finished_s is not None]
    money = sum(u.money for u in site.uplinks) + down * world.scenario.origin.price_per_mb / 1e6
    money += _own_prices(site)
    return SiteOutcome(
        site=site.name,
        group=site.group.name,
        devices=len(site.devices),
        finished=len(done),
        wan_down=down,
        wan_up=up,
        lan_bytes=site.local.carried,
        floor_bytes=floor_of(world, site),
        money=money,
        finished_s=max(times) if meant and len(times) == len(meant) else None,
    )


def _own_prices(site: Site) -> float:
    """What devices pay more (or less) than their site's link costs, as their WAN is their own."""
    usual = 0.0 if site.group.wan is None else site.group.wan.price_per_mb
    own = ((d, d.klass.wan_price_per_mb) for d in site.honest)
    return sum((d.wan_down + d.wan_up) / 1e6 * (price - usual) for d, price in own if price)


def floor_of(world: World, site: Site) -> int | None:
    """What the site's cheapest way costs on its WAN, on the wire: index, frames and signed files, once.

    None where nothing was made, or where there is no WAN to make it over.
    """
    if not site.uplinks:
        return None
    costs = world.origin.costs
    total = 0
    for (name, release), bases in world.pursued.items():
        if name != site.name:
            continue
        material = world.materials[release]
        usable = {base for base, wan in bases.items() if wan} or set(bases)
        packs = [p for p in material.packs if p.base is None or p.base in usable]
        total += min(costs.down(p.index.size) + costs.down(p.frames.size) for p in packs)
    if not total:
        return None
    metadata = sum(costs.down(size) for size in world.publisher.needed())
    return total + metadata + costs.down(ABSENT)


def _completion(world: World) -> Series:
    times: list[float] = [0.0]
    values: list[float] = [0.0]
    for n, time in enumerate(sorted(world.completed), 1):
        if time == times[-1]:
            values[-1] = float(n)
        else:
            times.append(time)
            values.append(float(n))
    return Series(tuple(times), tuple(values))


def _egress(world: World) -> Series:
    bins, width = world.origin.egress, world.origin.bin_s
    times: list[float] = [0.0]
    values: list[float] = [0.0]
    for n in range(max(bins, default=-1) + 2):
        rate = bins.get(n, 0.0) / width
        if rate != values[-1]:
            if n * width == times[-1]:
                values[-1] = rate
            else:
                times.append(n * width)
                values.append(rate)
    return Series(tuple(times), tuple(values))
