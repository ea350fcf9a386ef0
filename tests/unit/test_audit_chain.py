"""The audit chain shows edits, deletions, reorderings; a checkpoint also truncation and rewriting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coordinator.domain.audit import Checkpoint, Entry, chain, find_fault


def make_log(count: int = 6, actor: str = "ann") -> list[Entry]:
    entries: list[Entry] = []
    for n in range(count):
        last = Checkpoint(entries[-1].seq, entries[-1].digest) if entries else None
        entries.append(chain(last, 1000 + n, actor, "thing.done", f"thing-{n}", {"n": n}))
    return entries


def test_a_whole_chain_has_no_fault() -> None:
    log = make_log()
    assert find_fault(log) is None
    assert find_fault(log, [Checkpoint(e.seq, e.digest) for e in log]) is None
    assert find_fault([]) is None


Change = Callable[[list[Entry]], list[Entry]]


@pytest.mark.parametrize(
    ("change", "reason", "seq"),
    [
        (lambda log: [*log[:2], replace(log[2], actor="eve"), *log[3:]], "edited", 3),
        (lambda log: [*log[:2], replace(log[2], details={"n": 3}), *log[3:]], "edited", 3),
        (lambda log: [*log[:2], replace(log[2], at=0), *log[3:]], "edited", 3),
        (lambda log: [*log[:2], *log[3:]], "gap", 4),
        (lambda log: log[1:], "gap", 2),
        (lambda log: [*log[:2], log[3], log[2], *log[4:]], "gap", 4),
        (lambda log: [*log[:2], replace(log[3], seq=3), replace(log[2], seq=4), *log[4:]], "broken-link", 3),
        (lambda log: [*log[:2], replace(log[2], digest="00" * 32), *log[3:]], "edited", 3),
        (lambda log: log[:4], "truncated", 4),
        (lambda log: [], "truncated", 0),
        (lambda log: make_log(actor="eve"), "rewritten", 5),
    ],
)
def test_tampering_is_found_and_named(change: Change, reason: str, seq: int) -> None:
    log = make_log()
    checkpoint = Checkpoint(5, log[4].digest)
    fault = find_fault(change(log), [checkpoint])
    assert fault is not None
    assert (fault.reason, fault.seq) == (reason, seq)


def test_without_a_checkpoint_a_cut_end_cannot_be_found() -> None:
    """Why checkpoints exist: this is the documented limit of a chain alone."""
    assert find_fault(make_log()[:4]) is None


def test_an_entry_edited_together_with_its_digest_breaks_the_next_link() -> None:
    log = make_log()
    forged = chain(Checkpoint(2, log[1].digest), 1002, "eve", "thing.done", "thing-2", {"n": 2})
    fault = find_fault([*log[:2], forged, *log[3:]])
    assert fault is not None
    assert (fault.reason, fault.seq) == ("broken-link", 4)
