"""The files of images that a carrier keeps for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.agent.hold import Hold
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import ObjectRef, PackRef, PayloadSpec
from p2p.errors import SlotError
from p2p.trust.cargo import Cargo, Parcel

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


def make_whole(hold: Hold, data: bytes) -> Digest:
    image = sha256(data)
    writer = hold.writer(image, len(data))
    writer.write(0, data)
    assert writer.digest() == image
    writer.seal()
    return image


def made_from(*bases: Digest) -> Cargo:
    """A release of a few bytes, with a delta from each of these, the first the smallest."""

    def ref(what: str, size: int) -> ObjectRef:
        return ObjectRef(sha256(what.encode()), size)

    full = PackRef(None, ref("index", 10), ref("frames", 1000))
    deltas = [PackRef(b, ref(f"index {n}", 10), ref(f"frames {n}", 10 + n)) for n, b in enumerate(bases)]
    payload = PayloadSpec("rootfs", "rootfs-image", ref("newer", 1000), (full, *deltas))
    return Cargo((Parcel("pump", "2.0", payload),))


def test_a_newer_image_is_made_from_the_older_one_of_the_smallest_delta(hold: Hold) -> None:
    first, second = make_whole(hold, DATA), make_whole(hold, DATA[::-1])
    absent = sha256(b"not here")
    cargo = made_from(absent, first, second)
    assert hold.bases_for(cargo, 1 << 20) == {cargo.parcels[0].image: first}


def test_an_older_image_stays_only_where_the_quota_has_room_beside_the_cargo(hold: Hold) -> None:
    older = make_whole(hold, DATA)
    cargo = made_from(older)
    size = hold.taken(older) + cargo.parcels[0].size
    assert hold.bases_for(cargo, size) == {cargo.parcels[0].image: older}
    assert hold.bases_for(cargo, size - 1) == {}


def test_an_older_image_that_cannot_be_looked_at_is_none(
    hold: Hold, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not keep the newer one at home."""
    older = make_whole(hold, DATA)

    def fails(self: Hold, image: Digest) -> bool:
        raise SlotError("carried image: cannot read it: Input/output error")

    monkeypatch.setattr(Hold, "is_whole", fails)
    assert hold.bases_for(made_from(older), 1 << 20) == {}
    assert "Input/output error" in caplog.text
