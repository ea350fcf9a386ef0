"""Real pairs of images for the delta benchmark, made deterministically from public packages.

Each pair is two versions of something real, fetched by the ordinary clients (`pip download`,
`apt-get download`) into a cache directory and unpacked to uncompressed images there. What a registry
no longer holds, or a tool that is missing, makes a pair unavailable, with the reason.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

EPOCH = "1700000000"
UUID = "00000000-0000-4000-8000-000000000001"


class Unavailable(Exception):  # noqa: N818 (a state)
    """A pair cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images and what they are."""

    name: str
    what: str
    old: Path
    new: Path


def pairs(cache: Path) -> dict[str, Callable[[], Pair]]:
    """The pairs by name; calling one fetches and unpacks what is not in the cache yet."""
    return {
        "text": lambda: _wheels(cache, "text", "botocore", "1.40.10", "1.40.11"),
        "wheel": lambda: _wheels(cache, "wheel", "numpy", "2.2.4", "2.2.5"),
        "kernel": lambda: _kernel(cache),
        "modules": lambda: _modules(cache),
        "ext4": lambda: _filesystem(cache, "ext4"),
        "squashfs": lambda: _filesystem(cache, "squashfs"),
    }


def _run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    if shutil.which(str(command[0])) is None:
        raise Unavailable(f"needs {command[0]}")
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise Unavailable(
            f"{command[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr else 'failed'}"
        )
    return done.stdout


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made under a temporary name first if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        if temporary.is_dir():
            shutil.rmtree(temporary)
        make(temporary)
        temporary.rename(path)
    return path


def _wheels(cache: Path, name: str, package: str, old: str, new: str) -> Pair:
    images = [
        _made(cache / f"{package}-{version}.tar", lambda out, v=version: _wheel_tar(cache, package, v, out))
        for version in (old, new)
    ]
    return Pair(name, f"{package} {old} -> {new}", *images)


def _wheel_tar(cache: Path, package: str, version: str, out: Path) -> None:
    wheels = cache / "wheels"
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", "3.11", "--platform", "manylinux2014_x86_64", "--platform", "any",
        "--dest", wheels, f"{package}=={version}",
    )  # fmt: skip
    wheel = next(wheels.glob(f"{package}-{version}-*.whl"))
    with zipfile.ZipFile(wheel) as source, tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(n for n in source.namelist() if not n.endswith("/")):
            data = source.read(name)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _kernel_packages() -> tuple[str, str]:
    found = _run(
        "apt-cache",
        "search",
        "--names-only",
        r"^linux-image-[0-9]+\.[0-9]+\.[0-9]+-[0-9]+-cloud-(amd64|arm64)$",
    ).split("\n")
    names = sorted(
        (line.split(" ")[0] for line in found if line), key=lambda n: [int(x) for x in re.findall(r"\d+", n)]
    )
    if len(names) < 2:
        raise Unavailable("the registry holds fewer than two kernels (run apt-get update)")
    return names[-2], names[-1]


def _package_tree(cache: Path, name: str, version: str | None = None) -> Path:
    def make(out: Path) -> None:
        debs = cache / "debs" / f"{name}_{version or 'candidate'}".replace(":", "%3a")
        debs.mkdir(parents=True, exist_ok=True)
        if not list(debs.glob("*.deb")):
            _run("apt-get", "download", name if version is None else f"{name}={version}", cwd=debs)
        _run("dpkg-deb", "-x", next(debs.glob("*.deb")), out)

    return _made(cache / "trees" / f"{name}_{version or 'candidate'}".replace(":", "%3a"), make)


def _kernel(cache: Path) -> Pair:
    names = _kernel_packages()
    images = [
        _made(
            cache / f"{n}.vmlinux",
            lambda out, n=n: out.write_bytes(
                _vmlinux(next((_package_tree(cache, n) / "boot").glob("vmlinuz-*")))
            ),
        )
        for n in names
    ]
    return Pair("kernel", " -> ".join(names), *images)


def _vmlinux(path: Path) -> bytes:
    """The uncompressed kernel inside a bzImage (Linux's Documentation/arch/x86/boot.rst, payload_offset)."""
    image = path.read_bytes()
    if image[0x202:0x206] != b"HdrS" and image[0x1F1] == 0:
        raise Unavailable("the kernel is no bzImage")
    setup = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup * 512 + offset :][: length - 4]
    decoders = {
        b"\x02\x21\x4c\x18": "lz4",
        b"\x28\xb5\x2f\xfd": "zstd",
        b"\xfd7zX": "xz",
        b"\x1f\x8b\x08\x00": "gzip",
    }
    tool = decoders.get(payload[:4])
    if tool is None or shutil.which(tool) is None:
        raise Unavailable(f"needs {tool or 'another decompressor'} to unpack the kernel")
    return subprocess.run([tool, "-dc"], input=payload, stdout=subprocess.PIPE, check=False).stdout


def _modules(cache: Path) -> Pair:
    names = _kernel_packages()
    images = [_made(cache / f"{n}.modules", lambda out, n=n: _modules_tar(cache, n, out)) for n in names]
    return Pair("modules", " -> ".join(names), *images)


def _modules_tar(cache: Path, name: str, out: Path) -> None:
    root = next((_package_tree(cache, name) / "lib" / "modules").iterdir())
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
            member = tarfile.TarInfo(str(path.relative_to(root)))
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)


def _system_packages() -> Iterator[tuple[str, str, str]]:
    """Name, oldest and newest version of the packages of a minimal system."""
    names = set()
    architecture = _run("dpkg", "--print-architecture").strip()
    for stanza in _run("apt-cache", "dumpavail").split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
        if fields.get("Priority") in ("required", "important", "standard") and fields.get("Architecture") in (
            architecture,
            "all",
        ):
            names.add(fields["Package"])
    # What the required packages are built on, and what most updates are about.
    names |= {
        "libssl3",
        "openssl",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "python3.11-minimal",
        "curl",
    }
    names |= {
        "libcurl4",
        "libgnutls30",
        "libsystemd0",
        "libc6",
        "libkrb5-3",
        "libxml2",
        "libexpat1",
        "libsqlite3-0",
    }
    versions: dict[str, list[str]] = {}
    for line in _run("apt-cache", "madison", *sorted(names)).splitlines():
        name, version, source = (part.strip() for part in line.split("|"))
        if "Packages" in source and version not in versions.setdefault(name, []):
            versions[name].append(version)
    for name in sorted(versions):
        yield name, versions[name][-1], versions[name][0]


def _filesystem(cache: Path, kind: str) -> Pair:
    packages = list(_system_packages())
    if len(packages) < 50:
        raise Unavailable("the registry lists no system packages (run apt-get update)")
    changed = sum(old != new for _, old, new in packages)
    trees = [
        _made(cache / f"root-{age}", lambda out, i=i: _root(cache, [(p[0], p[i]) for p in packages], out))
        for i, age in ((1, "old"), (2, "new"))
    ]
    make = {"ext4": _ext4, "squashfs": _squashfs}[kind]
    images = [_made(tree.with_suffix(f".{kind}"), lambda out, t=tree: make(t, out)) for tree in trees]
    return Pair(kind, f"{len(packages)} Debian packages, {changed} of them changed", *images)


def _root(cache: Path, packages: list[tuple[str, str]], out: Path) -> None:
    for name, version in packages:
        tree = _package_tree(cache, name, version)
        _run("cp", "-a", "--no-preserve=ownership", f"{tree}/.", out) if out.exists() else _run(
            "cp", "-a", tree, out
        )
    for path in (out, *out.rglob("*")):
        os.utime(path, (int(EPOCH), int(EPOCH)), follow_symlinks=False)


def _ext4(tree: Path, out: Path) -> None:
    used = int(_run("du", "-s", "--apparent-size", "-B", "1", tree).split()[0])
    size = (used * 5 // 4 // (8 << 20) + 1) * (8 << 20)
    _run(
        "mke2fs", "-q", "-t", "ext4", "-d", tree, "-U", UUID, "-E", f"hash_seed={UUID},root_owner=0:0",
        "-m", "0", out, f"{size // 1024}k", env={"E2FSPROGS_FAKE_TIME": EPOCH, "SOURCE_DATE_EPOCH": EPOCH},
    )  # fmt: skip


def _squashfs(tree: Path, out: Path) -> None:
    _run(
        "mksquashfs", tree, out, "-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-all-root",
        "-mkfs-time", EPOCH, "-all-time", EPOCH, "-processors", "2",
    )  # fmt: skip
