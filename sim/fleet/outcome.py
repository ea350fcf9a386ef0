"""What a release would cost a fleet: plain values that the plan command prints and the report draws.

Bytes are bytes over sites' WANs, both directions, unless a name says otherwise; times are seconds
since the start; money is in the scenario's own unit. What devices spend on asking, with or without
a release, stands apart (`Asking`): all other bytes and money are the release's. A `PlanOutcome` holds one
`Estimate` per way and plan: a *way* says how devices get the image, a *plan* when and within which
budget they may. `to_json` and `from_json` lose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from p2p.errors import ContentError
from sim.outcome import Series

FORMAT = "slipstream-plan"
VERSION = 3
MARKS = (0.5, 0.9, 0.99, 1.0)
"""Shares of the devices that a time is told for."""


class Way(StrEnum):
    """How the devices of a site get the image."""

    FULL = "full, no sharing"
    DELTA = "deltas, no sharing"
    SHARED = "full, shared"
    SLIPSTREAM = "slipstream"
    """Deltas, shared."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Polls and check-ins of the whole fleet, which are paid whatever is published.

    `day_bytes` and `day_money` of a mean day of the horizon; `wan_bytes`, of them `wan_down` down, until
    `until_s`: when the last device has finished, or the horizon. Added to the release's they are what a
    simulated run counts.
    """

    day_bytes: int
    day_money: float
    wan_bytes: int
    wan_down: int
    until_s: float


@dataclass(frozen=True, slots=True)
class GroupEstimate:
    """All sites of one group. `floor_bytes`: the cheapest published way for each site, summed."""

    group: str
    sites: int
    devices: int
    finished: int
    wan_bytes: int
    wan_down: int
    floor_bytes: int
    money: float
    asking_day_bytes: int
    """Of all its sites in a mean day; see `Asking`."""
    marks_s: tuple[float | None, ...]
    """When each share of `MARKS` of the group's devices has finished; None: not within the horizon."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One way under one plan, for the whole fleet."""

    way: Way
    plan: str
    devices: int
    finished: int
    wan_bytes: int
    wan_down: int
    floor_bytes: int
    wan_money: float
    origin_money: float
    asking: Asking
    marks_s: tuple[float | None, ...]
    groups: tuple[GroupEstimate, ...]
    completion: Series
    """Devices finished."""
    origin_egress: Series
    """Bytes per second out of the origin."""
    site_bytes: tuple[float, ...]
    """WAN bytes of a site at the quantiles 0, 0.01, … 1 of all sites."""
    site_floors: tuple[float, ...]
    """The same of the sites' floors."""

    @property
    def money(self) -> float:
        """All that it costs."""
        return self.wan_money + self.origin_money

    @property
    def amplification(self) -> float | None:
        """WAN bytes down of the release per byte of the floors."""
        return self.wan_down / self.floor_bytes if self.floor_bytes else None

    @property
    def amplification_with_asking(self) -> float | None:
        """As a simulated run counts it: what is asked until the end is in it."""
        return (self.wan_down + self.asking.wan_down) / self.floor_bytes if self.floor_bytes else None


@dataclass(frozen=True, slots=True)
class Off:
    """Relative errors over sites: the middle one, what nine of ten do not exceed, and the worst."""

    median: float
    p90: float
    worst: float
    worst_seed: int
    """The site of the worst, as `sim.fleet.training` makes it."""


@dataclass(frozen=True, slots=True)
class ModelError:
    """How far the model was from runs of the real code, on `held_out` sites that it was not fitted to.

    Of a site's WAN bytes and of the time until its last device finished: against one run of each site
    (`bytes_once`, `time_once`), and of the model's mean against the mean of `seeds` runs (`bytes_mean`,
    `time_mean`). Runs of a site differ in who has which base and who comes first, of which the model is told,
    and in who is faster by milliseconds, of which it is not.
    """

    held_out: int
    seeds: int
    bytes_once: Off
    time_once: Off
    bytes_mean: Off
    time_mean: Off
    command: str
    """What fitted the model and measured this."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ModelError:
        """What `asdict` made `document` of; raises `KeyError`, `TypeError`."""
        names = ("bytes_once", "time_once", "bytes_mean", "time_mean")
        return cls(**{**document, **{name: Off(**document[name]) for name in names}})


NOT_OFF = Off(0.0, 0.0, 0.0, 0)
NO_ERROR = ModelError(0, 0, NOT_OFF, NOT_OFF, NOT_OFF, NOT_OFF, "")
"""Of constants that nobody has measured yet."""


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """The whole comparison. `horizon_s`: what has not finished by then counts as not finished."""

    scenario: str
    seed: int
    sites: int
    devices: int
    release: str
    image_bytes: int
    horizon_s: float
    plans: Mapping[str, str]
    """Name of each plan and what it is, in words; the scenario's own comes first."""
    estimates: tuple[Estimate, ...]
    error: ModelError
    notes: tuple[str, ...] = ()
    """What the model leaves out for this scenario."""

    def of(self, way: Way, plan: str | None = None) -> Estimate:
        """One estimate; without `plan` that of the scenario's own. Raises `KeyError`."""
        name = next(iter(self.plans)) if plan is None else plan
        for estimate in self.estimates:
            if estimate.way is way and estimate.plan == name:
                return estimate
        raise KeyError((way, name))

    def to_json(self) -> dict[str, Any]:
        """A JSON document of the outcome."""
        return {"_type": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, document: Any) -> PlanOutcome:
        """The outcome that `to_json` made `document` of; raises `ContentError`."""
        if not isinstance(document, dict) or document.get("_type") != FORMAT:
            raise ContentError("not the outcome of a plan")
        if document.get("version") != VERSION:
            raise ContentError(f"outcome of a plan, version {document.get('version')!r}: not known here")
        try:
            facts = {k: v for k, v in document.items() if k not in ("_type", "version")}
            return cls(
                **{
                    **facts,
                    "estimates": tuple(_estimate(e) for e in facts["estimates"]),
                    "error": ModelError.from_json(facts["error"]),
                    "notes": tuple(facts["notes"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContentError(f"outcome of a plan: {error!r}") from error


def _estimate(facts: dict[str, Any]) -> Estimate:
    return Estimate(
        **{
            **facts,
            "way": Way(facts["way"]),
            "asking": Asking(**facts["asking"]),
            "marks_s": tuple(facts["marks_s"]),
            "groups": tuple(GroupEstimate(**{**g, "marks_s": tuple(g["marks_s"])}) for g in facts["groups"]),
            "completion": _series(facts["completion"]),
            "origin_egress": _series(facts["origin_egress"]),
            "site_bytes": tuple(facts["site_bytes"]),
            "site_floors": tuple(facts["site_floors"]),
        }
    )


def _series(facts: dict[str, Any]) -> Series:
    return Series(tuple(facts["times"]), tuple(facts["values"]))
