"""What a report is about: a simulated run with what was asked of it. Not for drawing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from sim.outcome import DeviceOutcome, RunOutcome
from sim.report.units import ratio_text, share_text, time_text
from sim.scenario.model import Expect


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that a run was held to: what was asked, what was found, whether that is enough."""

    asked: str
    found: str
    met: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """A run as a report shows it. `replay` is the one command that makes the same run again.

    `label` is a short name, different from those of the report's other runs.
    """

    outcome: RunOutcome
    label: str
    expectations: tuple[Expectation, ...] = ()
    replay: str = ""

    @property
    def finished_share(self) -> float | None:
        """Finished devices per device that was meant to; hostile ones do not count."""
        return finished_share(self.outcome)


def subject(outcome: RunOutcome, *, expect: Expect | None = None, replay: str = "") -> Subject:
    """`outcome` as a subject; without `replay`, the command that runs the scenario of that name."""
    command = replay or shlex.join(
        ["slipstream", "sim", "run", outcome.scenario, "--seed", str(outcome.seed)]
    )
    label = f"{outcome.scenario} · seed {outcome.seed}"
    return Subject(outcome, label, judge(expect, outcome) if expect is not None else (), command)


def label_apart(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """The same subjects, each with a label of its own: no longer than it takes to tell them apart."""
    found = tuple(subjects)
    scenarios = {s.outcome.scenario for s in found}
    seeds = {s.outcome.seed for s in found}
    if len(found) > 1 and len(scenarios) == 1:
        labels = [f"seed {s.outcome.seed}" for s in found]
    elif len(scenarios) == len(found) and len(seeds) == 1:
        labels = [s.outcome.scenario for s in found]
    else:
        labels = [s.label for s in found]
    seen: dict[str, int] = {}
    result = []
    for one, label in zip(found, labels, strict=True):
        seen[label] = seen.get(label, 0) + 1
        name = label if seen[label] == 1 else f"{label} ({seen[label]})"
        result.append(Subject(one.outcome, name, one.expectations, one.replay))
    return tuple(result)


def finished_share(outcome: RunOutcome) -> float | None:
    """Devices that finished per device that had to, between 0 and 1; None where nobody had to."""
    meant = [d for d in outcome.devices if d.state != "hostile"]
    if not meant:
        return None
    return sum(d.finished_s is not None for d in meant) / len(meant)


def finish_times(devices: Iterable[DeviceOutcome], shares: Iterable[float]) -> list[float | None]:
    """When each of `shares` (0 to 1) of the devices that had to had finished; None if that never came."""
    meant = [d for d in devices if d.state != "hostile"]
    times = sorted(d.finished_s for d in meant if d.finished_s is not None)
    result: list[float | None] = []
    for share in shares:
        needed = max(1, -int(-share * len(meant) // 1)) if meant else 0
        result.append(times[needed - 1] if 0 < needed <= len(times) else None)
    return result


def judge(expect: Expect, outcome: RunOutcome) -> tuple[Expectation, ...]:
    """What `expect` asks beside what was found, in the order of its fields; only what it asks."""
    result = []
    share = finished_share(outcome)
    if expect.amplification_max:
        found = outcome.amplification
        result.append(
            Expectation(
                f"WAN bytes at most {ratio_text(expect.amplification_max)} × the floor",
                "no floor" if found is None else f"{ratio_text(found)} ×",
                found is not None and found <= expect.amplification_max,
            )
        )
    if expect.finished_share:
        result.append(
            Expectation(
                f"at least {share_text(expect.finished_share)} of the devices finish",
                "no devices" if share is None else share_text(share),
                share is not None and share >= expect.finished_share,
            )
        )
    if expect.finished_by_s:
        [at] = finish_times(outcome.devices, [expect.finished_share or 1.0])
        result.append(
            Expectation(
                f"they finish within {time_text(expect.finished_by_s)}",
                "they did not" if at is None else time_text(at),
                at is not None and at <= expect.finished_by_s,
            )
        )
    return tuple(result)
