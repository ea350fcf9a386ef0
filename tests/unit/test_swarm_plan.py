"""The site plan: agreement, stability and cost, as properties."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.digests import Digest, sha256
from p2p.content.manifest import ObjectRef, PackRef
from p2p.swarm.plan import (
    Participant,
    SitePlan,
    gateway_count,
    make_plan,
    rank,
    stripe_key,
    uplink_prices,
)

BASES = [sha256(bytes([n])) for n in range(4)]
KEYS = [stripe_key(sha256(b"image"), n) for n in range(4000)]


def pack(base: Digest | None, size: int, index_size: int = 100) -> PackRef:
    name = sha256(b"%r %d" % (base, size))
    return PackRef(base, ObjectRef(name, index_size), ObjectRef(sha256(name), size))


PACKS = (pack(None, 1000), pack(BASES[0], 300), pack(BASES[1], 200), pack(BASES[2], 250))

participants = st.lists(
    st.builds(
        Participant,
        st.sampled_from([f"d{n}" for n in range(12)]),
        st.none() | st.sampled_from(BASES),
        st.booleans(),
        st.integers(0, 1000),
        st.just(False),
    ),
    max_size=10,
    unique_by=lambda p: p.device,
)
weights = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.integers(1, 1000), min_size=2, max_size=8
)


@given(participants, st.randoms(use_true_random=False))
def test_the_order_of_hearing_does_not_matter(members: list[Participant], rng: random.Random) -> None:
    plan = make_plan(PACKS, members, {})
    shuffled, packs = list(members), list(PACKS)
    rng.shuffle(shuffled)
    rng.shuffle(packs)
    assert make_plan(packs, shuffled, {}) == plan


@given(participants)
def test_the_pack_is_the_cheapest_that_somebody_online_can_use(members: list[Participant]) -> None:
    plan = make_plan(PACKS, members, {})
    online = [p for p in members if p.wan]
    willing = [p for p in online if p.weight] or online
    usable = [x for x in PACKS if any(x.base in (None, p.base) for p in willing)]
    if not willing:
        assert plan == SitePlan(None)
        return
    assert plan.pack is not None
    assert plan.pack.wan_bytes == min(x.wan_bytes for x in usable)
    able = sorted(p.device for p in willing if plan.pack.base in (None, p.base))
    assert list(plan.candidates) == able


@given(participants, st.integers(0, 9))
def test_who_is_complete_spares_the_wan(members: list[Participant], n: int) -> None:
    done = Participant(f"d{n % 12}", None, False, 0, complete=True)
    others = [p for p in members if p.device != done.device]
    assert make_plan(PACKS, [*others, done], {}) == SitePlan(None)


def test_what_the_site_holds_is_not_paid_again() -> None:
    members = [Participant("a", BASES[0], True), Participant("b", BASES[1], True)]
    assert make_plan(PACKS, members, {}).pack == PACKS[2]
    held = {PACKS[1].index.sha256: 201}
    assert make_plan(PACKS, members, held).pack == PACKS[1]
    assert make_plan(PACKS, members, {PACKS[1].index.sha256: 99}).pack == PACKS[2]


def test_weight_0_is_the_last_resort() -> None:
    idle, keen = Participant("idle", None, True, 0), Participant("keen", None, True, 1)
    assert make_plan(PACKS, [idle, keen], {}).candidates == ("keen",)
    assert make_plan(PACKS, [idle], {}).candidates == ("idle",)
    assert make_plan(PACKS, [Participant("off", None, False, 1)], {}) == SitePlan(None)


@given(weights, st.binary(max_size=40))
def test_rank_orders_all_and_removing_one_keeps_the_rest(found: dict[str, int], key: bytes) -> None:
    order = rank(key, found)
    assert sorted(order) == sorted(found)
    gone = order[0]
    assert rank(key, {d: w for d, w in found.items() if d != gone}) == order[1:]


def test_removing_a_device_moves_only_its_stripes() -> None:
    before = dict.fromkeys(("a", "b", "c", "d"), 100)
    after = {d: w for d, w in before.items() if d != "b"}
    owners = [(rank(key, before)[0], rank(key, after)[0]) for key in KEYS]
    assert all(new == old for old, new in owners if old != "b")
    assert Counter(new for old, new in owners if old == "b").keys() == {"a", "c", "d"}


@pytest.mark.parametrize("found", [{"a": 100, "b": 100}, {"a": 100, "b": 300, "c": 600}, {"a": 1, "b": 9}])
def test_weights_are_shares(found: dict[str, int]) -> None:
    firsts = Counter(rank(key, found)[0] for key in KEYS)
    total = sum(found.values())
    for device, weight in found.items():
        assert firsts[device] / len(KEYS) == pytest.approx(weight / total, abs=0.03)


def test_how_many_gateways() -> None:
    assert [gateway_count(n, 3) for n in (0, 1, 3, 4, 12, 13, 1000)] == [1, 1, 1, 2, 2, 3, 3]
    assert [gateway_count(1000, most) for most in (0, 1, 2)] == [1, 1, 2]


def priced(*prices: int | None) -> list[Participant]:
    return [Participant(f"d{n}", BASES[0], True, price=price) for n, price in enumerate(prices)]


def test_prices_are_beside_the_cheapest_and_who_says_none_is_as_dear_as_the_dearest() -> None:
    assert uplink_prices(priced(None, None)) == {}
    assert uplink_prices(priced(200, 1000, None)) == {"d0": 1.0, "d1": 5.0, "d2": 5.0}
    assert uplink_prices(priced(0, 3)) == {"d0": 1.0, "d1": 3.0}  # what is free costs a millionth
    assert uplink_prices(priced(0)) == {"d0": 1.0}


def test_a_larger_pack_over_a_cheaper_uplink_is_the_cheaper() -> None:
    """300 bytes for one, 250 for the other."""
    one, other = Participant("a", BASES[0], True, price=10), Participant("b", BASES[2], True, price=13)
    assert make_plan(PACKS, [one, other], {}).pack == PACKS[1]
    assert make_plan(PACKS, [one, replace(other, price=11)], {}).pack == PACKS[3]


def test_a_price_of_who_has_no_wan_is_nobodys() -> None:
    one, other = Participant("a", BASES[0], True, price=10), Participant("b", BASES[2], False, price=1)
    assert make_plan(PACKS, [one, other], {}) == SitePlan(PACKS[1], ("a",))
