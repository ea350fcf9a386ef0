"""Fitting the model's constants to runs of the real code, and measuring how far off it is.

Linear least squares on relative errors with coefficients of 0 or more (an active set, after Lawson &
Hanson 1974), once for bytes down, once for bytes up, once for time. What is reported is the error on
sites that were held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.fleet import asking, draw, model, site_bytes
from sim.fleet.curve import Curve, Floats, of_wan
from sim.fleet.draw import Devices, base_names
from sim.fleet.outcome import NO_ERROR, ModelError, Off
from sim.fleet.packs import Packs, of_synthetic
from sim.fleet.parameters import BYTE_TERMS, TIME_TERMS, Parameters
from sim.fleet.setting import Setting, transfers
from sim.fleet.times import installing, site_times
from sim.outcome import RunOutcome
from sim.scenario.model import Scenario, SyntheticRelease

ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """One site of a run of the real code: what the model is told, and what came of it."""

    setting: Setting
    packs: Packs
    known_s: Floats
    down: float
    up: float
    seconds: float
    """From when the first device could know until the last was done."""
    metadata: float
    """What the floor counts besides the pack."""

    def loaded(self, parameters: Parameters) -> tuple[Setting, model.Load]:
        """The site under these constants."""
        setting = Setting(
            self.setting.group, self.setting.devices, self.setting.polling, self.setting.policy, parameters
        )
        curve = _curve(setting)
        opens = np.zeros(len(setting.devices))
        return setting, model.load(setting, self.packs, self.known_s, opens, curve, shared=True)


def sample(scenario: Scenario, outcome: RunOutcome) -> Sample:
    """The first site of a finished run; raises `ValueError` if a device did not finish."""
    group, release = scenario.sites[0], scenario.releases[0]
    assert isinstance(release, SyntheticRelease)
    names = base_names(scenario)
    ran = [d for d in outcome.devices if d.site == outcome.sites[0].site]
    count = len(ran)
    finished = [d.finished_s for d in ran if d.finished_s is not None]
    if len(finished) < count:
        raise ValueError(f"{scenario.name}: {len(finished)} of {count} devices finished")
    devices = Devices(
        classes=scenario.classes,
        bases=names,
        offsets=np.asarray([0, count], dtype=np.int64),
        order=np.zeros(count),
        site=np.zeros(count, dtype=np.int64),
        cls=np.zeros(count, dtype=np.int64),
        base=np.asarray([names.index(d.base) for d in ran], dtype=np.int64),
        wan=np.ones(count, dtype=bool),
        healthy=np.ones(count, dtype=bool),
        start_s=np.asarray([max(d.started_s or 0.0, 0.0) for d in ran]),
        polls=np.full(count, 0.5),
        luck=np.linspace(0.0, 1.0, count),
    )
    nothing = dict.fromkeys((*BYTE_TERMS, *TIME_TERMS), 0.0)
    none = Parameters(nothing, nothing, nothing, 0.0, NO_ERROR)
    setting = Setting(group, devices, scenario.polling, scenario.policy, none)
    packs = of_synthetic(release)
    known = draw.known(devices, scenario.polling, np.zeros(count), _curve(setting), gossip=True)
    site = outcome.sites[0]
    cheapest = min(site_bytes.on_the_wire(packs.for_base(d.base)) for d in ran)
    return Sample(
        setting, packs, known, float(site.wan_down), float(site.wan_up), max(finished) - float(known.min()),
        float((site.floor_bytes or cheapest) - cheapest),
    )  # fmt: skip


def byte_terms(one: Sample) -> Floats:
    """The terms of `BYTE_TERMS` for a site."""
    setting, load = one.loaded(_unit())
    found = site_bytes.terms(setting, one.packs, load.pack, load.payload, alone=load.alone)
    return np.asarray([float(found[name][0]) for name in BYTE_TERMS])


def time_row(one: Sample, parameters: Parameters) -> tuple[Floats, float]:
    """The terms of `TIME_TERMS` for a site, and the seconds that are known without a fit.

    They are NaN where late starters decide, not the site.
    """
    setting, load = one.loaded(parameters)
    curve = _curve(setting)
    times = site_times(setting, one.packs, load.pack, load.work, curve.rate_max)
    bound = max(float(times.wan[0]), float(times.local[0]))
    row = np.asarray([bound, *(float(times.terms[name][0]) for name in TIME_TERMS[1:])])
    late = float(one.known_s.max() - one.known_s.min())
    return row, float(installing(setting, one.packs).max()) if late <= bound else np.nan


def fit(samples: Sequence[Sample], command: str) -> Parameters:
    """Constants for these sites, without an error; see `measure`."""
    rows = np.stack([byte_terms(s) for s in samples])
    asked = [_asked(s) for s in samples]
    whole_down, whole_up = np.asarray([s.down for s in samples]), np.asarray([s.up for s in samples])
    rest_down = whole_down - np.asarray([float(a.down[0]) for a in asked])
    rest_up = whole_up - np.asarray([float(a.up[0]) for a in asked])
    down = _named(BYTE_TERMS, nonnegative(rows, rest_down, scale=whole_down))
    up = _named(BYTE_TERMS, nonnegative(rows, rest_up, scale=whole_up))
    metadata = float(np.median([s.metadata for s in samples]))
    halfway = Parameters(down, up, dict.fromkeys(TIME_TERMS, 1.0), metadata, NO_ERROR)
    found = [time_row(s, halfway) for s in samples]
    usable = [n for n, (_, fixed) in enumerate(found) if np.isfinite(fixed)]
    matrix = np.stack([found[n][0] for n in usable])
    seconds = np.asarray([samples[n].seconds for n in usable])
    fixed = np.asarray([found[n][1] for n in usable])
    time = _named(TIME_TERMS, nonnegative(matrix, seconds - fixed, scale=seconds))
    return Parameters(down, up, time, metadata, replace(NO_ERROR, command=command))


def measure(sites: Mapping[int, Sequence[Sample]], parameters: Parameters) -> ModelError:
    """The model's relative errors on these sites, by seed, each with one or more runs: bytes down and up
    together, and time. The first run of a site is the one that stands for one."""
    once = {seed: errors(runs[:1], parameters) for seed, runs in sites.items()}
    mean = {seed: errors(runs, parameters) for seed, runs in sites.items()}
    return ModelError(
        held_out=len(sites),
        seeds=min(map(len, sites.values())),
        bytes_once=_off({seed: in_bytes for seed, (in_bytes, _) in once.items()}),
        time_once=_off({seed: in_time for seed, (_, in_time) in once.items()}),
        bytes_mean=_off({seed: in_bytes for seed, (in_bytes, _) in mean.items()}),
        time_mean=_off({seed: in_time for seed, (_, in_time) in mean.items()}),
        command=parameters.error.command,
    )


def _off(errors: Mapping[int, float]) -> Off:
    sizes = {seed: abs(error) for seed, error in errors.items()}
    median, p90, worst = (round(float(q), 4) for q in np.quantile(list(sizes.values()), (0.5, 0.9, 1.0)))
    return Off(median, p90, worst, max(sizes, key=lambda seed: sizes[seed]))


def errors(runs: Sequence[Sample], parameters: Parameters) -> tuple[float, float]:
    """Relative errors of a site's WAN bytes and of its time, both as means of these runs of it; positive:
    the model says more."""
    found = np.asarray([reckoned(one, parameters) for one in runs]).mean(axis=0)
    ran = np.asarray([(one.down + one.up, one.seconds) for one in runs]).mean(axis=0)
    in_bytes, in_time = found / ran - 1.0
    return float(in_bytes), float(in_time)


def reckoned(one: Sample, parameters: Parameters) -> tuple[float, float]:
    """WAN bytes and seconds of a site by the model."""
    setting, load = one.loaded(parameters)
    finished = model.finish(setting, load, _curve(setting))
    asked = asking.first(setting)
    total = float((load.down + load.up + asked.down + asked.up)[0])
    return total, float(finished.max() - one.known_s.min())


def _asked(one: Sample) -> asking.Asked:
    """What is reckoned and not fitted: the first questions, and those that installing brings about."""
    setting = one.setting
    return asking.first(setting).plus(asking.updating(setting, _curve(setting), one.known_s, shared=True))


def nonnegative(matrix: Floats, values: Floats, *, scale: Floats | None = None) -> Floats:
    """Coefficients of 0 or more that leave the least sum of squared relative errors.

    `scale`: what errors are relative to; default the values. Robust: sites far off count less in a second
    pass (weights of Huber).
    """
    base = values if scale is None else scale
    weights = 1.0 / np.maximum(np.abs(base), 1e-9)
    found = np.zeros(matrix.shape[1])
    trust = np.ones(len(values))
    for _ in range(4):
        w = weights * np.sqrt(trust)
        found = _active_set(matrix * w[:, None], values * w)
        off = np.abs(matrix @ found - values) * weights
        bend = 2.0 * max(float(np.median(off)), 1e-4)
        trust = np.minimum(1.0, bend / np.maximum(off, 1e-12))
    return found


def _active_set(matrix: Floats, values: Floats) -> Floats:
    norms = np.maximum(np.linalg.norm(matrix, axis=0), 1e-30)
    scaled = matrix / norms
    used: NDArray[np.bool_] = np.zeros(scaled.shape[1], dtype=bool)
    x = np.zeros(scaled.shape[1])
    for _ in range(ROUNDS):
        gradient = scaled.T @ (values - scaled @ x)
        gradient[used] = -np.inf
        best = int(gradient.argmax())
        if used.all() or gradient[best] <= 1e-9:
            break
        used[best] = True
        while True:
            trial = np.zeros_like(x)
            trial[used] = np.linalg.lstsq(scaled[:, used], values, rcond=None)[0]
            if (trial[used] > 0).all():
                x = trial
                break
            wrong = used & (trial <= 0)
            step = float(np.min(x[wrong] / np.maximum(x[wrong] - trial[wrong], 1e-30)))
            x = x + step * (trial - x)
            used &= x > 1e-12
            x[~used] = 0.0
            if not used.any():
                break
    return np.asarray(x / norms)


def _curve(setting: Setting) -> Curve:
    return of_wan(
        setting.group.wan,
        starts_of_day=0.0,
        horizon_s=1e9,
        transfers=transfers(setting, shared=True),
    )


def _unit() -> Parameters:
    zero = dict.fromkeys(BYTE_TERMS, 0.0)
    return Parameters(zero | {"payload": 1.05}, zero, dict.fromkeys(TIME_TERMS, 1.0), 0.0, NO_ERROR)


def _named(names: Sequence[str], values: Floats) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in zip(names, values, strict=True)}
