"""`slipstream pack build|apply|inspect|verify` on files: results, errors and what is left behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from p2p.cli import run
from p2p.content.digests import sha256

OLD = random.Random(1).randbytes(400_000) + bytes(100_000)
NEW = OLD[:150_000] + b"a new part" + OLD[150_000:200_000] + bytes(5) + OLD[200_000:]


class Workbench:
    """A directory with two images and the packs that were built from them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys
        (path / "old").write_bytes(OLD)
        (path / "new").write_bytes(NEW)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = run(["pack", *arguments])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self.run(*arguments, "--json")
        assert code == 0, err
        facts: dict[str, Any] = json.loads(out)
        return facts

    def build(self, *options: str) -> tuple[str, str, dict[str, Any]]:
        objects = self.path / "objects"
        facts = self.json("build", str(self.path / "new"), "--out", str(objects), "--workers", "1", *options)
        return str(objects / facts["index"]["sha256"]), str(objects / facts["frames"]["sha256"]), facts

    def file(self, name: str) -> str:
        return str(self.path / name)


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Workbench:
    return Workbench(tmp_path, capsys)


def test_build_inspect_verify_apply(bench: Workbench) -> None:
    index, frames, built = bench.build("--base", bench.file("old"))
    assert built["image"] == sha256(NEW).hex()
    assert built["base"] == sha256(OLD).hex()
    assert built["pack_size"] == built["index"]["size"] + built["frames"]["size"] < 2000
    facts = bench.json("inspect", index, "--frames", frames)
    assert facts["image_size"] == len(NEW)
    assert sum(k["target_size"] for k in facts["kinds"]) == len(NEW)
    assert {k["name"] for k in facts["kinds"]} == {"COPY", "PATCH"}
    assert sum(c["stored_size"] for c in facts["compressions"]) == facts["frames_size"]
    assert bench.json("verify", "--index", index, "--frames", frames)["verified"] == "frames"
    checked = bench.json("verify", "--index", index, "--frames", frames, "--base", bench.file("old"))
    assert checked["verified"] == "image"
    out = bench.file("out")
    made = bench.json(
        "apply", "--index", index, "--frames", frames, "--base", bench.file("old"), "--output", out
    )
    assert made["image"] == sha256(NEW).hex()
    assert Path(out).read_bytes() == NEW
    assert not list(bench.path.glob(".*partial"))


def test_a_full_pack_needs_no_base(bench: Workbench) -> None:
    index, frames, built = bench.build()
    assert built["base"] is None
    assert bench.json("verify", "--index", index, "--frames", frames)["verified"] == "image"
    bench.json("apply", "--index", index, "--frames", frames, "--output", bench.file("out"))
    assert Path(bench.file("out")).read_bytes() == NEW


def test_people_get_tables(bench: Workbench) -> None:
    index, frames, _ = bench.build("--base", bench.file("old"))
    code, out, _ = bench.run("inspect", index)
    assert code == 0
    assert "COPY" in out
    assert "hdiffpatch" in out or "bsdiff" in out
    assert sha256(NEW).hex() in out
    code, out, _ = bench.run("verify", "--index", index, "--frames", frames)
    assert (code, "frames are sound" in out) == (0, True)
    code, out, _ = bench.run("build", bench.file("new"), "--out", bench.file("objects"))
    assert (code, "built in" in out) == (0, True)


def refused(bench: Workbench, *arguments: str) -> str:
    """Run `apply` and check that it fails with exit code 3 and leaves the old output alone."""
    out = Path(bench.file("out"))
    out.write_bytes(b"what was there before")
    code, _, err = bench.run("apply", *arguments, "--output", str(out))
    assert code == 3, err
    assert out.read_bytes() == b"what was there before"
    assert not list(bench.path.glob(".*partial"))
    assert "kept: nothing was written" in err
    assert "next: " in err
    return err


def test_the_wrong_base_is_named(bench: Workbench) -> None:
    index, frames, _ = bench.build("--base", bench.file("old"))
    err = refused(bench, "--index", index, "--frames", frames, "--base", bench.file("new"))
    assert "is not the base of this pack" in err
    assert sha256(OLD).hex() in err
    damaged = bytearray(OLD)
    damaged[300_000] ^= 1
    Path(bench.file("damaged")).write_bytes(damaged)
    err = refused(bench, "--index", index, "--frames", frames, "--base", bench.file("damaged"))
    assert "is not the base of this pack" in err
    code, _, err = bench.run("apply", "--index", index, "--frames", frames, "--output", bench.file("o"))
    assert (code, "it needs its base" in err) == (2, True)


def test_truncated_and_flipped_frames_are_named(bench: Workbench) -> None:
    index, frames, _ = bench.build()
    data = Path(frames).read_bytes()
    bad = Path(bench.file("bad"))
    bad.write_bytes(data[:-1])
    assert "truncated" in refused(bench, "--index", index, "--frames", str(bad))
    bad.write_bytes(data + b"x")
    assert "too long" in refused(bench, "--index", index, "--frames", str(bad))
    flipped = bytearray(data)
    flipped[len(flipped) // 2] ^= 4
    bad.write_bytes(flipped)
    assert "frame 0 (image bytes from 0)" in refused(bench, "--index", index, "--frames", str(bad))
    code, _, err = bench.run("verify", "--index", index, "--frames", str(bad))
    assert (code, "frame 0" in err) == (3, True)
    bad.write_bytes(data)
    assert bench.json("apply", "--index", index, "--frames", str(bad), "--output", bench.file("out"))


def test_a_damaged_index_is_named(bench: Workbench) -> None:
    index, frames, _ = bench.build()
    bad = Path(bench.file("bad"))
    bad.write_bytes(Path(index).read_bytes()[:-1])
    for command in (("inspect", str(bad)), ("verify", "--index", str(bad), "--frames", frames)):
        code, _, err = bench.run(*command)
        assert (code, "index: not valid msgpack" in err) == (3, True)


def test_an_output_that_cannot_be_written(bench: Workbench) -> None:
    index, frames, _ = bench.build()
    out = bench.file("missing/out")
    code, _, err = bench.run("apply", "--index", index, "--frames", frames, "--output", out)
    assert (code, "cannot write" in err) == (5, True)
