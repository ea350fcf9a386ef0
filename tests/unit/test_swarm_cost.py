"""What ways to an image cost, and that each choice between ways goes by it."""

from __future__ import annotations

import math

import pytest

from p2p.content.digests import sha256
from p2p.content.limits import KIB, MIB
from p2p.content.manifest import ObjectRef, PackRef
from p2p.swarm import cost
from p2p.swarm.cost import Effort, Weights
from p2p.swarm.plan import Participant, make_plan

MINE, YOURS = sha256(b"mine"), sha256(b"yours")
IMAGE = 100_000_000


def pack(base: bytes | None, size: int) -> PackRef:
    name = sha256(b"%r %d" % (base, size))
    return PackRef(base, ObjectRef(name, 0), ObjectRef(sha256(name), size))  # type: ignore[arg-type]  # any will do


def site(mine: int, yours: int) -> list[Participant]:
    told = [Participant(f"m{n}", MINE, True) for n in range(mine)]
    return told + [Participant(f"y{n}", YOURS, True) for n in range(yours)]


def test_a_byte_over_the_wan_is_the_unit() -> None:
    weights = Weights(lan_gb=2e9, cpu_hour=3600, energy_kwh=0)
    assert cost.cost(Effort(wan=5, lan=7, cpu_s=11), weights) == pytest.approx(5 + 2 * 7 + 11)


def test_energy_counts_processor_and_radios() -> None:
    weights = Weights(0, 0, energy_kwh=3.6e6)
    assert cost.cost(Effort(wan=0, lan=1e6, cpu_s=2), weights) == pytest.approx(1e6 * cost.RADIO_LAN_J + 2)


def test_a_site_of_500_pays_its_wan_at_most_a_twentieth_more_to_spare_its_network() -> None:
    """100 KiB for one device, as chunks for 499; or a larger delta that all can use."""
    small = pack(MINE, 100 * KIB)
    for over, expected in ((1.05, small), (1.04, None)):
        large = pack(YOURS, int(100 * KIB * over))
        plan = make_plan([pack(None, 40 * MIB), small, large], site(1, 499), {}, IMAGE)
        assert plan.pack == (expected or large)


def test_packs_that_cost_the_wan_the_same_are_told_apart_by_what_the_network_carries() -> None:
    packs = [pack(None, 40 * MIB), pack(MINE, MIB), pack(YOURS, MIB)]
    assert make_plan(packs, site(1, 3), {}, IMAGE).pack == packs[2]
    assert make_plan(packs, site(3, 1), {}, IMAGE).pack == packs[1]


def test_where_the_network_is_thin_a_larger_pack_that_more_can_use_is_the_cheaper() -> None:
    packs = [pack(None, 40 * MIB), pack(MINE, MIB), pack(YOURS, 2 * MIB)]
    members = site(1, 9)
    assert make_plan(packs, members, {}, IMAGE).pack == packs[1]
    assert make_plan(packs, members, {}, IMAGE, Weights(lan_gb=100e6)).pack == packs[2]


def test_a_peers_delta_pays_from_16_kib_on_as_a_rule() -> None:
    assert cost.delta_pays_from(cost.USUAL) == pytest.approx(16 * KIB, rel=0.02)


def test_where_processor_time_is_dear_no_delta_of_a_peer_pays() -> None:
    assert cost.delta_pays_from(Weights(lan_gb=0, cpu_hour=0)) == math.inf
    dear = Weights(cpu_hour=100 * cost.USUAL.cpu_hour)
    assert cost.delta_pays_from(dear) > 1 * MIB


def test_a_base_is_looked_through_unless_processor_time_is_dearer_than_the_network() -> None:
    assert cost.looking_pays(IMAGE, IMAGE, cost.USUAL)
    assert not cost.looking_pays(IMAGE, 1000, Weights(cpu_hour=1e6))
    assert not cost.looking_pays(IMAGE, IMAGE, Weights(lan_gb=0, cpu_hour=1e6))
