"""What cannot be of timetables: a vehicle at two places at once, at itself, or visiting in a circle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from sim.scenario.model import SiteGroup

Note = Callable[[str, int, str, str], None]
"""Takes the group's name, the number of the stop (in the order of the file), the key and the message."""

END_SLACK_S = 1e-6


def site_names(groups: Sequence[SiteGroup]) -> dict[str, int]:
    """Group name to how many sites it has."""
    return {group.name: group.count for group in groups}


def place_problem(name: str, counts: Mapping[str, int]) -> str | None:
    """Why `name` names no site group (`depot`) and no site (`depot/0`); None if it does."""
    group, slash, number = name.partition("/")
    known = ", ".join(counts) or "none"
    if group not in counts:
        return f"names {group!r}, which is no site (there are: {known})"
    if slash and not (number.isascii() and number.isdigit() and int(number) < counts[group]):
        return f"names {name!r}; the sites of {group} are {group}/0..{group}/{counts[group] - 1}"
    return None


def check_timetables(groups: Sequence[SiteGroup], note: Note) -> None:
    """Tell `note` of every fault."""
    counts = site_names(groups)
    for group in groups:
        _check_times(group, note)
        for number, stop in enumerate(group.timetable):
            if stop.site is None:
                continue
            problem = place_problem(stop.site, counts)
            if problem is None and stop.site.partition("/")[0] == group.name:
                problem = f"is the vehicle's own group: {group.name} cannot stop at itself"
            if problem is not None:
                note(group.name, number, "site", problem)
    _check_circles(groups, note)


def _check_times(group: SiteGroup, note: Note) -> None:
    every = group.timetable_every_s
    order = sorted(range(len(group.timetable)), key=lambda n: group.timetable[n].at_s)
    for before, number in pairwise(order):
        left = group.timetable[before].at_s + group.timetable[before].length_s
        if left > group.timetable[number].at_s + END_SLACK_S:
            note(
                group.name,
                number,
                "at",
                f"is at {group.timetable[number].at_s:g} s, but {group.name} is still at its stop number "
                f"{before + 1} until {left:g} s: it cannot be at two places at once",
            )
    if every and order:
        first, last = group.timetable[order[0]], group.timetable[order[-1]]
        if last.at_s + last.length_s > first.at_s + every + END_SLACK_S:
            note(
                group.name,
                order[-1],
                "length",
                f"lasts until {last.at_s + last.length_s:g} s, but the timetable begins again at "
                f"{first.at_s + every:g} s",
            )


def _check_circles(groups: Sequence[SiteGroup], note: Note) -> None:
    """Vehicles may visit vehicles, but not one another: whose LAN would it be?"""
    stops = {
        group.name: [
            (n, stop.site.partition("/")[0])
            for n, stop in enumerate(group.timetable)
            if stop.site is not None
        ]
        for group in groups
    }
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        for number, target in stops.get(name, []):
            if target in path and target != name:
                circle = " → ".join((*path[path.index(target) :], target))
                note(name, number, "site", f"closes a circle of vehicles that visit each other: {circle}")
            elif target != name and target not in done:
                walk(target, (*path, target))
        done.add(name)

    for name in stops:
        if name not in done:
            walk(name, (name,))
