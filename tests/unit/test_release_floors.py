"""The downgrade floor: two copies, the highest valid counts, damage is mended or refused."""

from __future__ import annotations

import pytest

from p2p.errors import ContentError, StoreError, TrustError
from p2p.trust import ReleaseFloors
from tests.support.tuf_repository import MemoryStore

NAME = "floor-p"


class Unreadable(MemoryStore):
    """A store on a medium that has a bad sector."""

    def read(self, name: str) -> bytes | None:
        raise StoreError("EIO")


def floors() -> tuple[ReleaseFloors, MemoryStore, MemoryStore]:
    first, second = MemoryStore(), MemoryStore()
    return ReleaseFloors(first, second), first, second


def test_a_device_that_never_committed_has_no_floor() -> None:
    kept, first, second = floors()
    assert kept.get("p") == 0
    assert first.values == second.values == {}


def test_it_rises_and_never_falls() -> None:
    kept, first, second = floors()
    kept.raise_to("p", 7)
    kept.raise_to("p", 5)
    assert kept.get("p") == 7
    assert first.values == second.values
    assert ReleaseFloors(first, second).get("p") == 7
    assert kept.get("q") == 0


def damage(value: bytes, how: str) -> bytes:
    return {
        "zeroed": bytes(len(value)),
        "empty": b"",
        "torn": value[: len(value) // 2],
        "flipped": value.replace(b'"counter":7', b'"counter":6'),
        "other product": value.replace(b'"product":"p"', b'"product":"q"'),
    }[how]


@pytest.mark.parametrize("how", ["zeroed", "empty", "torn", "flipped", "other product"])
def test_one_damaged_copy_is_mended_two_are_refused(how: str) -> None:
    kept, first, second = floors()
    kept.raise_to("p", 7)
    good = first.values[NAME]
    for store in (first, second):
        store.values[NAME] = damage(good, how)
        assert store.values[NAME] != good
        assert kept.get("p") == 7
        assert store.values[NAME] == good
    first.values[NAME] = second.values[NAME] = damage(good, how)
    with pytest.raises(TrustError) as caught:
        kept.get("p")
    assert caught.value.reason == "floor-damaged"
    assert caught.value.next_step
    with pytest.raises(TrustError):
        kept.raise_to("p", 9)
    kept.restore("p", 6)
    assert kept.get("p") == 6


def test_a_copy_that_is_behind_is_brought_up() -> None:
    kept, first, second = floors()
    kept.raise_to("p", 3)
    old = dict(first.values)
    kept.raise_to("p", 7)
    second.values = old
    assert kept.get("p") == 7
    assert first.values == second.values


def test_a_lost_copy_is_made_again_but_lost_beside_damaged_is_refused() -> None:
    kept, first, second = floors()
    kept.raise_to("p", 7)
    del first.values[NAME]
    assert kept.get("p") == 7
    assert NAME in first.values
    del first.values[NAME]
    second.values[NAME] = b"x"
    with pytest.raises(TrustError) as caught:
        kept.get("p")
    assert caught.value.reason == "floor-damaged"


def test_restoring_never_goes_below_a_valid_copy() -> None:
    kept, first, second = floors()
    kept.raise_to("p", 7)
    second.values[NAME] = b"x"
    kept.restore("p", 2)
    assert kept.get("p") == 7
    assert first.values == second.values


def test_an_unreadable_copy_counts_as_damaged() -> None:
    _, good, _ = floors()
    ReleaseFloors(good, MemoryStore()).raise_to("p", 7)
    assert ReleaseFloors(Unreadable(), good).get("p") == 7
    with pytest.raises(TrustError) as caught:
        ReleaseFloors(Unreadable(), MemoryStore()).get("p")
    assert caught.value.reason == "floor-damaged"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_cut_between_the_copies_leaves_the_old_or_the_new_floor(failing: int) -> None:
    kept, first, second = floors()
    kept.raise_to("p", 3)
    (first, second)[failing].fail_at = 0
    with pytest.raises(StoreError):
        kept.raise_to("p", 7)
    first.fail_at = second.fail_at = None
    assert kept.get("p") == (3 if failing == 0 else 7)
    assert first.values == second.values


def test_a_name_that_is_no_name_is_refused() -> None:
    kept, *_ = floors()
    with pytest.raises(ContentError):
        kept.get("../p")
