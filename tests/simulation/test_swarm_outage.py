"""Sites whose WAN carries nothing for a while, without anybody being told so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.content.limits import MIB
from sim.checks.checked import run_checked
from sim.scenario.model import (
    NO_BASE,
    DeviceClass,
    Fault,
    FaultKind,
    Order,
    Outage,
    Polling,
    Scenario,
    SiteGroup,
    SiteSize,
    SyntheticRelease,
    Wan,
)
from sim.world import run


def outage_site(devices: int, *, image: int, wan: float, at_s: float, length_s: float) -> Scenario:
    """Devices at rest, without a base, behind a link of `wan` bytes per second with one outage."""
    link = Wan(wan, delay_s=0.05, outages=(Outage(at_s, length_s),))
    return Scenario(
        name="outage",
        description="A site with a silent outage.",
        duration_s=3 * 3600.0,
        releases=(SyntheticRelease("new", image, image),),
        classes=(DeviceClass("device", {NO_BASE: 1.0}, reboot_s=20.0),),
        sites=(SiteGroup("site", 1, SiteSize(low=devices, high=devices), {"device": 1.0}, wan=link),),
        orders=(Order("new"),),
        polling=Polling(every_s=3600.0, at_rest=True),
    )


@pytest.mark.parametrize("seed", [1, 3])
@pytest.mark.parametrize("length_s", [60.0, 240.0])
def test_after_a_silent_outage_one_copy_is_fetched(length_s: float, seed: int) -> None:
    """Nobody is to blame for it, and whoever had the beginning of a frame goes on with it."""
    scenario = outage_site(6, image=4 * MIB, wan=64e3, at_s=20.0, length_s=length_s)
    outcome = run_checked(scenario, seed=seed)
    assert not outcome.violations
    (site,) = outcome.sites
    assert site.finished == 6
    assert sum(device.frames_wan for device in outcome.devices) < 1.002 * 4 * MIB
    assert site.finished_s is not None and site.finished_s < 20 + length_s + 1.5 * 4 * MIB / 64e3


def test_one_device_alone_pays_for_each_byte_once_whatever_breaks() -> None:
    """A frame takes 16 s and the link is cut every 5: each fetch goes on where the last one stopped."""
    site = outage_site(1, image=4 * MIB, wan=64e3, at_s=4000.0, length_s=1.0)
    outcome = run_checked(
        replace(site, faults=(Fault(FaultKind.CUT, 5.0, every_s=5.0, until_s=60.0),)), seed=1
    )
    assert not outcome.violations
    (device,) = outcome.devices
    assert (device.state, device.frames_wan, device.wasted) == ("committed", 4 * MIB, 0)


def test_an_outage_from_the_start_is_waited_for() -> None:
    scenario = outage_site(6, image=2 * MIB, wan=64e3, at_s=0.0, length_s=300.0)
    (site,) = run(replace(scenario, polling=Polling(every_s=60.0)), seed=2).sites
    assert site.finished == 6
    assert site.amplification is not None and site.amplification < 1.1
