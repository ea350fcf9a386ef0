"""Building packs with real child processes, and children that crash, hang or talk nonsense."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from coordinator.publishing.image_file import open_image
from coordinator.publishing.packing import build_pack
from coordinator.publishing.packing_pool import PackingChild, PackingPool
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.index import Codec, Copy, Data, Patch, ViewRange, Zero, decode
from p2p.delta.packing import DataJob, PatchJob
from p2p.delta.rebuild import image_parts
from p2p.errors import LocalError, OperatorError, StoreError

MIB = limits.MIB
RNG = random.Random(9)
OLD = RNG.randbytes(MIB) + bytes(MIB) + b"some text that repeats " * 20_000 + RNG.randbytes(700_000)
NEW = OLD[:300_000] + b"inserted" + OLD[300_000 : 3 * MIB] + RNG.randbytes(50_000) + OLD[3 * MIB :]


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(NEW)
    return tmp_path / "old", tmp_path / "new"


def rebuild(out: Path, built: object, base: bytes) -> bytes:
    """The image from the two objects in the directory, as a device would see them."""
    ref = built.ref
    encoded = (out / ref.index.sha256.hex()).read_bytes()
    frames = (out / ref.frames.sha256.hex()).read_bytes()
    assert (len(encoded), sha256(encoded)) == (ref.index.size, ref.index.sha256)
    assert (len(frames), sha256(frames)) == (ref.frames.size, ref.frames.sha256)
    index = decode(encoded)
    assert index == built.index
    parts = image_parts(index, lambda o, n: frames[o : o + n], lambda o, n: base[o : o + n])
    return b"".join(bytes(p) for p in parts)


def test_full_and_delta_packs_make_the_image(images: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = images
    out = tmp_path / "objects"
    seen: list[tuple[int, int]] = []
    full = build_pack(new, None, out, workers=2, progress=lambda done, total: seen.append((done, total)))
    delta = build_pack(new, old, out, workers=2)
    assert rebuild(out, full, b"") == NEW
    assert rebuild(out, delta, OLD) == NEW
    assert (full.image.sha256, full.image.size) == (sha256(NEW), len(NEW))
    assert (full.ref.base, delta.ref.base) == (None, sha256(OLD))
    assert seen[-1] == (len(NEW), len(NEW))
    assert sorted(seen) == seen
    assert delta.ref.wan_bytes < full.ref.wan_bytes / 10
    assert {type(e) for e in full.index.entries} == {Data, Zero}
    assert Copy in {type(e) for e in delta.index.entries}
    assert len(list(out.iterdir())) == 4


def test_the_same_again_and_nothing_is_written_twice(images: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = images
    out = tmp_path / "objects"
    first = build_pack(new, old, out, workers=2)
    before = {p.name: p.stat().st_ino for p in out.iterdir()}
    second = build_pack(new, old, out, workers=1)
    assert first.ref == second.ref
    assert {p.name: p.stat().st_ino for p in out.iterdir()} == before


def test_where_no_codec_helps_the_frame_is_data(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(random.Random(1).randbytes(300_000))
    noise = random.Random(2).randbytes(300_000)
    (tmp_path / "new").write_bytes(noise)
    built = build_pack(tmp_path / "new", tmp_path / "old", tmp_path / "objects", workers=1)
    assert {type(e) for e in built.index.entries} == {Data}
    assert built.index.frames_size <= len(noise)
    assert rebuild(tmp_path / "objects", built, b"") == noise


@pytest.mark.parametrize("base", [None, b"", b"something"])
def test_an_empty_image(tmp_path: Path, base: bytes | None) -> None:
    (tmp_path / "new").write_bytes(b"")
    if base is not None:
        (tmp_path / "old").write_bytes(base)
    old = None if base is None else tmp_path / "old"
    built = build_pack(tmp_path / "new", old, tmp_path / "objects", workers=1)
    assert built.index.entries == ()
    assert rebuild(tmp_path / "objects", built, base or b"") == b""


def test_a_missing_image_is_the_operators_error(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    with pytest.raises(OperatorError, match=r"cannot read the image .*gone"):
        build_pack(tmp_path / "new", tmp_path / "gone", tmp_path / "objects")
    with pytest.raises(OperatorError, match=r"cannot read the image .*gone"):
        build_pack(tmp_path / "gone", None, tmp_path / "objects")


def test_a_full_disk_leaves_no_object(
    images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "objects"

    def no_space(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match="No space left") as caught:
        build_pack(images[1], None, out, workers=1)
    assert caught.value.kept == "no object was added or changed"
    assert list(out.iterdir()) == []
    monkeypatch.undo()
    build_pack(images[1], None, out, workers=1)
    assert len(list(out.iterdir())) == 2


STUB = """
import os, sys, time
sys.path[:0] = {path!r}
from coordinator.publishing import packing_child as real
answer = real.answer
def odd(request, target, base):
    if request[0] == "patch" and request[1] == {codec}:
        {action}
    return answer(request, target, base)
real.answer = odd
real.main(sys.argv[1:])
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes a child module that does `action` when asked for a patch of `codec`."""

    def make(action: str, codec: Codec) -> str:
        source = STUB.format(action=action, codec=int(codec), path=[os.getcwd()])  # noqa: PTH109 (text)
        (tmp_path / "odd_child.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "odd_child"

    return make


CRASHES = {
    "killed by a signal": "os.abort()",
    "exits": "os._exit(3)",
    "hangs": "time.sleep(60)",
    "out of memory": "bytearray(1 << 40)",
    "talks nonsense": "os.write(1, b'x' * 100)",
}


@pytest.mark.parametrize("name", list(CRASHES))
def test_a_codec_that_fails_is_passed_over(images: tuple[Path, Path], stub: object, name: str) -> None:
    old, new = images
    child = PackingChild(new, old, timeout_s=20.0, module=stub(CRASHES[name], Codec.BSDIFF))
    job = PatchJob(290_000, 20_000, (ViewRange(280_000, 40_000),))
    try:
        made = child.patch(Codec.HDIFFPATCH, job)
        assert made is not None and isinstance(made[0], Patch)
        if name == "hangs":
            child._timeout_s = 0.5
        assert child.patch(Codec.BSDIFF, job) is None
        child._timeout_s = 20.0
        assert child.deaths == (0 if name == "out of memory" else 1)
        assert child.patch(Codec.HDIFFPATCH, job) == made
        assert child.data(DataJob(0, (1000,)))[0].length == 1000
    finally:
        child.close()


def test_a_pack_is_built_although_a_codec_always_crashes(images: tuple[Path, Path], stub: object) -> None:
    old, new = images
    jobs = [PatchJob(n * 10_000, 10_000, (ViewRange(n * 10_000, 20_000),)) for n in range(6)]
    with PackingPool(new, old, 2, timeout_s=20.0, module=stub("os.abort()", Codec.HDIFFPATCH)) as pool:
        assert list(pool.map(lambda c, j: c.patch(Codec.HDIFFPATCH, j), jobs)) == [None] * 6
        assert pool.deaths == 6
        made = list(pool.map(lambda c, j: c.patch(Codec.BSDIFF, j), jobs))
    assert all(m is not None and m[0].codec is Codec.BSDIFF for m in made)


def test_children_that_always_die_are_a_clear_error(
    images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dead_child.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = PackingChild(images[1], None, module="dead_child")
    with pytest.raises(LocalError, match="keep dying"):
        child.data(DataJob(0, (100,)))
    assert child.deaths == 3


def test_an_image_is_mapped_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    with open_image(tmp_path / "a") as a, open_image(tmp_path / "b") as b, open_image(None) as c:
        assert (bytes(a), bytes(b), bytes(c)) == (b"abc", b"", b"")
