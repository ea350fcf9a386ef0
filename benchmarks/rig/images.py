"""Images to update: random ones of a seed, and what is really in successive releases of a native wheel.

Images are deterministic: the same input makes the same bytes. Not for the delta benchmark, whose pairs are
many and large (`benchmarks.delta_size`).
"""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

__all__ = [
    "RealImages",
    "edited_image",
    "file_digest",
    "made_up_images",
    "random_image",
    "real_images",
    "wandering",
]

WHEEL = "cryptography"
WHEEL_VERSIONS = ("46.0.4", "46.0.5", "46.0.6", "46.0.7")
DOWNLOAD_S = 120
LOCAL_BYTES_MAX = 14 << 20
QUICK_BYTES = 2 << 20


def random_image(path: Path, size: int, seed: int) -> Path:
    """`size` bytes that nothing compresses."""
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def edited_image(path: Path, image: Path, seed: int, *, changed: int, runs: int, plain: bool = False) -> Path:
    """`image` with `changed` random bytes in `runs` places: a few replaced, some inserted, some removed.

    `plain`: they are numbers that wander (`wandering`), of which a patch leaves less than half.
    """
    rng = random.Random(seed)
    data = image.read_bytes()
    step = len(data) // runs
    length = changed // runs
    parts = []
    for run in range(runs):
        part = data[run * step : (run + 1) * step if run + 1 < runs else len(data)]
        at = rng.randrange(max(1, len(part) - length))
        removed = (length, length, 0, length // 2)[run % 4]
        new = wandering(length, rng) if plain else rng.randbytes(length)
        parts += [part[:at], new, part[at + removed :]]
    path.write_bytes(b"".join(parts))
    return path


def wandering(size: int, rng: random.Random) -> bytes:
    """Numbers of four bytes, each near the one before it: LZMA2 leaves 0.45 of them, Zstandard 0.51.

    What both leave as much of would be no patch, but chunks (`coordinator.publishing.packing`).
    """
    steps = accumulate(rng.choices(range(-1000, 1000), k=size // 4 + 1))
    return b"".join((n % 2**32).to_bytes(4, "little") for n in steps)[:size]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class RealImages:
    """Successive versions of something real, oldest first; `source` is a sentence for people."""

    versions: tuple[str, ...]
    paths: tuple[Path, ...]
    source: str


def real_images(directory: Path) -> RealImages:
    """Four successive releases of a native wheel; without a registry, of this Python's own libraries."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{WHEEL}-{version}.img" for version in WHEEL_VERSIONS]
    try:
        for version, path in zip(WHEEL_VERSIONS, paths, strict=True):
            if not path.exists():
                _replace(path, _tar(_wheel_files(_download(version, directory))))
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
        return _local_images(directory, str(error).splitlines()[0])
    return RealImages(
        WHEEL_VERSIONS,
        tuple(paths),
        f"the native wheel {WHEEL}, four successive patch releases from PyPI, unpacked into images",
    )


def made_up_images(directory: Path) -> RealImages:
    """Four small images, each an edit of the one before."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [random_image(directory / "made-up-1.img", QUICK_BYTES, 1)]
    for number in (2, 3, 4):
        path = directory / f"made-up-{number}.img"
        paths.append(edited_image(path, paths[-1], number, changed=QUICK_BYTES // 8, runs=16))
    return RealImages(("1.0", "2.0", "3.0", "4.0"), tuple(paths), "made up, small (--quick)")


def _download(version: str, directory: Path) -> Path:
    target = directory / f"wheel-{version}"
    if not list(target.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary=:all:", "--dest", str(target), f"{WHEEL}=={version}"]
        subprocess.run([*command, *options], check=True, capture_output=True, timeout=DOWNLOAD_S)
    return next(target.glob("*.whl"))


def _wheel_files(wheel: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        return [(name, archive.read(name)) for name in names]


def _local_images(directory: Path, why: str) -> RealImages:
    """Four "releases" out of this Python's own libraries: each leaves out, adds and edits other files."""
    found = _python_files()
    paths = []
    versions = tuple(f"{sys.version_info.major}.{sys.version_info.minor}.{n}" for n in range(100, 104))
    for number, version in enumerate(versions):
        files = [
            (name, data.replace(b"return None", f"return None  # {version}".encode()))
            for place, (name, data) in enumerate(found)
            if place % 41 != number * 7
        ]
        path = directory / f"python-{version}.img"
        _replace(path, _tar(files))
        paths.append(path)
    return RealImages(
        versions,
        tuple(paths),
        "images made from this Python's own libraries, edited into four releases, because the registry"
        f" could not be reached ({why})",
    )


def _python_files() -> list[tuple[str, bytes]]:
    library = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, bytes]] = []
    total = 0
    names: Iterable[Path] = [*sorted(library.glob("lib-dynload/*.so")), *sorted(library.glob("*.py"))]
    for path in [*names, *sorted(library.glob("*/*.py"))]:
        if "site-packages" in path.parts or total >= LOCAL_BYTES_MAX:
            continue
        data = path.read_bytes()
        total += len(data)
        found.append((str(path.relative_to(library)), data))
    return found


def _tar(files: Sequence[tuple[str, bytes]]) -> bytes:
    """An uncompressed archive in which nothing depends on when or by whom it was made."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    temporary.replace(path)
