"""What of a pack need not cross the WAN any more, for a site and for a device that is on its own."""

from __future__ import annotations

from p2p.content.intervals import IntervalSet
from p2p.content.pieces import PieceMap
from p2p.swarm.holders import Holders
from p2p.swarm.peer import RemoteImage
from p2p.swarm.stock import stock
from p2p.swarm.wanted import Wanted
from tests.support.small_image import CHUNK, DELTA, DELTA_PACK, FULL, FULL_PACK, TASK
from tests.support.swarm_context import make_context

FULL_NAME, DELTA_NAME = FULL_PACK.index.sha256, DELTA_PACK.index.sha256
MAPS = {FULL_NAME: PieceMap(FULL), DELTA_NAME: PieceMap(DELTA)}
PACKS = (FULL_PACK, DELTA_PACK)
OF_FULL = [f.stored_size for f in FULL.frames]
"""Of chunks 0 to 2, and of chunk 3."""
OF_DELTA = [f.stored_size for f in DELTA.frames]
"""Of chunk 0, and of chunk 2."""


def _said(marks: bytes, total: int | None = None) -> RemoteImage:
    return RemoteImage(haves={FULL_NAME: bytearray(marks)}, totals={FULL_NAME: total or len(marks)})


def _wanted(done: list[tuple[int, int]], repair: list[tuple[int, int]]) -> Wanted:
    ranges = {"done": IntervalSet(done), "repair": IntervalSet(repair)}
    return Wanted(make_context(), TASK, maps=MAPS, holders=Holders(MAPS), **ranges)


def test_a_frame_that_lacks_a_chunk_has_to_cross_whole() -> None:
    have = stock(PACKS, MAPS, {FULL_NAME: {0, 1, 3}, DELTA_NAME: {1}}, ())
    assert have[FULL_NAME] == FULL_PACK.index.size + OF_FULL[1]
    assert have[DELTA_NAME] == DELTA_PACK.index.size + OF_DELTA[1]


def test_the_node_that_has_most_whole_frames_tells_how_far_the_site_is() -> None:
    scattered, whole = _said(b"\1\1\0\0"), _said(b"\0\0\0\1")
    assert stock(PACKS, MAPS, {}, (scattered,))[FULL_NAME] == FULL_PACK.index.size
    assert stock(PACKS, MAPS, {}, (scattered, whole))[FULL_NAME] == FULL_PACK.index.size + OF_FULL[1]
    assert stock(PACKS, MAPS, {FULL_NAME: {0, 1, 2, 3}}, (whole,))[FULL_NAME] == FULL_PACK.wan_bytes


def test_of_a_pack_whose_index_is_not_here_pieces_count() -> None:
    said = RemoteImage(claims={FULL_NAME: bytearray(b"\xc0")}, totals={FULL_NAME: 4})
    assert stock(PACKS, {}, {}, (said,)) == {FULL_NAME: FULL_PACK.index.size + FULL_PACK.frames.size // 2}
    assert stock(PACKS, {}, {}, ()) == {}


def test_on_its_own_a_device_counts_what_it_lacks_along_each_way() -> None:
    wanted = _wanted(done=[(CHUNK, 3 * CHUNK)], repair=[])
    assert wanted.left_alone(FULL_NAME) == sum(OF_FULL)
    assert wanted.left_alone(DELTA_NAME) == OF_DELTA[0]


def test_what_mends_the_base_is_part_of_each_way() -> None:
    wanted = _wanted(done=[(CHUNK, 2 * CHUNK), (3 * CHUNK, 5 * CHUNK)], repair=[(0, CHUNK)])
    assert wanted.left_alone(FULL_NAME) == OF_FULL[0]
    assert wanted.left_alone(DELTA_NAME) == OF_DELTA[1] + OF_FULL[0]


def test_what_is_fetched_to_mend_the_base_says_nothing_of_the_way() -> None:
    wanted = _wanted(done=[], repair=[(0, CHUNK)])
    wanted.follow(DELTA_NAME)
    wanted.fetching[FULL_NAME, 0] = 1
    assert wanted.fetched_pack is None
    wanted.fetching[DELTA_NAME, 1] = 2
    assert wanted.fetched_pack == DELTA_NAME
    whole = _wanted(done=[], repair=[])
    whole.fetching[FULL_NAME, 0] = 1
    assert whole.fetched_pack == FULL_NAME
