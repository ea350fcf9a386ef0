"""Whatever bad sources say before a good one, the device ends where the good one alone leads it."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p.errors import TrustError
from p2p.trust import Need, TrustClient, run
from tests.support.tuf_repository import NOW, MemoryStore, Repository, Source


def _repository() -> tuple[Repository, dict[str, bytes]]:
    """A repository with its history, and its files before the last publication."""
    repository = Repository()
    repository.delegate("product-p", ["manifests/p/*"])
    repository.add_target("product-p", "manifests/p/1.json", b"one")
    repository.publish("product-p", "targets")
    old = dict(repository.files)
    repository.rotate("snapshot")
    repository.add_target("product-p", "manifests/p/2.json", b"two" * 50)
    repository.publish("product-p", "targets")
    return repository, old


REPOSITORY, OLD = _repository()
NAMES = sorted(REPOSITORY.files)


def update(client: TrustClient, answer: Source | Scripted) -> bytes:
    run(client.refresh(NOW), answer)
    target = run(client.find_target("manifests/p/2.json"), answer)
    assert target is not None
    return run(client.target(target, 1000), answer)


@st.composite
def lies(draw: st.DrawFn) -> tuple[str, int, int]:
    """How one answer is spoilt: the kind, and two numbers that the kind makes something of."""
    kind = draw(st.sampled_from(["flip", "cut", "extend", "swap", "old", "empty", "noise"]))
    return kind, draw(st.integers(0, 5000)), draw(st.integers(1, 255))


class Scripted:
    """For each need some spoilt answers, then the right one."""

    def __init__(self, script: list[tuple[str, int, int]]) -> None:
        self.script = list(script)
        self.refused = 0
        self._due = False

    def __call__(self, need: Need) -> bytes | None:
        right = REPOSITORY.files.get(need.path)
        if need.error is not None:
            assert isinstance(need.error, TrustError)
            self.refused += 1
        self._due = not self._due
        if self._due and self.script:
            return self._spoilt(need, right or b"", *self.script.pop())
        self._due = False
        return right

    def _spoilt(self, need: Need, right: bytes, kind: str, a: int, b: int) -> bytes | None:
        match kind:
            case "flip" if right:
                data = bytearray(right)
                data[a % len(data)] ^= b
                return bytes(data)
            case "cut":
                return right[: a % max(1, len(right))]
            case "extend":
                return right + bytes([b])
            case "swap":
                return REPOSITORY.files[NAMES[a % len(NAMES)]]
            case "old" if not need.mutable:  # an older timestamp is valid: why peers are not asked for it
                return OLD.get(need.path, b"")
            case "noise":
                return bytes([b]) * a
        return b""


ALONE = MemoryStore()
EXPECTED = update(TrustClient(ALONE, REPOSITORY.initial_root), Source(REPOSITORY.files))


@settings(max_examples=150)
@example(script=[("extend", 0, ord("\t"))], restart=False)
@given(script=st.lists(lies(), max_size=12), restart=st.booleans())
def test_bad_sources_change_nothing_but_the_number_of_requests(
    script: list[tuple[str, int, int]], restart: bool
) -> None:
    store = MemoryStore()
    if restart:
        old = Source(OLD)
        run(TrustClient(store, REPOSITORY.initial_root).refresh(NOW), old)
    answer = Scripted(script)
    client = TrustClient(store, REPOSITORY.initial_root)
    assert update(client, answer) == EXPECTED
    for name, value in ALONE.values.items():
        if name.startswith("root"):  # no digest is known of it: space around what is signed may differ
            assert json.loads(store.values[name]) == json.loads(value)
        elif name != "timestamp.json":
            assert store.values[name] == value
