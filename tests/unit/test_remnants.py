"""`Remnants`: what is kept of frames that did not come whole, and what is given up."""

from __future__ import annotations

from p2p.content.digests import Digest
from p2p.content.intervals import IntervalSet
from p2p.swarm.remnants import REMNANTS_MAX, Remnants
from tests.support.small_image import DELTA, DELTA_PACK, FULL, FULL_PACK

FULL_NAME, DELTA_NAME = FULL_PACK.index.sha256, DELTA_PACK.index.sha256


def kept(size: int = 10, *, pack: Digest = FULL_NAME, frame: int = 0) -> Remnants[bytes]:
    remnants = Remnants[bytes]()
    index = FULL if pack == FULL_NAME else DELTA
    assert remnants.keep(pack, index.frames[frame], bytes(size)) == 0
    return remnants


def test_it_is_taken_once_by_the_frame_that_it_is_of() -> None:
    remnants = kept(10)
    assert remnants.take(FULL_NAME, 1) is None
    assert remnants.take(DELTA_NAME, 0) is None
    assert remnants.take(FULL_NAME, 0) == bytes(10)
    assert remnants.take(FULL_NAME, 0) is None
    assert remnants.close() == 0, "what was taken is the taker's"


def test_nothing_is_no_remnant() -> None:
    assert not kept(0)


def test_a_longer_one_takes_the_place_of_the_same_frames() -> None:
    remnants = kept(10)
    assert remnants.keep(FULL_NAME, FULL.frames[0], bytes(30)) == 10
    assert remnants.take(FULL_NAME, 0) == bytes(30)


def test_the_oldest_gives_way() -> None:
    remnants = kept(10)
    assert remnants.keep(FULL_NAME, FULL.frames[1], bytes(20)) == 0
    assert len(remnants) == REMNANTS_MAX
    assert remnants.keep(DELTA_NAME, DELTA.frames[0], bytes(3)) == 10
    assert len(remnants) == REMNANTS_MAX
    assert remnants.take(FULL_NAME, 0) is None


def test_it_is_given_up_when_its_whole_range_was_made_otherwise() -> None:
    remnants, frame = kept(10), FULL.frames[0]
    stop = frame.target_offset + frame.target_length
    assert remnants.settle(IntervalSet([(frame.target_offset, stop - 1)]).covers) == 0
    assert len(remnants) == 1
    assert remnants.settle(IntervalSet([(frame.target_offset, stop)]).covers) == 10
    assert not remnants


def test_after_the_end_nothing_is_kept() -> None:
    remnants = kept(10)
    assert remnants.close() == 10
    assert remnants.keep(FULL_NAME, FULL.frames[0], bytes(7)) == 7
    assert not remnants
