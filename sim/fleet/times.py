"""How long a site takes that shares: what each of WAN, LAN, disks and patching would take alone.

The fluid bounds of Kumar & Ross (2006), and the terms of what is left after the last byte, which
`parameters` weighs. Not for when the WAN is there (`curve`), nor for who waits for whom (`model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.fleet import asking
from sim.fleet.curve import Floats
from sim.fleet.draw import Devices, Ints
from sim.fleet.packs import Pack, Packs
from sim.fleet.setting import Setting
from sim.scenario.model import LanKind

FRAME_TARGET = 4 * 1024 * 1024
"""Target bytes that one patch frame covers at most."""

PIECE = 128 * 1024
OVERLAP, RADIO_OVERLAP = 0.5, 0.75
"""The share of the WAN's time in which chunks cross the LAN already: on a switch they wait for those who make
them, a radio channel is busy with them for most of the time."""


@dataclass(frozen=True, slots=True)
class SiteTimes:
    """Seconds that each part of a site's work would take alone, per site, and the terms of the rest."""

    wan: Floats
    lan: Floats
    disk: Floats
    patching: Floats
    terms: Mapping[str, Floats]

    @property
    def local(self) -> Floats:
        """The slowest but for the WAN."""
        return np.maximum(np.maximum(self.lan, self.disk), self.patching)


def site_times(setting: Setting, packs: Packs, pack: Ints, down: Floats, rate: float) -> SiteTimes:
    """What decides how long a site takes that shares; `down` wire bytes over a WAN of `rate`.

    Devices with the pack's base pass its frames on while they come. All others take chunks of the image from
    those that make it (`chunks`): as fast as these can send, and mostly after the last frame.
    """
    devices = setting.devices
    group, lan = setting.group, setting.group.lan
    frames = np.asarray([p.frames for p in packs.packs], float)[pack]
    chosen = np.asarray([-1 if p.base is None else number(devices, p.base) for p in packs.packs])[pack]
    same = devices.total(devices.base == chosen[devices.site])
    sizes = devices.sizes.astype(float)
    alike = np.maximum(np.where(chosen >= 0, same, 0.0) - 1, 0.0)
    others = np.where(chosen >= 0, sizes - same, sizes - 1)
    made = (chosen >= 0) & (others > 0)
    riders = np.where(made, 0.0, others)
    copies = alike * frames + riders * packs.size
    lan_rate = lan.rate * (1.0 - lan.loss)
    piece = np.asarray([piece_bytes(p) for p in packs.packs])[pack]
    largest = np.where(riders > 0, float(packs.size), np.where(alike > 0, frames, 0.0))
    if lan.kind is LanKind.WIFI:
        spread, hop = (down + 2 * copies) / lan_rate, 2 * piece / lan_rate
        served = spread + 2 * others * packs.size / lan_rate
    else:
        spread, hop = np.maximum(largest, copies / sizes) / lan_rate, piece / lan_rate
        served = np.maximum(1.0, others / np.maximum(same, 1.0)) * packs.size / lan_rate
    disk, patching = device_times(setting, packs, pack[devices.site])
    wan = down / rate if rate > 0 else np.full(devices.sites, np.inf)
    disk_site, patch_site = devices.most(disk), devices.most(patching)
    hidden = np.maximum(RADIO_OVERLAP * wan, spread) if lan.kind is LanKind.WIFI else OVERLAP * wan
    after = np.maximum(served, disk_site) - hidden
    chunks = np.where(made, np.maximum(after, 0.0), 0.0)
    ranked = np.sort(np.stack([wan, spread, disk_site, patch_site]), axis=0)
    delay = group.wan.delay_s if group.wan is not None else 0.0
    asked = asking.begun(setting) / rate if rate > 0 else np.full(devices.sites, np.inf)
    if not setting.polling.at_rest:
        asked = np.maximum(asked - setting.policy.settle_s, 0.0)
    terms = {
        "second": ranked[-2],
        "asked": asked,
        "constant": np.ones(devices.sites),
        "fresh": np.full(devices.sites, 0.0 if setting.polling.at_rest else setting.policy.settle_s),
        "delay": np.full(devices.sites, 2 * delay),
        "pieces": np.ceil(np.log2(np.maximum(sizes, 1))) * hop,
        "patching": devices.most(last_patch(setting, packs, pack[devices.site])),
        "devices": np.where(others > 0, sizes, 0.0),
        "chunks": chunks,
    }
    return SiteTimes(wan, spread, disk_site, patch_site, terms)


def piece_bytes(pack: Pack) -> float:
    """Bytes that peers pass on at once: a patch frame, or a run of chunks of the full pack."""
    if not pack.patched:
        return float(min(pack.frames, PIECE))
    return pack.frames * min(1.0, FRAME_TARGET / pack.patched)


def riding(setting: Setting, packs: Packs, pack: Ints) -> Floats:
    """Seconds that a device takes to get everything from peers that are done, alone; `pack` per device."""
    devices, lan = setting.devices, setting.group.lan
    base = np.asarray([-1 if p.base is None else number(devices, p.base) for p in packs.packs])[pack]
    frames = np.asarray([p.frames for p in packs.packs], float)[pack]
    size = np.where(devices.base == base, frames, float(packs.size))
    rate = lan.rate * (1.0 - lan.loss) / (2 if lan.kind is LanKind.WIFI else 1)
    disk, patching = device_times(setting, packs, pack)
    return np.asarray(np.maximum(np.maximum(size / rate, disk), patching))


def reading(setting: Setting, packs: Packs) -> Floats:
    """Seconds of reading the image back, per device."""
    return setting.devices.per_class([packs.size / c.storage.read_rate for c in setting.devices.classes])


def installing(setting: Setting, packs: Packs) -> Floats:
    """Seconds of reading back and of restarting, per device."""
    reboot = setting.devices.per_class([c.reboot_s for c in setting.devices.classes])
    return reading(setting, packs) + reboot


def latency(setting: Setting) -> float:
    """Seconds from asking to the first fetch, and from the last byte to the end, whatever is fetched."""
    time, wan = setting.parameters.time, setting.group.wan
    settle = 0.0 if setting.polling.at_rest else setting.policy.settle_s
    delay = 2 * wan.delay_s if wan is not None else 0.0
    return time["constant"] + time["fresh"] * settle + time["delay"] * delay


def device_times(setting: Setting, packs: Packs, pack: Ints) -> tuple[Floats, Floats]:
    """Seconds of writing the image and of patching it, per device; `pack` per device."""
    devices = setting.devices
    disk = devices.per_class([packs.size / c.storage.write_rate for c in devices.classes])
    patched = np.asarray([p.patched for p in packs.packs], float)[pack]
    return disk, patched / devices.per_class([c.patch_rate for c in devices.classes])


def last_patch(setting: Setting, packs: Packs, pack: Ints) -> Floats:
    """Seconds of applying the last patch frame, per device; `pack` per device."""
    patched = np.asarray([min(p.patched, FRAME_TARGET) for p in packs.packs], float)[pack]
    return np.asarray(patched / setting.devices.per_class([c.patch_rate for c in setting.devices.classes]))


def number(devices: Devices, base: str) -> int:
    """Which of the bases of `devices` this is; -2 for none of them."""
    return devices.bases.index(base) if base in devices.bases else -2
