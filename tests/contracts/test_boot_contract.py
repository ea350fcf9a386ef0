"""What every `ports.Boot` does, the in-memory one included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.adapters.boot import FileBoot
from p2p.errors import SlotError
from p2p.ports import Boot, BootState
from tests.contracts.slot_doubles import MemoryBoot

Reopen = Callable[[], Boot]


@pytest.fixture(params=["memory", "files"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    if request.param == "memory":
        boot = MemoryBoot()
        return lambda: boot
    return lambda: FileBoot(str(tmp_path / "boot" / "environment"))


def test_a_new_device_runs_from_the_default_slot(reopen: Reopen) -> None:
    assert reopen().read() == BootState("a")
    assert reopen().read().running == "a"


def test_an_armed_slot_runs_only_once_it_was_started(reopen: Reopen) -> None:
    reopen().arm("b", 3)
    assert reopen().read() == BootState("a", "b", 3)
    assert reopen().read().running == "a"
    reopen().started()
    assert reopen().read() == BootState("a", "b", 2, tried=1)
    assert reopen().read().running == "b"


def test_commit_makes_the_trial_the_active_slot(reopen: Reopen) -> None:
    reopen().arm("b", 1)
    reopen().started()
    reopen().commit()
    assert reopen().read() == BootState("b")


def test_commit_needs_a_trial_that_was_started(reopen: Reopen) -> None:
    with pytest.raises(SlotError, match="no slot is on trial"):
        reopen().commit()
    reopen().arm("b", 1)
    with pytest.raises(SlotError, match="no slot is on trial"):
        reopen().commit()
    assert reopen().read() == BootState("a", "b", 1)


def test_without_an_attempt_left_it_falls_back_and_remembers(reopen: Reopen) -> None:
    reopen().arm("b", 2)
    for _ in range(2):
        reopen().started()
    assert reopen().read() == BootState("a", "b", 0, tried=2)
    reopen().started()
    assert reopen().read() == BootState("a", failed="b")
    assert reopen().read().running == "a"
    reopen().rollback()
    assert reopen().read() == BootState("a")


def test_arming_anew_forgets_the_failure(reopen: Reopen) -> None:
    reopen().arm("b", 1)
    reopen().started()
    reopen().started()
    reopen().arm("b", 1)
    assert reopen().read() == BootState("a", "b", 1)


def test_rollback_drops_the_trial_and_may_be_repeated(reopen: Reopen) -> None:
    reopen().arm("b", 2)
    reopen().started()
    reopen().rollback()
    reopen().rollback()
    assert reopen().read() == BootState("a")


def test_starting_without_a_trial_changes_nothing(reopen: Reopen) -> None:
    reopen().started()
    assert reopen().read() == BootState("a")


@pytest.mark.parametrize(("slot", "attempts"), [("a", 1), ("b", 0), ("b", -1)])
def test_the_running_slot_is_not_tried_and_never_without_attempts(
    reopen: Reopen, slot: str, attempts: int
) -> None:
    with pytest.raises(SlotError):
        reopen().arm(slot, attempts)
    assert reopen().read() == BootState("a")
    reopen().arm("b", 1)
    assert reopen().read().trial == "b"
