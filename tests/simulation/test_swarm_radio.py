"""Sites on one radio channel that carries little more than they need: what is asked follows what arrives."""

from __future__ import annotations

from dataclasses import replace

from p2p.content.limits import KIB, MIB
from p2p.swarm.departure import LONGEST_S
from sim.outcome import RunOutcome, SiteOutcome
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    DeviceClass,
    Lan,
    LanKind,
    Order,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    SyntheticRelease,
    Wan,
)
from sim.world import run


def radio_site(devices: int, *, image: int, radio: float, wan: float) -> Scenario:
    """Devices at rest, without a base, on one channel of `radio` bytes per second."""
    lan = Lan(LanKind.WIFI, rate=radio, delay_s=0.003)
    return Scenario(
        name="radio",
        description="A site on a slow radio channel.",
        duration_s=3600.0,
        releases=(SyntheticRelease("new", image, image),),
        classes=(DeviceClass("device", {NO_BASE: 1.0}, reboot_s=200.0),),
        sites=(SiteGroup("site", 1, SiteSize(low=devices, high=devices), {"device": 1.0}, lan, Wan(wan)),),
        orders=(Order("new"),),
        polling=Polling(every_s=3600.0, at_rest=True),
    )


def two_bases(devices: int, *, image: int, radio: float) -> Scenario:
    """Half of the devices have a base with a tiny delta, and are done long before the others."""
    plain = radio_site(devices, image=image, radio=radio, wan=3e5)
    return replace(
        plain,
        releases=(SyntheticRelease("new", image, image, (DeltaSpec("old", 40 * KIB, 0.1),)),),
        classes=(DeviceClass("device", {"old": 0.5, NO_BASE: 0.5}, reboot_s=15.0),),
    )


def test_a_saturated_radio_channel_carries_each_piece_once_and_the_wan_one_copy() -> None:
    outcome = run(radio_site(10, image=6 * MIB, radio=1.5e6, wan=3e5), seed=1)
    site = _site(outcome)
    assert site.finished == 10
    assert site.amplification is not None and site.amplification < 1.05
    wasted = sum(device.wasted for device in outcome.devices)
    assert wasted < 0.05 * sum(device.from_peers for device in outcome.devices)
    assert _verified_s(outcome) < 1.3 * (2 * 9 * 6 * MIB + 6 * MIB) / 1.5e6


def test_devices_that_start_anew_with_the_image_are_waited_for() -> None:
    """They give chunks for as long as they stay, and the others have not got all by then."""
    outcome = run(two_bases(8, image=10 * MIB, radio=1.4e6), seed=1)
    site = _site(outcome)
    assert site.finished == 8
    rebooted = [d.verified_s + LONGEST_S for d in outcome.devices if d.base == "old" and d.verified_s]
    assert max(rebooted) < _verified_s(outcome)
    assert sum(device.frames_wan for device in outcome.devices) < MIB


def _site(outcome: RunOutcome) -> SiteOutcome:
    (site,) = outcome.sites
    return site


def _verified_s(outcome: RunOutcome) -> float:
    """When the last image was whole; how long they linger for each other's sake is another matter."""
    times = [device.verified_s for device in outcome.devices]
    return max(time for time in times if time is not None)
