"""A site's quota of a month: what each device may use, what liars achieve, what a restart keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content import limits
from p2p.swarm.site_quota import RESERVED, RESERVED_CROWD, SiteQuota

MOST = 1_000_000
MONTH = 202611


def site(*names: str, most: int = MOST) -> dict[str, SiteQuota]:
    """Devices that have met."""
    found = {name: SiteQuota(most, name) for name in names}
    for name, quota in found.items():
        quota.used(MONTH, 0)
        for other in names:
            if other != name:
                quota.heard(other, 0, met=True)
    return found


def tell_all(devices: dict[str, SiteQuota]) -> None:
    for name, quota in devices.items():
        for other in devices.values():
            other.heard(name, quota.own, met=True)


def test_who_is_alone_may_use_all_of_it() -> None:
    assert SiteQuota(MOST, "d1").share == MOST


def test_what_others_have_used_beyond_their_part_is_missing_here() -> None:
    devices = site("d1", "d2", "d3", "d4")
    part = MOST // (RESERVED * 4)
    assert devices["d1"].share == MOST - 3 * part
    devices["d2"].used(MONTH, part)
    tell_all(devices)
    assert devices["d1"].share == MOST - 3 * part
    devices["d2"].used(MONTH, part + 1000)
    tell_all(devices)
    assert devices["d1"].share == MOST - 3 * part - 1000
    assert devices["d2"].share == MOST - 3 * part


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, MOST // 3)), max_size=40))
def test_who_keeps_to_its_share_keeps_its_site_to_the_quota(steps: list[tuple[int, int]]) -> None:
    """Whoever uses how much when, as long as all have heard what was used before."""
    devices = site(*(f"d{n}" for n in range(5)))
    for number, size in steps:
        mine = devices[f"d{number}"]
        mine.used(MONTH, min(mine.share, mine.own + size))
        tell_all(devices)
    assert sum(quota.own for quota in devices.values()) <= MOST
    for quota in devices.values():
        quota.used(MONTH, quota.share)
        tell_all(devices)
    assert (
        MOST - 5 <= sum(quota.own for quota in devices.values()) <= MOST
    )  # and nothing is lost, but for rounding


def test_in_a_crowd_less_is_taken_for_granted() -> None:
    devices = site(*(f"d{n}" for n in range(24)))
    assert devices["d0"].share == MOST - 23 * (MOST // (RESERVED_CROWD * 24))


def test_a_liar_takes_the_common_part_and_nobodys_own() -> None:
    devices = site("d1", "d2", "liar")
    for device in ("d1", "d2"):
        devices[device].heard("liar", 1 << 60, met=True)
        for n in range(2000):
            devices[device].heard(f"invented{n}", 1 << 60, met=False)
        assert devices[device].share == MOST // (RESERVED * 3)
        assert len(devices[device].entries()) <= 2 * limits.UPLINKS_MAX


def test_who_is_only_told_of_makes_room_for_whoever_says_so_itself() -> None:
    quota = SiteQuota(MOST, "d1")
    quota.used(MONTH, 1)
    for n in range(2 * limits.UPLINKS_MAX):
        quota.heard(f"invented{n}", 7, met=False)
    assert not quota.heard("told", 9, met=False)
    assert quota.heard("real", 9, met=True)
    assert ("real", 9, True) in quota.entries()


def test_nobody_is_told_what_it_has_used_itself() -> None:
    quota = SiteQuota(MOST, "d1")
    quota.used(MONTH, 5)
    assert not quota.heard("d1", 1 << 60, met=False)
    assert quota.own == 5


def test_sums_only_grow_and_the_order_of_hearing_does_not_matter() -> None:
    quota = SiteQuota(MOST, "d1")
    quota.used(MONTH, 0)
    assert quota.heard("d2", 500_000, met=True)
    assert not quota.heard("d2", 400_000, met=False)
    assert quota.site == 500_000


def test_a_month_begins_at_nothing_for_all_and_never_goes_back() -> None:
    quota = SiteQuota(MOST, "d1")
    quota.used(MONTH, 10)
    quota.heard("d2", 900_000, met=True)
    quota.used(MONTH + 1, 20)
    assert (quota.month, quota.site, quota.share) == (MONTH + 1, 20, MOST - MOST // 8)
    quota.used(MONTH, 30)  # the clock was set back
    assert (quota.month, quota.own) == (MONTH + 1, 30)


def test_a_restart_knows_what_was_heard_in_the_month_and_whom_it_met() -> None:
    quota = SiteQuota(MOST, "d1")
    quota.used(MONTH, 10)
    quota.heard("d2", 800_000, met=True)
    quota.heard("d3", 100_000, met=False)
    again = SiteQuota(MOST, "d1")
    again.restore(quota.month, quota.entries())
    again.used(MONTH, 10)
    assert (again.share, again.site) == (quota.share, quota.site)
    later = SiteQuota(MOST, "d1")
    later.restore(quota.month, quota.entries())
    later.used(MONTH + 1, 0)
    assert later.site == 0
    assert later.share == MOST - MOST // 8  # one other device that it has met


def test_what_a_revoked_device_said_counts_no_more() -> None:
    quota = SiteQuota(MOST, "d1")
    quota.used(MONTH, 10)
    quota.heard("liar", 1 << 60, met=True)
    quota.forget(frozenset({"liar"}))
    assert quota.share == MOST


@pytest.mark.parametrize("most", [1, 2, 3, 255])
def test_quotas_of_a_few_bytes_are_kept_too(most: int) -> None:
    devices = site("d1", "d2", most=most)
    assert all(0 <= quota.share <= most for quota in devices.values())
    assert devices["d1"].step == 1
