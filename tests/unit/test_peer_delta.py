"""Peer deltas as a stranger sends them: what they say is checked, what they do stays in the child."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable

import hdiffpatch
import pytest

from p2p.adapters import delta_child
from p2p.adapters import peer_delta as child
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.index import Codec, Compression, ViewRange
from p2p.content.limits import KIB, MIB
from p2p.delta.compression import compress_lzma2, compress_zstd
from p2p.delta.peer_delta import (
    HEAD_MAX,
    MARGIN,
    PeerDelta,
    base_parts,
    decode,
    encode,
    equal_edges,
    view_around,
)
from p2p.errors import ContentError, LimitExceeded, LocalError

_rng = random.Random(3)
BASE = _rng.randbytes(256 * KIB)
TARGET = BASE[:100_000] + b"something else" + BASE[100_014:]
START, LENGTH = 64 * KIB, 64 * KIB
MEMORY = 512 * MIB
GOOD = PeerDelta(
    4096,
    8192,
    (ViewRange(0, len(BASE)),),
    sha256(b"base"),
    Codec.HDIFFPATCH,
    Compression.LZMA2,
    99,
    b"stored",
)


def read(offset: int, length: int) -> bytes:
    assert offset + length <= len(BASE)
    return BASE[offset : offset + length]


# What it says


def test_what_is_encoded_is_decoded() -> None:
    assert decode(encode(GOOD), START, LENGTH, len(BASE)) == GOOD
    whole = PeerDelta(LENGTH, 0, (), sha256(b""), Codec.HDIFFPATCH, Compression.NONE, 0, b"")
    assert decode(encode(whole), START, LENGTH, len(BASE)) == whole


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"head": LENGTH}, "longer than what it makes"),
        ({"tail": 4 * MIB + 1}, "not a number"),
        ({"view": (ViewRange(1, len(BASE)),)}, "outside the base"),
        ({"view": (ViewRange(0, 4),) * 65}, "in 65 ranges"),
        ({"view": (ViewRange(0, 200_000),) * 64}, "base view of"),
        ({"delta_size": 0}, "where nothing is patched, or none"),
        ({"delta_size": limits.PATCH_DELTA_MAX + 1}, "not a number"),
        ({"stored": b""}, "where nothing is patched, or none"),
        ({"head": LENGTH, "tail": 0, "delta_size": 0, "stored": b""}, "a base view where nothing"),
        ({"codec": 3}, "unknown codec"),
        ({"compression": 7}, "unknown compression"),
        ({"base_digest": b"short"}, "digest"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_breaks_a_rule_is_refused(changed: dict[str, object], why: str) -> None:
    fields = {name: getattr(GOOD, name) for name in PeerDelta.__slots__} | changed
    with pytest.raises(ContentError, match=why):
        decode(encode(PeerDelta(**fields)), START, LENGTH, len(BASE))


def test_a_head_may_not_reach_past_the_base() -> None:
    edge = PeerDelta(LENGTH, 0, (), sha256(b""), Codec.HDIFFPATCH, Compression.NONE, 0, b"")
    assert decode(encode(edge), len(BASE) - LENGTH, LENGTH, len(BASE)) == edge
    with pytest.raises(ContentError, match="outside the base"):
        decode(encode(edge), len(BASE) - LENGTH + 1, LENGTH, len(BASE))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\1\xc1", b"\0\0\0\1\x90", b"\xff\xff\xff\xff" + bytes(99),
        (HEAD_MAX + 1).to_bytes(4, "big") + bytes(HEAD_MAX + 1), b"\0\0\0\x05\x81\x00\x00\x00\x00",
    ],
)  # fmt: skip
def test_what_is_no_delta_is_refused(payload: bytes) -> None:
    with pytest.raises(ContentError):
        decode(payload, START, LENGTH, len(BASE))


def test_random_bytes_raise_nothing_else() -> None:
    good = encode(GOOD)
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(_rng.randrange(1, 4)):
            bad[_rng.randrange(len(bad))] = _rng.randrange(256)
        with contextlib.suppress(ContentError):
            decode(bytes(bad), START, LENGTH, len(BASE))


# What it is made of


def test_equal_edges_are_found_in_whole_steps() -> None:
    assert equal_edges(TARGET, read, 0, len(BASE)) == (96 * KIB, (len(BASE) - 100_014) // 4096 * 4096)
    assert equal_edges(BASE[START : START + LENGTH], read, START, len(BASE)) == (LENGTH, 0)
    assert equal_edges(BASE, read, 0, len(BASE)) == (len(BASE), 0)
    assert equal_edges(BASE[:LENGTH], read, START, len(BASE)) == (0, 0)


def test_there_is_no_tail_past_the_end_of_the_base() -> None:
    longer = BASE[-8192:] + bytes(8192)
    assert equal_edges(longer, read, len(BASE) - 8192, len(BASE)) == (8192, 0)
    assert equal_edges(longer, read, len(BASE) + 1, len(BASE)) == (0, 0)
    assert equal_edges(longer, read, 0, 0) == (0, 0)


@pytest.mark.parametrize("base_size", [0, 1, 5 * MIB, 100 * MIB])
@pytest.mark.parametrize(("start", "stop"), [(0, 4 * MIB), (50 * MIB, 54 * MIB), (99 * MIB, 103 * MIB)])
def test_a_view_lies_within_the_base(base_size: int, start: int, stop: int) -> None:
    view = view_around(start, stop, base_size)
    assert sum(r.length for r in view) == min(base_size, 4 * MIB + 2 * MARGIN)
    assert all(r.offset >= 0 and r.offset + r.length <= base_size for r in view)


def test_the_base_bytes_of_a_delta_are_named_in_order() -> None:
    head, view, tail = base_parts(GOOD, START, LENGTH)
    assert (head, view) == (ViewRange(START, 4096), GOOD.view[0])
    assert tail == ViewRange(START + LENGTH - 8192, 8192)


# What it does


async def test_a_child_makes_what_a_child_applies() -> None:
    codec, compression, size, stored = await child.make(BASE, TARGET, MEMORY)
    assert len(stored) < 1000
    assert await child.apply(codec, compression, size, stored, BASE, len(TARGET)) == TARGET


async def test_memory_for_making_is_bounded() -> None:
    with pytest.raises(LocalError, match="ended with"):
        await child.make(BASE, TARGET, 16 * MIB)


@pytest.fixture
def delta() -> bytes:
    made: bytes = hdiffpatch.diff(BASE, TARGET, None)
    return made


async def applied(delta: bytes, *, view: bytes = BASE, length: int = len(TARGET)) -> bytes:
    """A delta, decoded as any peer could send it."""
    return await child.apply(
        Codec.HDIFFPATCH, Compression.ZSTD, len(delta), compress_zstd(delta), view, length
    )


async def test_a_sound_delta_is_the_twin_of_those_refused_below(delta: bytes) -> None:
    assert await applied(delta) == TARGET


async def test_for_another_base_it_is_refused(delta: bytes) -> None:
    with pytest.raises(ContentError, match="no delta for this base"):
        await applied(delta, view=BASE + b"1")


@pytest.mark.parametrize("length", [len(TARGET) - 1, len(TARGET) + 1, 4 * MIB])
async def test_what_makes_more_or_less_is_refused(delta: bytes, length: int) -> None:
    with pytest.raises(ContentError, match="no delta for this base"):
        await applied(delta, length=length)


@pytest.mark.parametrize("pack", [compress_zstd, compress_lzma2])
async def test_a_decompression_bomb_is_refused(pack: Callable[[bytes], bytes]) -> None:
    """A few bytes that would become 32 MiB, said to be a small delta and a large one."""
    bomb = pack(bytes(32 * MIB))
    assert len(bomb) < 100 * KIB
    compression = Compression.ZSTD if pack is compress_zstd else Compression.LZMA2
    for size in (100, limits.PATCH_DELTA_MAX):
        with pytest.raises(ContentError, match="no delta for this base"):
            await child.apply(Codec.HDIFFPATCH, compression, size, bomb, BASE, 64 * KIB)


async def test_the_other_codec_is_as_bounded() -> None:
    with pytest.raises(ContentError, match="no delta for this base"):
        await child.apply(Codec.BSDIFF, Compression.NONE, 60, b"SBSD" + b"\xff" * 56, BASE, 4 * MIB)


SAYS = "import resource, signal, sys\nsys.stdin.buffer.read(10)\n"


@pytest.mark.parametrize(
    ("program", "error", "why"),
    [
        ("resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass", ContentError, "without end"),
        ("sys.exit(4)", ContentError, "takes memory"),
        ("signal.raise_signal(signal.SIGSEGV)", ContentError, "crashed the codec"),
        ("sys.stdout.buffer.write(bytes(1 << 30))", ContentError, "makes more than"),
        ("sys.stdout.buffer.write(bytes(65537))", ContentError, "makes more than"),
        ("sys.stdout.buffer.write(bytes(9))", ContentError, "made 9 bytes"),
        ("signal.raise_signal(signal.SIGABRT)", ContentError, "crashed the codec"),
        ("signal.raise_signal(signal.SIGKILL)", LocalError, "ended with -9"),
        ("signal.raise_signal(signal.SIGTERM)", LocalError, "ended with -15"),
        ("signal.signal(2, signal.SIG_DFL); signal.raise_signal(2)", LocalError, "ended with -2"),
        ("sys.exit(1)", LocalError, "ended with 1"),
    ],
)
async def test_whatever_a_codec_does_ends_in_the_child(
    monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception], why: str
) -> None:
    """Time, memory, crashes and floods are the delta's fault; being killed from outside is not."""
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", SAYS + program))
    with pytest.raises(error, match=why):
        await child.apply(Codec.HDIFFPATCH, Compression.NONE, 9, bytes(9), BASE, 64 * KIB)


@pytest.mark.parametrize(("do", "code"), [("apply", delta_child.REFUSED), ("make", 1)])
def test_an_error_of_a_codec_that_nobody_foresaw_is_the_fault_of_the_delta(
    monkeypatch: pytest.MonkeyPatch, do: str, code: int
) -> None:
    class Careless:
        codec = Codec.HDIFFPATCH

        def apply(self, view: bytes, delta: bytes, length: int) -> bytes:
            raise RuntimeError("an index out of range in native code")

        def diff(self, view: bytes, target: bytes) -> bytes:
            raise RuntimeError("the same")

    monkeypatch.setitem(delta_child.CODECS, Codec.HDIFFPATCH, Careless())
    head = {
        "do": do, "codec": int(Codec.HDIFFPATCH), "compression": int(Compression.NONE), "delta_size": 9,
        "length": 9,
    }  # fmt: skip
    assert delta_child.answer_to(head, BASE, bytes(9)) == (code, b"")


async def test_a_child_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", "import time; time.sleep(100)"))
    monkeypatch.setattr(child, "LONGEST_S", 0.5)
    with pytest.raises(LocalError, match="took too long"):
        await child.apply(Codec.HDIFFPATCH, Compression.NONE, 9, bytes(9), BASE, 64 * KIB)


async def test_no_program_is_this_devices_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_COMMAND", ("/nowhere",))
    with pytest.raises(LocalError, match="child for peer deltas"):
        await child.apply(Codec.HDIFFPATCH, Compression.NONE, 9, bytes(9), BASE, 64 * KIB)


def test_limits_are_told_apart() -> None:
    with pytest.raises(LimitExceeded):
        decode(
            encode(PeerDelta(**{n: getattr(GOOD, n) for n in PeerDelta.__slots__} | {"head": 1 << 40})),
            0,
            9,
            9,
        )
