"""Who needs chunks of the image waits for those that make it; who takes frames does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.fleet.packs import Pack
from sim.fleet.times import FRAME_TARGET, OVERLAP, PIECE, RADIO_OVERLAP, SiteTimes, piece_bytes, site_times
from sim.scenario.model import Lan, LanKind, SiteSize, Wan
from tests.unit.fleet.fleets import MB, PACKS, fleet, spread

LAN = 10e6


def times(
    devices: int, of_cheapest: float, *, kind: LanKind = LanKind.SWITCHED, wan: float = 4e9
) -> SiteTimes:
    """Of one site on a thin LAN; `of_cheapest` of its devices have the base of the cheapest pack."""
    bases = {"a": of_cheapest, "none": 1 - of_cheapest} if of_cheapest < 1 else {"a": 1.0}
    scenario = fleet(bases=bases, size=SiteSize(low=devices, high=devices), wan=Wan(wan))
    group = replace(scenario.sites[0], lan=Lan(kind, rate=LAN))
    setting, load, _ = spread(replace(scenario, sites=(group,)), shared=True)
    return site_times(setting, PACKS, load.pack, load.work, wan)


def makers(found: SiteTimes, devices: int) -> int:
    """How many devices share out the image, from how long it takes a switched LAN."""
    return round(devices / (1 + float(found.terms["chunks"][0]) * LAN / (100 * MB)))


def test_devices_of_one_base_need_no_chunks() -> None:
    assert times(30, 1.0).terms["chunks"] == pytest.approx([0.0])
    assert times(30, 1.0).lan == pytest.approx([4 * MB / LAN], rel=0.2)


def test_a_few_makers_serve_all_others_one_after_the_other() -> None:
    few, many = times(200, 0.1), times(200, 0.9)
    assert makers(few, 200) == pytest.approx(20, abs=10)
    assert many.terms["chunks"] == pytest.approx([100 * MB / LAN], rel=0.01), "as fast as one can take it"
    assert few.terms["chunks"][0] > 3 * many.terms["chunks"][0]


def test_on_a_radio_channel_every_copy_crosses_it_twice() -> None:
    found = times(200, 0.9, kind=LanKind.WIFI)
    copies = float(found.terms["chunks"][0]) * LAN / (2 * 100 * MB)
    assert copies == pytest.approx(20, abs=10)
    # So do the frames for those alike, and what comes over the WAN crosses it once.
    assert found.lan == pytest.approx([(2 * (199 - copies) + 1) * 4 * MB / LAN], rel=0.01)


def test_while_a_radio_channel_is_busy_with_frames_it_carries_no_chunks() -> None:
    fast, slow = (times(200, 0.9, kind=LanKind.WIFI, wan=w) for w in (4e9, 2e4))
    assert float(slow.lan[0]) < RADIO_OVERLAP * float(slow.wan[0])
    saved = float(fast.terms["chunks"][0] - slow.terms["chunks"][0])
    assert saved == pytest.approx(RADIO_OVERLAP * float(slow.wan[0]) - float(fast.lan[0]), rel=0.01)


def test_a_piece_is_a_patch_frame_or_a_run_of_chunks() -> None:
    assert piece_bytes(Pack(None, 0, 50 * MB, 0)) == PIECE
    assert piece_bytes(Pack("a", 0, 4 * MB, 8 * FRAME_TARGET)) == 4 * MB / 8
    assert piece_bytes(Pack("a", 0, 4 * MB, FRAME_TARGET // 2)) == 4 * MB


def test_what_crosses_the_lan_while_the_wan_is_busy_is_not_waited_for() -> None:
    fast, slow = times(200, 0.9), times(200, 0.9, wan=4e5)
    saved = float(fast.terms["chunks"][0] - slow.terms["chunks"][0])
    assert saved == pytest.approx(OVERLAP * float(slow.wan[0]), rel=0.01)
    assert times(200, 0.9, wan=4e3).terms["chunks"] == pytest.approx([0.0])
