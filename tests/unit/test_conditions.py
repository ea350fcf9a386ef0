"""What a device's link and power are like: the file that says it, and what follows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from p2p.adapters.conditions import SIZE_MAX, parse_conditions, read_conditions
from p2p.agent.conditions import ConditionsWatch
from p2p.config import AgentConfig, parse_config
from p2p.errors import ContentError, StoreError
from p2p.swarm.conditions import Conditions

DOCUMENT = """\
[device]
id = "dev-1"
product = "gateway"
hardware = "rev1"
state_dir = "state"
[coordinator]
url = "https://updates.example.org/"
[slots.rootfs]
a = "a"
b = "b"
[budgets]
"""


def config(tmp_path: Path, budgets: str = 'conditions = "now.toml"') -> AgentConfig:
    return parse_config((DOCUMENT + budgets).encode(), source="agent.toml", directory=tmp_path)


# What follows


@pytest.mark.parametrize(
    ("conditions", "weight", "serves"),
    [
        (Conditions(), 70, True),
        (Conditions(metered=True), 0, True),
        (Conditions(roaming=True), 0, True),
        (Conditions(battery=True), 0, False),
    ],
)
def test_what_follows(conditions: Conditions, weight: int, *, serves: bool) -> None:
    assert conditions.weight(70) == weight
    assert conditions.serves is serves


def test_what_either_says_holds() -> None:
    assert Conditions(metered=True).joined(Conditions(battery=True)) == Conditions(metered=True, battery=True)
    assert str(Conditions(metered=True, battery=True)) == "metered, battery"
    assert str(Conditions()) == "ordinary"


# The file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", Conditions()),
        ("metered = true\n", Conditions(metered=True)),
        ("roaming = true\nbattery = true\nmetered = false", Conditions(roaming=True, battery=True)),
    ],
)
def test_what_the_file_says(text: str, said: Conditions, tmp_path: Path) -> None:
    path = tmp_path / "now.toml"
    path.write_text(text)
    assert read_conditions(path) == said


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert read_conditions(tmp_path / "now.toml") is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"metered = yes", "not valid TOML"),
        (b"metered = 1", "metered must be true or false"),
        (b"metred = true", "'metred' is unknown (known: metered, roaming, battery)"),
        (b"\xff", "not valid TOML"),
        (b"#" * (SIZE_MAX + 1), f"over {SIZE_MAX} bytes"),
        (b"metered = " + b"[" * 4000, "not valid TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(data: bytes, reason: str) -> None:
    with pytest.raises(ContentError) as caught:
        parse_conditions(data, "now.toml")
    assert caught.value.message.startswith("now.toml: ")
    assert reason in caught.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        read_conditions(tmp_path)
    assert str(tmp_path) in caught.value.message


# Watching it


def test_changes_are_told_once_and_what_is_configured_always_holds(tmp_path: Path) -> None:
    told: list[Conditions] = []
    path = tmp_path / "now.toml"
    path.write_text("")
    watch = ConditionsWatch(config(tmp_path, 'wan_metered = true\nconditions = "now.toml"'), told.append)
    assert watch.now == Conditions(metered=True)
    path.write_text("battery = true")
    watch.look()
    watch.look()
    assert told == [Conditions(metered=True, battery=True)]
    path.unlink()
    watch.look()
    assert told[1:] == [Conditions(metered=True)]


def test_a_bad_file_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Conditions] = []
    path = tmp_path / "now.toml"
    path.write_text("metered = true")
    watch = ConditionsWatch(config(tmp_path), told.append)
    path.write_text("metered = perhaps")
    with caplog.at_level(logging.WARNING):
        watch.look()
        watch.look()
    assert watch.now == Conditions(metered=True)
    assert told == []
    assert len(caplog.records) == 1
    assert "taken to be as before (metered)" in caplog.records[0].message
    path.write_text("metered = false")
    watch.look()
    assert told == [Conditions()]


def test_a_file_that_is_not_there_is_told_once_with_its_key_and_what_is_assumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, times = tmp_path / "now.toml", iter([0.0, *[60.0] * 9])
    with caplog.at_level(logging.WARNING):
        watch = ConditionsWatch(
            config(tmp_path, 'wan_metered = true\nconditions = "now.toml"'), lambda _: None, times.__next__
        )
        watch.look()
        assert [record.message for record in caplog.records] == [
            f"budgets.conditions: {path} is not there; link and power are taken to be metered until it says"
            " otherwise"
        ]
        path.write_text("roaming = true")
        watch.look()
        assert watch.now == Conditions(metered=True, roaming=True)
        path.unlink()
        watch.look()
        assert watch.now == Conditions(metered=True)
    assert len(caplog.records) == 2, "that it is gone again is told again"


@pytest.mark.parametrize("first", [None, "roaming = perh"], ids=["none", "half"])
def test_while_the_agent_starts_a_file_that_says_nothing_yet_may_be_about_to_say_what_costs_most(
    first: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Conditions] = []
    path, now = tmp_path / "now.toml", [1000.0]
    if first is not None:
        path.write_text(first)

    def at(seconds: float) -> None:
        now[0] = 1000.0 + seconds
        watch.look()

    with caplog.at_level(logging.WARNING):
        watch = ConditionsWatch(config(tmp_path), told.append, lambda: now[0])
        at(59)
        assert (watch.now, told) == (Conditions(metered=True, roaming=True), [])
        assert len(caplog.records) == 1
        at(60)
        assert told == [Conditions()]
        assert len(caplog.records) == 2, "and that it stays so is told, too"
    path.write_text("battery = true")
    at(61)
    path.unlink()
    at(62)
    assert told[1:] == [Conditions(battery=True), Conditions()]


def test_a_file_that_was_written_just_after_the_start_holds_at_once(tmp_path: Path) -> None:
    told: list[Conditions] = []
    path = tmp_path / "now.toml"
    watch = ConditionsWatch(config(tmp_path), told.append, lambda: 0.0)
    path.write_text("")
    watch.look()
    path.unlink()
    watch.look()
    assert told == [Conditions()]


async def test_at_the_start_it_is_looked_for_every_second(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[float] = []
    watch = ConditionsWatch(config(tmp_path), lambda _: told.append(trio.current_time()), lambda: 0.0)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(2.5)
        (tmp_path / "now.toml").write_text("")
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert told == [pytest.approx(began + 3)]


async def test_without_a_file_there_is_nothing_to_watch(tmp_path: Path) -> None:
    watch = ConditionsWatch(config(tmp_path, ""), lambda _: None)
    await watch.run()
    assert watch.now == Conditions()
