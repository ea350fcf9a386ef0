"""What a report is about: a simulated run with what was asked of it. Not for drawing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sim.outcome import RunOutcome
from sim.runs.summary import Expectation, Summary, expectations, summarise
from sim.scenario.model import Expect


@dataclass(frozen=True, slots=True)
class Subject:
    """A run as a report shows it. `replay` is the one command that makes the same run again.

    `label` is a short name, different from those of the report's other runs; `folder` helps to tell it
    from runs of the same scenario and seed.
    """

    outcome: RunOutcome
    label: str
    expectations: tuple[Expectation, ...] = ()
    replay: str = ""
    folder: str = ""

    def summary(self) -> Summary:
        """The run in a few figures; hostile devices do not count."""
        return summarise("all", self.outcome.sites, self.outcome.devices)

    def wrong(self) -> bool:
        """Whether a rule was broken, an expectation missed or a device left behind."""
        whole = self.summary()
        missed = any(not e.met for e in self.expectations)
        return bool(self.outcome.violations) or missed or whole.finished < whole.devices


def subject(
    outcome: RunOutcome, *, expect: Expect | None = None, replay: str = "", folder: str = ""
) -> Subject:
    """`outcome` as a subject; without `replay`, the command that runs the scenario of that name."""
    command = replay or shlex.join(
        ["slipstream", "sim", "run", outcome.scenario, "--seed", str(outcome.seed)]
    )
    held = tuple(expectations(expect, outcome)) if expect is not None else ()
    return Subject(outcome, f"{outcome.scenario} · seed {outcome.seed}", held, command, folder)


def label_apart(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """The same subjects, each with a label of its own: no longer than it takes to tell them apart."""
    found = tuple(subjects)
    for labels in _namings(found):
        if len(set(labels)) == len(found):
            return _labelled(found, labels)
    seen: dict[str, int] = {}
    numbered = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        numbered.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return _labelled(found, numbered)


def _namings(found: tuple[Subject, ...]) -> Iterator[list[str]]:
    """Ways to name the runs, the shortest first."""
    whole = [s.label for s in found]
    if len(found) > 1:
        yield [s.outcome.scenario for s in found]
        if len({s.outcome.scenario for s in found}) == 1:
            yield [f"seed {s.outcome.seed}" for s in found]
    yield whole
    yield [f"{s.folder} · seed {s.outcome.seed}" if s.folder else s.label for s in found]


def _labelled(found: tuple[Subject, ...], labels: list[str]) -> tuple[Subject, ...]:
    return tuple(replace(s, label=label) for s, label in zip(found, labels, strict=True))
