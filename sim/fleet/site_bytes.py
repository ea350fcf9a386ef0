"""What crosses a site's WAN, in bytes: which pack, what of others is fetched for nothing, and all around it.

Which pack is the rule of `p2p.swarm.plan`, applied to who is there when; what frames, indexes and signed
files weigh on the wire is `sim.world.wire`'s. Fitted is only how often small things are fetched (`terms`).
Not for what devices ask whatever is fetched (`asking`), nor for when it all happens (`times`, `model`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.fleet.curve import Curve, Floats
from sim.fleet.draw import Devices, Ints
from sim.fleet.packs import Pack, Packs
from sim.fleet.presence import Presence
from sim.fleet.setting import Setting
from sim.fleet.times import number, piece_bytes
from sim.world.wire import HttpCosts


def terms(
    setting: Setting, packs: Packs, pack: Ints, payload: Floats, *, alone: Floats | None
) -> dict[str, Floats]:
    """What the bytes of each site (without sharing: each device) consist of, by the names of
    `parameters.BYTE_TERMS`.

    On the wire: `payload`, the frames, in so many `requests`; `index`, the indexes, one of the pack and
    one of the full pack where chunks of the image are exchanged (`index rest` where devices were at rest:
    several ask at one moment). Signed files, in sites that start with the order (`fresh`) or were at rest
    (`rest`), and more where several ask at one moment (`fresh together`, `rest together`), and of everybody
    who starts while all others are away (`alone`). `devices`: for each device more than one. `alone` is
    None without sharing.
    """
    devices = setting.devices
    costs, run = HttpCosts(), setting.policy.run_bytes
    rest = np.full(len(payload), 1.0 if setting.polling.at_rest else 0.0)
    sizes = np.asarray([p.index for p in packs.packs])[pack]
    frames = np.maximum(payload - sizes, 0.0)
    index = np.asarray([float(costs.down(p.index)) for p in packs.packs])[pack]
    others: Floats = np.zeros(len(payload))
    together = np.zeros(len(payload))
    if alone is not None:
        began = devices.start_s - np.repeat(devices.least(devices.start_s), devices.sizes)
        at_once = devices.total((began <= setting.policy.settle_s).astype(float)) > 1
        # Of three two ask at one moment, whenever they started: when the image is there, and they restart.
        together = np.where(at_once | (devices.sizes > 2), 1.0 - rest, 0.0)
        others = np.asarray(devices.sizes - 1.0)
        mixed = devices.least(devices.base.astype(float)) != devices.most(devices.base.astype(float))
        delta = np.asarray([p.base is not None for p in packs.packs])[pack]
        chunks = delta & (others > 0) & (mixed | (rest == 0))
        index = index + np.where(chunks, float(costs.down(packs.full.index)), 0.0)
    return {
        "payload": frames * (costs.down(run) / run),
        "requests": np.ceil(frames / run),
        "index": index * (1.0 - rest),
        "index rest": index * rest,
        "fresh": 1.0 - rest,
        "fresh together": together,
        "rest": rest,
        "rest together": rest * (others > 0),
        "alone": np.zeros(len(payload)) if alone is None else alone,
        "devices": others,
    }


def site_plan(
    devices: Devices, packs: Packs, present_s: Floats, start_s: Floats, curve: Curve, *, together_s: float
) -> tuple[Ints, Floats]:
    """Number of the pack that each site ends with, and the payload bytes that cross its WAN.

    The cheapest pack of those present until `together_s` after `start_s`: those who start then see each
    other before anything is fetched. A device that comes later changes the plan if its pack is less than half
    of what is still missing (`SiteView._held`), and what was fetched by then is spent.
    """
    costs = np.asarray([float(p.wan_bytes) for p in packs.packs])
    pieces = np.asarray([max(1.0, piece_bytes(p)) for p in packs.packs])
    arrives = np.full((len(costs), devices.sites), np.inf)
    for n, pack in enumerate(packs.packs):
        can = devices.wan
        if pack.base is not None:
            can = can & (devices.base == number(devices, pack.base))
        first = devices.least(np.where(can, present_s, np.inf))
        arrives[n] = np.where(first <= start_s + together_s, start_s, first)
    begins = np.where(arrives <= start_s, costs[:, None], np.inf)
    chosen = begins.argmin(axis=0)
    left, spent = costs[chosen], np.zeros(devices.sites)
    now = curve.work(np.where(np.isfinite(start_s), start_s, 0.0))
    order, every = np.argsort(arrives, axis=0, kind="stable"), np.arange(devices.sites)
    for other in order:
        at = arrives[other, every]
        comes = np.isfinite(at) & (at > start_s)
        then = np.where(comes, curve.work(np.where(comes, at, 0.0)), now)
        moved = np.clip(then - now, 0.0, left)
        spent, left, now = spent + moved, left - moved, np.maximum(now, then)
        here = costs[chosen] - left
        whole = here - here % pieces[chosen]  # what nobody has whole counts as missing
        better = comes & (left > 0) & (costs[other] < (costs[chosen] - whole) / 2)
        chosen = np.where(better, other, chosen)
        left = np.where(better, costs[other], left)
    return chosen, spent + left


def own_fetches(setting: Setting, packs: Packs, who: Presence, start_s: Floats, curve: Curve) -> Floats:
    """Payload bytes of devices that start while all others are away, and are out of patience before one is
    back, per site: they begin to fetch for themselves, and stop then."""
    devices = setting.devices
    since = devices.start_s + setting.policy.return_s
    able = who.alone & devices.wan & (who.served_s > since) & np.isfinite(start_s)[devices.site]
    if not able.any():
        return np.zeros(devices.sites)
    first = devices.least(np.where(able, since, np.inf))
    until = devices.least(np.where(able, who.served_s, np.inf))
    costs = np.asarray([packs.for_base(name).wan_bytes for name in devices.bases], float)
    cheapest = devices.least(np.where(able, costs[devices.base], np.inf))
    late = np.isfinite(first)
    end = np.where(np.isfinite(until), until, curve.times[-1])
    room = curve.work(np.where(late, end, 0.0)) - curve.work(np.where(late, first, 0.0))
    return np.asarray(np.where(late, np.minimum(np.maximum(room, 0.0), cheapest), 0.0))


def dot(coefficients: Mapping[str, float], terms: Mapping[str, Floats]) -> Floats:
    """The sum of the terms, each times its coefficient."""
    total = sum((coefficients[name] * values for name, values in terms.items()), np.zeros(1))
    return np.asarray(total)


def on_the_wire(pack: Pack) -> int:
    """Bytes down of a WAN that a pack costs at least, as `sim.world` counts them."""
    costs = HttpCosts()
    return costs.down(pack.index) + costs.down(pack.frames)
