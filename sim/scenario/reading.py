"""A TOML document to a `Scenario`, strictly: all faults at once, each with line, key and what is allowed.

The format is described in `docs/sim.md`. What stands in a repository is asked of a function that the
caller gives (`sim.runs.repositories`), so that nothing here opens a file.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path

from p2p.config.cost import read_weights
from p2p.config.table import Problems, Table
from p2p.content.limits import CHUNK_SIZE_MAX, IMAGE_SIZE_MAX, KIB
from p2p.errors import ConfigError, SlipstreamError
from p2p.swarm.policy import PeerDeltas, Policy
from sim.scenario import quantities as q
from sim.scenario.fault_tables import read_fault
from sim.scenario.model import (
    NO_BASE,
    DeltaSpec,
    Expect,
    Fault,
    Order,
    Origin,
    Phase,
    Polling,
    Release,
    RepositoryRelease,
    Scenario,
    SiteGroup,
    SyntheticRelease,
)
from sim.scenario.sections import choice, duration, each, moment, rate, share, size, tell_apart
from sim.scenario.site_tables import read_class, read_site
from sim.scenario.timetables import check_timetables, place_problem, site_names

__all__ = ["SCENARIO_SIZE_MAX", "Versions", "parse_scenario"]

SCENARIO_SIZE_MAX = 8 << 20
CHUNK_MIN = 4 * KIB
RUN_MAX_S = 366 * 86_400.0

Versions = Callable[[Path, str], Collection[str]]
"""The versions of a product in a repository directory; raises `SlipstreamError` if it is none."""


def parse_scenario(
    data: bytes,
    *,
    source: str,
    directory: Path,
    versions: Versions | None = None,
    releases: tuple[Release, ...] = (),
) -> Scenario:
    """Parse and check a document; raises `ConfigError` (exit code 2) naming every fault.

    `source` is named in messages, and its last part is the name of a scenario that has none. Relative
    paths start at `directory`. `versions` looks into repositories; without it they are taken as named.
    `releases` come on top of the document's, for a document that describes only a fleet.
    """
    if len(data) > SCENARIO_SIZE_MAX:
        raise ConfigError(f"{source}: over {SCENARIO_SIZE_MAX} bytes, so it is no scenario")
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid TOML: {error}", next_step="correct that line") from error
    problems = Problems(text)
    name = source.rpartition("/")[2].removesuffix(".toml")
    scenario = _Reader(Table(document, (), problems, directory), versions).read(name, releases)
    if problems.found:
        lines = "\n".join(f"  {line}" for line in problems.lines())
        count = "1 fault" if len(problems.found) == 1 else f"{len(problems.found)} faults"
        raise ConfigError(
            f"{source}: {count}\n{lines}",
            next_step="docs/sim.md has every key; `slipstream sim show depot-night --toml` is an example",
        )
    return scenario


class _Reader:
    """One document being read."""

    def __init__(self, root: Table, versions: Versions | None) -> None:
        self._root = root
        self._versions = versions
        self._starts_of_day = 0.0

    def read(self, name: str, given: tuple[Release, ...]) -> Scenario:
        root = self._root
        self._starts_of_day = root.quantity("starts", q.CLOCK_WHAT, q.time_of_day, default=0.0)
        duration_s = duration(root, "duration", above_0=True)
        if duration_s > RUN_MAX_S:
            root.fault("duration", "must be at most a year")
        release_tables = root.tables("release", required=not given)
        releases = (*(self._release(table) for table in release_tables), *given)
        class_tables = root.tables("class", required=True)
        classes = tuple(read_class(table) for table in class_tables)
        site_tables = root.tables("site", required=True)
        sites = tuple(read_site(table, self._starts_of_day) for table in site_tables)
        tell_apart(release_tables, [r.name for r in releases[: len(release_tables)]], "release")
        tell_apart(class_tables, [c.name for c in classes], "class")
        tell_apart(site_tables, [s.name for s in sites], "site group")
        self._check_bases(class_tables, releases)
        self._check_sites(site_tables, sites, {c.name for c in classes})
        orders = self._orders(releases, duration_s)
        faults = self._faults(sites, duration_s)
        names = "origin", "polling", "policy", "cost", "expect"
        origin, polling, policy, cost, expect = (root.table(n) for n in names)
        scenario = Scenario(
            name=root.name("name") if root.has("name") else name,
            description=root.text("description", default="") or "",
            duration_s=duration_s,
            releases=releases,
            classes=classes,
            sites=sites,
            orders=orders,
            faults=faults,
            origin=Origin(
                capacity=rate(origin, "capacity", 0.0),
                price_per_mb=origin.quantity("price_per_mb", q.MONEY_WHAT, q.money, default=0.0),
            ),
            polling=Polling(
                every_s=duration(polling, "every", Polling().every_s, above_0=True),
                jitter=share(polling, "jitter", Polling().jitter),
                at_rest=polling.boolean("at_rest", default=False),
                lookout=polling.boolean("lookout", default=True),
            ),
            policy=dataclasses.replace(_policy(policy), cost=read_weights(cost)),
            expect=self._expect(expect),
            starts_of_day=self._starts_of_day,
        )
        others = origin, polling, policy, cost, expect, root
        for table in (*release_tables, *class_tables, *site_tables, *others):
            table.finish()
        return scenario

    def _release(self, table: Table) -> Release:
        name = table.name("name")
        if table.has("repository"):
            return self._repository_release(table, name)
        image = size(table, "size", low=1)
        if image > IMAGE_SIZE_MAX:
            table.fault("size", f"must be at most {IMAGE_SIZE_MAX} bytes")
        full = size(table, "full", low=1)
        known = bool(q.size(table.value("size")))
        if known and full > image:
            table.fault(
                "full", "must be at most size: a full pack is stored as it is where nothing compresses"
            )
        chunk = size(table, "chunk", SyntheticRelease("", 0, 0).chunk, low=CHUNK_MIN)
        if chunk > CHUNK_SIZE_MAX:
            table.fault("chunk", f"must be at most {CHUNK_SIZE_MAX // KIB} KiB, as in real packs")
        delta_tables = table.tables("delta")
        deltas = tuple(self._delta(inside, image if known else IMAGE_SIZE_MAX) for inside in delta_tables)
        seen: set[str] = set()
        for inside, delta in zip(delta_tables, deltas, strict=True):
            if delta.base in seen:
                inside.fault("base", f"is used twice: there is another delta from {delta.base!r}")
            if delta.base in (NO_BASE, name):
                inside.fault("base", f"cannot be {delta.base!r}: a delta needs another image to start from")
            seen.add(delta.base)
        return SyntheticRelease(name, image, full, deltas, chunk)

    def _delta(self, table: Table, image: int) -> DeltaSpec:
        found = DeltaSpec(
            base=table.name("base"),
            stored=size(table, "stored", low=1),
            patched_share=share(table, "patched", DeltaSpec("", 0).patched_share, above_0=True),
            published=table.boolean("published", default=True),
        )
        if found.stored > image:
            table.fault("stored", "must be at most the size of the image")
        table.finish()
        return found

    def _repository_release(self, table: Table, name: str) -> RepositoryRelease:
        path = table.path("repository")
        product, version = table.name("product"), table.name("version")
        bases_table = table.table("bases")
        bases = {base: bases_table.name(base) for base in bases_table.keys()}  # noqa: SIM118 (a `Table` is no mapping)
        if self._versions is not None and product and version:
            try:
                there = self._versions(path, product)
            except SlipstreamError as error:
                table.fault("repository", f"cannot be used: {error.message}")
            else:
                shown = ", ".join(sorted(there)) or "none"
                if version not in there:
                    table.fault("version", f"{version!r} of {product} is not in {path} (there are: {shown})")
                for base, old in bases.items():
                    if old and old not in there:
                        bases_table.fault(base, f"names {old!r}, which is not in {path} (there are: {shown})")
        return RepositoryRelease(name, path, product, version, bases)

    def _check_bases(self, tables: list[Table], releases: tuple[Release, ...]) -> None:
        known = {NO_BASE}
        for release in releases:
            known.add(release.name)
            known |= (
                {delta.base for delta in release.deltas}
                if isinstance(release, SyntheticRelease)
                else set(release.bases)
            )
        for table in tables:
            bases = table.value("bases")
            for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, dict) else ():
                if base not in known:
                    table.fault(
                        f"bases.{base}" if isinstance(bases, dict) else "bases",
                        f"is a base that no release knows (known: {', '.join(sorted(known))})",
                    )

    def _check_sites(self, tables: list[Table], sites: tuple[SiteGroup, ...], classes: set[str]) -> None:
        by_name = {}
        for table, site in zip(tables, sites, strict=True):
            by_name[site.name] = table
            for name in site.classes:
                if name not in classes:
                    table.fault("classes", f"names {name!r}, which is no class (there are: {_list(classes)})")
            if site.timetable_every_s and not site.timetable:
                table.fault("timetable_every", "is of no use without a [[site.stop]]")
        check_timetables(
            sites, lambda name, n, key, message: by_name[name].fault(f"stop[{n}].{key}", message)
        )

    def _orders(self, releases: tuple[Release, ...], duration_s: float) -> tuple[Order, ...]:
        names = {release.name for release in releases}
        if not self._root.has("order"):
            self._root.value("order")
            if len(releases) > 1:
                self._root.fault("order", f"is missing: which of the releases {_list(names)} to install")
            return tuple(Order(release.name) for release in releases[:1])

        def read(table: Table) -> Order:
            release = table.name("release")
            if release and release not in names:
                table.fault("release", f"names {release!r}, which is no release (there are: {_list(names)})")
            phases = each(table, "phase", lambda phase: self._phase(phase, duration_s))
            for n, (before, phase) in enumerate(pairwise(phases), 1):
                if phase.opens_s < before.opens_s or phase.share < before.share:
                    table.fault(f"phase[{n}].share", "and opens must not be below those of the phase before")
            return Order(release, phases or Order("").phases)

        return each(self._root, "order", read)

    def _phase(self, table: Table, duration_s: float) -> Phase:
        found = Phase(
            share=share(table, "share", above_0=True),
            opens_s=moment(table, "opens", self._starts_of_day, 0.0),
        )
        if found.opens_s >= duration_s:
            table.fault("opens", f"is after the end of the run ({duration_s:g} s)")
        return found

    def _faults(self, sites: tuple[SiteGroup, ...], duration_s: float) -> tuple[Fault, ...]:
        counts = site_names(sites)

        def read(table: Table) -> Fault | None:
            found = read_fault(table, self._starts_of_day)
            if found is not None and found.where is not None:
                problem = place_problem(found.where, counts)
                if problem is not None:
                    table.fault("where", problem)
            if found is not None and found.at_s >= duration_s:
                table.fault("at", f"is after the end of the run ({duration_s:g} s)")
            return found

        return tuple(fault for fault in each(self._root, "fault", read) if fault is not None)

    def _expect(self, table: Table) -> Expect:
        what = "a number of 1 or more, such as 1.05"
        return Expect(
            amplification_max=table.quantity("amplification", what, _at_least_1, default=0.0),
            finished_by_s=moment(table, "finished_by", self._starts_of_day, 0.0),
            finished_share=share(table, "finished", 1.0),
        )


def _at_least_1(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value is not True and 1 <= value < 1e9 else None


def _policy(table: Table) -> Policy:
    """The swarm's own numbers: fields in seconds take times, the others whole numbers or sizes."""
    found: dict[str, float | int | PeerDeltas] = {}
    default = Policy()
    for field in dataclasses.fields(Policy):
        if field.name == "cost":
            continue  # a table of its own
        standard = getattr(default, field.name)
        if isinstance(standard, float):
            found[field.name] = duration(table, field.name, standard)
        elif isinstance(standard, PeerDeltas):
            found[field.name] = choice(table, field.name, PeerDeltas, standard) or standard
        else:
            found[field.name] = size(table, field.name, standard, low=1)
    return dataclasses.replace(default, **found)  # type: ignore[arg-type]  # each as its default is


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
