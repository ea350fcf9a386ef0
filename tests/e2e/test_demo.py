"""`make demo` as a newcomer runs it, with small images: it must end right, and say so by its exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rig.images import real_images

ROOT = Path(__file__).resolve().parents[2]
DEMO_S = 240


@pytest.mark.slow
def test_the_demo_updates_two_sites_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--quick", "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    killed = re.search(r"killed (depot-\d) after", done.stdout)
    assert killed
    assert f"the site finished without {killed[1]}" in done.stdout
    assert len(re.findall(r"│ right", done.stdout)) == 2 * 7
    assert "WRONG" not in done.stdout
    # What bus-17 took came over its link: it has nobody else.
    alone = [line for line in done.stdout.splitlines() if line.startswith("│ bus-17")]
    assert len([line for line in alone if re.search(r"B +│ 0 B +│.*│ right", line)]) == 2
    # The ledgers know of each byte of each image where it came from, also of the killed agent's.
    assert len(re.findall(r"│ the image +│", done.stdout)) == 2 * 7
    assert "missing" not in done.stdout
    assert not (tmp_path / "run").exists()


def test_images_without_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this Python's own libraries, said so, and each unlike the others."""
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    images = real_images(tmp_path / "first")
    again = real_images(tmp_path / "second")
    assert "could not be reached" in images.source
    contents = [path.read_bytes() for path in images.paths]
    assert len(set(contents)) == len(contents) == 4
    assert contents == [path.read_bytes() for path in again.paths]
    assert min(map(len, contents)) > 1 << 20
