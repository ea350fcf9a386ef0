"""The files of images that a carrier keeps for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.agent.hold import Hold
from p2p.content.digests import sha256
from p2p.errors import SlotError

DATA = bytes(range(256)) * 64
IMAGE = sha256(DATA)
HALF = len(DATA) // 2


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "images")


def test_what_was_verified_is_gone_on_from_after_a_cut(hold: Hold, tmp_path: Path) -> None:
    writer = hold.writer(IMAGE, len(DATA))
    writer.write(0, DATA[:HALF])
    writer.checkpoint()
    writer.write(HALF, DATA[HALF:])  # of which nobody says that it is on the medium
    again = Hold(tmp_path / "images")
    assert again.names() == [IMAGE]
    assert not again.is_whole(IMAGE)
    resumed = again.writer(IMAGE, len(DATA))
    assert list(resumed.done) == [(0, HALF)]
    resumed.write(HALF, DATA[HALF:])
    assert resumed.digest() == IMAGE
    resumed.seal()
    last = Hold(tmp_path / "images")
    assert last.is_whole(IMAGE)
    assert last.reader(IMAGE).read(0, len(DATA)) == DATA


def test_what_is_damaged_is_not_whole_and_the_rest_of_it_stays(hold: Hold, tmp_path: Path) -> None:
    writer = hold.writer(IMAGE, len(DATA))
    writer.write(0, DATA)
    assert writer.digest() == IMAGE
    writer.seal()
    hold.mend(IMAGE, len(DATA), [(0, HALF), (HALF + 100, len(DATA))])
    again = Hold(tmp_path / "images")
    assert not again.is_whole(IMAGE)
    resumed = again.writer(IMAGE, len(DATA))
    assert list(resumed.done) == [(0, HALF), (HALF + 100, len(DATA))]
    resumed.write(HALF, DATA[HALF : HALF + 100])
    assert resumed.digest() == IMAGE


def test_a_range_outside_of_the_image_is_not_there(hold: Hold) -> None:
    with pytest.raises(SlotError):
        hold.mend(IMAGE, len(DATA), [(0, len(DATA) + 1)])


def test_what_is_not_whole_is_never_read_as_an_image(hold: Hold) -> None:
    writer = hold.writer(IMAGE, len(DATA))
    writer.write(0, DATA[:-1] + b"?")
    assert writer.digest() != IMAGE
    with pytest.raises(SlotError):
        writer.seal()
    with pytest.raises(SlotError):
        hold.reader(IMAGE)


def test_what_is_dropped_leaves_nothing(hold: Hold, tmp_path: Path) -> None:
    hold.writer(IMAGE, len(DATA)).close()
    hold.drop(IMAGE)
    hold.drop(IMAGE)
    assert hold.names() == []
    assert list((tmp_path / "images").iterdir()) == []


def test_what_others_put_there_is_not_taken_for_an_image(hold: Hold, tmp_path: Path) -> None:
    assert hold.names() == []
    (tmp_path / "images" / "lost+found").mkdir(parents=True)
    (tmp_path / "images" / IMAGE.hex().upper()).mkdir()
    assert hold.names() == []
