"""Scenarios out of TOML: what is understood, and what a planner is told of faults."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from p2p.errors import ConfigError, OperatorError
from p2p.swarm.allowance import DailyWindow
from sim.scenario.model import (
    Expect,
    Fault,
    FaultKind,
    LanKind,
    Manner,
    Order,
    Outage,
    Phase,
    RepositoryRelease,
    SiteSize,
    SizeKind,
    Stop,
    Traffic,
    Wan,
    Who,
)
from sim.scenario.reading import parse_scenario
from tests.support.scenario_documents import LINES, SMALL, faults, read


def test_the_smallest_document_gets_sound_defaults() -> None:
    scenario = read(SMALL)
    assert scenario.name == "test"
    assert scenario.duration_s == 8 * 3600
    assert scenario.starts_of_day == 22 * 3600
    assert [r.name for r in scenario.releases] == ["2.0"]
    assert scenario.classes[0].bases == {"1.9": 0.6, "none": 0.4}
    depot, _van = scenario.sites
    assert depot.size == SiteSize(SizeKind.FIXED, 8, 8)
    assert depot.classes == {"box": 1.0}
    assert depot.wan is None
    assert scenario.orders == (Order("2.0", (Phase(1.0, 0.0),)),)
    assert scenario.faults == ()
    assert scenario.expect == Expect()


def test_everything_that_can_be_said() -> None:
    scenario = read(
        SMALL.replace("devices = 8", "devices = { median = 6, sigma = 0.4, low = 2, high = 30 }").replace(
            "devices = 1\n", "devices = { low = 1, high = 3 }\ntimetable_every = '1 d'\n"
        )
        + """
[[site.stop]]
at = "23:00"
length = "20 min"
site = "depot/1"
[site.stop.wan]
rate = "1 Mbit/s"
windows = ["22:00-05:00"]
outage = [{ at = 5, length = 6, every = 7 }]
traffic = [{ length = "1 min", every = 60 }]
queue = "80 ms"
gives_way = false

[[order]]
release = "2.0"
[[order.phase]]
share = "5 %"
[[order.phase]]
share = 1
opens = "23:30"

[[fault]]
kind = "hostile"
manner = "liar"
who = "all"
where = "depot/0"
[[fault]]
kind = "clock"
jump = "-2 h"
at = 60
[[fault]]
kind = "crash"
at = "22:10"
length = "1 min"
count = 3
who = "gateway"
every = "1 h"
until = "04:00"

[origin]
capacity = "1 Gbit/s"
price_per_mb = 0.1

[polling]
every = "5 min"
jitter = "10 %"
at_rest = true

[policy]
settle_s = 3
stripe_bytes = "8 MiB"
gateways_max = 2

[expect]
amplification = 1.05
finished = "99 %"
finished_by = "05:00"
"""
    )
    depot, van = scenario.sites
    assert depot.size == SiteSize(SizeKind.LOGNORMAL, 2, 30, 6.0, 0.4)
    assert van.size == SiteSize(SizeKind.UNIFORM, 1, 3)
    wan = Wan(
        125_000.0, windows=(DailyWindow(79_200.0, 18_000.0),), outages=(Outage(5.0, 6.0, 7.0),), queue_s=0.08,
        traffic=(Traffic(0.0, 60.0, 60.0),), gives_way=False,
    )  # fmt: skip
    assert van.timetable == (Stop(3600.0, 1200.0, "depot/1", wan),)
    assert van.timetable_every_s == 86_400
    assert scenario.orders == (Order("2.0", (Phase(0.05, 0.0), Phase(1.0, 5400.0))),)
    assert scenario.faults == (
        Fault(FaultKind.HOSTILE, manner=Manner.LIAR, who=Who.ALL, where="depot/0"),
        Fault(FaultKind.CLOCK, at_s=60.0, size=-7200),
        Fault(
            FaultKind.CRASH, at_s=600.0, length_s=60.0, count=3, who=Who.GATEWAY, every_s=3600.0,
            until_s=21_600.0,
        ),
    )  # fmt: skip
    assert (scenario.origin.capacity, scenario.origin.price_per_mb) == (125e6, 0.1)
    assert (scenario.polling.every_s, scenario.polling.jitter, scenario.polling.at_rest) == (300, 0.1, True)
    assert (scenario.policy.settle_s, scenario.policy.stripe_bytes, scenario.policy.gateways_max) == (
        3.0, 8 << 20, 2,
    )  # fmt: skip
    assert scenario.expect == Expect(1.05, 7 * 3600.0, 0.99)


def test_all_faults_are_told_at_once_with_line_and_key() -> None:
    text = SMALL.replace('"64 MiB"', '"64 Mi"').replace("count = 2", "count = 0") + "[expect]\nquick = 1\n"
    found = faults(text)
    assert len(found) == 3
    assert found[0].startswith("line 6: release[0].size must be a size: bytes, or text such as '64 MiB'")
    assert found[0].endswith("not '64 Mi'")
    assert found[1] == "line 18: site[0].count must be a whole number of 1..10000000, not 0"
    assert (
        found[2]
        == f"line {LINES + 2}: expect.quick is unknown (allowed: amplification, finished, finished_by)"
    )


def test_what_is_missing_is_named() -> None:
    assert [line.partition(":")[0] for line in faults("")] == [
        "duration is missing",
        "release is missing",
        "class is missing",
        "site is missing",
    ]
    assert faults(SMALL.replace('name = "depot"\n', "").replace("[[site]]", "[[site]] # a", 1)) == [
        "line 16: site[0].name is missing: a name (letters, digits, '._+~-'; at most 128)"
    ]


AGAIN = "stored = 1\n[[release.delta]]\nbase = '%s'\nstored = 1"

WRONG = [
    # releases
    ('size = "64 MiB"', "size = 0", "line 6: release[0].size must be a size"),
    ('full = "40 MiB"', 'full = "65 MiB"', "line 7: release[0].full must be at most size"),
    ('stored = "6 MiB"', 'stored = "65 MiB"', "line 10: release[0].delta[0].stored must be at most the size"),
    ('stored = "6 MiB"', 'stored = "6 MiB"\npatched = 0', "release[0].delta[0].patched must be a share"),
    ('stored = "6 MiB"', AGAIN % "none", "release[0].delta[1].base cannot be 'none'"),
    ('stored = "6 MiB"', AGAIN % "1.9", "release[0].delta[1].base is used twice"),
    ('full = "40 MiB"', 'full = "40 MiB"\nchunk = "1 MiB"', "release[0].chunk must be at most 512 KiB"),
    ('full = "40 MiB"', 'full = "40 MiB"\nsise = 1', "line 8: release[0].sise is unknown"),
    # shares and bases
    ("none = 0.4", "none = 0.3", "line 14: class[0].bases has shares that add up to 90 %, not to 100 %"),
    ("none = 0.4", "none = 1.4", "class[0].bases.none must be a share: 0..1"),
    ("none = 0.4", '"1.8" = 0.4', "line 14: class[0].bases.1.8 is a base that no release knows (known: 1.9,"),
    ('name = "box"', "name = 'box'\nhas_wan = 2", "class[0].has_wan must be a share"),
    ('name = "box"', "name = 'box'\nuptime = { on = 5 }", "class[0].uptime.on needs off beside it"),
    ('classes = "box"', 'classes = "bax"', "line 20: site[0].classes names 'bax', which is no class (there"),
    # links
    ("count = 2", "wan = { rate = 0 }", "line 18: site[0].wan.rate must be above 0 and at most 1 Tbit/s"),
    ("count = 2", "wan = { rate = -1 }", "line 18: site[0].wan.rate must be above 0"),
    ("count = 2", 'wan = { rate = "2 Tbit/s" }', "line 18: site[0].wan.rate must be above 0"),
    ("count = 2", "wan = { delay = 1 }", "line 18: site[0].wan.rate is missing"),
    ("count = 2", "wan = { rate = 1, loss = 1 }", "site[0].wan.loss must be a share of lost packets below 1"),
    ("count = 2", "wan = { rate = 1, windows = ['1:00'] }", "wan.windows must each be a daily window"),
    ("count = 2", "wan = { rate = 1, windows = '1:00-2:00' }", "site[0].wan.windows must be a list"),
    (
        "count = 2",
        "wan = { rate = 1, outage = [{ at = 1, length = 5, every = 5 }] }",
        "site[0].wan.outage[0].every must be longer than length",
    ),
    (
        "count = 2",
        "wan = { rate = 1, traffic = [{ length = 5, every = 4 }] }",
        "site[0].wan.traffic[0].every must not be shorter than length",
    ),
    ("count = 2", "wan = { rate = 1, traffic = [{ at = 1 }] }", "site[0].wan.traffic[0].length is missing"),
    ("count = 2", "wan = { rate = 1, gives_way = 1 }", "site[0].wan.gives_way must be true or false, not 1"),
    ("count = 2", "wan = 5", "line 18: site[0].wan must be a table"),
    ("count = 2", "lan = { kind = 'mesh' }", "site[0].lan.kind must be one of switched, wifi, not 'mesh'"),
    ("count = 2", "lan = { degree_max = 1 }", "site[0].lan.degree_max must be a whole number of 2..10000"),
    # sites
    ("devices = 8", "devices = 0", "line 19: site[0].devices must be a number of devices (1..100000)"),
    ("devices = 8", "devices = 8.0", "site[0].devices must be a number of devices"),
    ("devices = 8", "", "line 16: site[0].devices is missing: a number of devices"),
    ("devices = 8", "devices = { low = 3, high = 2 }", "site[0].devices.high must be 3 or more"),
    ("devices = 8", "devices = { low = 3 }", "site[0].devices.high is missing"),
    ("devices = 8", "devices = { median = 0 }", "site[0].devices.median must be a number above 0"),
    ('name = "van"', 'name = "depot"', "line 23: site[1].name is used twice: there is another site group"),
    ("count = 2", "count = 2\ntimetable_every = 5", "site[0].timetable_every is of no use without"),
    ('duration = "8 h"', "duration = 0", "line 1: duration must be a time of more than 0"),
    ('starts = "22:00"', 'starts = "22"', "line 2: starts must be a time of day"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "told"), WRONG, ids=[w[2][:60] for w in WRONG])
def test_a_wrong_value_is_told_with_what_is_allowed(right: str, wrong: str, told: str) -> None:
    read(SMALL)  # the twin that is right
    assert right in SMALL
    found = faults(SMALL.replace(right, wrong, 1))
    assert len(found) == 1, found
    assert told in found[0]


ADDED = [
    ("[[order]]\nrelease = '2.1'", "order[0].release names '2.1', which is no release (there are: 2.0)"),
    ("[[order]]\nrelease = '2.0'\nphase = [{ share = 0 }]", "order[0].phase[0].share must be a share"),
    ("[[order]]\nrelease = '2.0'\nphase = [{ share = 1, opens = '8 h' }]", "opens is after the end"),
    (
        "[[order]]\nrelease = '2.0'\nphase = [{ share = 0.5 }, { share = 0.4, opens = 1 }]",
        "order[0].phase[1].share and opens must not be below those of the phase before",
    ),
    ("[[fault]]\nkind = 'flood'", "fault[0].kind must be one of crash, restart, leave"),
    ("[[fault]]\nkind = 'crash'", "fault[0].length is missing"),
    ("[[fault]]\nkind = 'crash'\nlength = 0", "fault[0].length must be a time of more than 0"),
    ("[[fault]]\nkind = 'cut'\nfactor = 0.5", "fault[0].factor is of no use to cut (it takes at, every"),
    ("[[fault]]\nkind = 'hostile'\nmanner = 'rude'", "fault[0].manner must be one of poison, liar"),
    ("[[fault]]\nkind = 'hostile'", "fault[0].manner is missing"),
    ("[[fault]]\nkind = 'cut'\nwhere = 'port'", "fault[0].where names 'port', which is no site (there"),
    ("[[fault]]\nkind = 'cut'\nwhere = 'depot/2'", "the sites of depot are depot/0..depot/1"),
    ("[[fault]]\nkind = 'cut'\nwhere = 'depot/x'", "the sites of depot are depot/0..depot/1"),
    ("[[fault]]\nkind = 'cut'\nat = '9 h'", "fault[0].at is after the end of the run (28800 s)"),
    ("[[fault]]\nkind = 'cut'\nevery = 5", "fault[0].every needs until"),
    ("[[fault]]\nkind = 'wan-slow'\nlength = 5\nfactor = 1", "fault[0].factor must be a share of the rate"),
    ("[[fault]]\nkind = 'bit-rot-base'\nsize = 0", "fault[0].size must be a size"),
    ("[expect]\namplification = 0.9", "expect.amplification must be a number of 1 or more"),
    ("[expect]\namplification = true", "expect.amplification must be a number of 1 or more"),
    ("[policy]\nsettle_s = -1", "policy.settle_s must be a time of 0 or more"),
    ("[policy]\ngateways_max = 0", "policy.gateways_max must be a size: bytes"),
    ("[policy]\npatience = 0", "policy.patience is unknown (allowed:"),
    ("[polling]\nevery = 0", "polling.every must be a time of more than 0"),
    ("[polling]\nat_rest = 1", "polling.at_rest must be true or false"),
    ("[origin]\ncapacity = 0", "origin.capacity must be above 0"),
    ("[trains]\nx = 1", "trains is unknown (allowed: class, cost, description, duration, expect, fault"),
    ("[cost]\nlan_gb = -1", "cost.lan_gb must be what it is worth in bytes over the WAN"),
    ("[cost]\nlan = 1", "cost.lan is unknown (allowed: cpu_hour, energy_kwh, lan_gb)"),
]  # fmt: skip


@pytest.mark.parametrize(("added", "told"), ADDED, ids=[told[:60] for _, told in ADDED])
def test_a_wrong_addition_is_told_with_its_line(added: str, told: str) -> None:
    found = faults(SMALL + added + "\n")
    assert len(found) == 1, found
    assert told in found[0]
    assert found[0].startswith(f"line {LINES + 1 + added.count(chr(10))}: ") or found[0].startswith("line ")
    assert int(found[0].split()[1].rstrip(":")) > LINES


STOPS = """\
[[site.stop]]
at = 100
length = 50
site = "depot/0"
[[site.stop]]
at = {at}
length = 50
{rest}
"""


@pytest.mark.parametrize(
    ("at", "rest", "told"),
    [
        (120, "site = 'depot/1'", "stop[1].at is at 120 s, but van is still at its stop number 1 until 150"),
        (60, "site = 'depot/1'", "stop[0].at is at 100 s, but van is still at its stop number 2 until 110"),
        (200, "site = 'van'", "site[1].stop[1].site is the vehicle's own group: van cannot stop at itself"),
        (200, "site = 'port'", "site[1].stop[1].site names 'port', which is no site"),
        (200, "site = 'depot/2'", "site[1].stop[1].site names 'depot/2'; the sites of depot are"),
        (200, "", "site[1].stop[1].site is missing: a stop needs a site, a wan table or both"),
    ],
)  # fmt: skip
def test_a_timetable_that_cannot_be_is_told(at: int, rest: str, told: str) -> None:
    read(SMALL + STOPS.format(at=150, rest="site = 'depot/1'"))
    found = faults(SMALL + STOPS.format(at=at, rest=rest))
    assert len(found) == 1, found
    assert told in found[0]


def test_a_timetable_may_begin_again_only_when_it_is_over() -> None:
    stops = STOPS.format(at=200, rest="site = 'depot'")
    every = SMALL.replace("devices = 1\n", "devices = 1\ntimetable_every = 150\n")
    assert read(every + stops).sites[1].timetable_every_s == 150
    found = faults(every.replace("= 150", "= 149") + stops)
    assert len(found) == 1
    assert "stop[1].length lasts until 250 s, but the timetable begins again at 249 s" in found[0]


def test_vehicles_must_not_visit_each_other_in_a_circle() -> None:
    stop = '[[site.stop]]\nat = 1\nlength = 1\nsite = "%s"\n'
    visit = stop % "bus"
    third = '[[site]]\nname = "bus"\ndevices = 1\nclasses = "box"\n' + stop
    read(SMALL + visit + third % "depot")  # a van that visits a bus which visits a depot
    found = faults(SMALL + visit + third % "van/0")
    assert len(found) == 1
    assert found[0].endswith("closes a circle of vehicles that visit each other: van → bus → van")


def test_shares_that_were_rounded_are_mended_and_others_stay_to_the_bit() -> None:
    third = read(
        SMALL.replace('"1.9" = "60 %", none = 0.4', '"1.9" = "33.3 %", "2.0" = "33.3 %", none = "33.3 %"')
    )
    assert sum(third.classes[0].bases.values()) == pytest.approx(1, abs=1e-12)
    assert read(SMALL).classes[0].bases["1.9"] == 0.6


REPOSITORY = """
[[release]]
name = "3.0"
repository = "fleet"
product = "engine"
version = "3.0.1"
bases = { "2.0" = "2.0.0" }
[[order]]
release = "3.0"
"""


def test_a_release_of_a_repository_is_looked_up_there() -> None:
    asked = []

    def versions(path: Path, product: str) -> Collection[str]:
        asked.append((path, product))
        return {"2.0.0", "3.0.1"}

    scenario = read(SMALL + REPOSITORY, versions)
    assert scenario.releases[1] == RepositoryRelease(
        "3.0", Path("/here/fleet"), "engine", "3.0.1", {"2.0": "2.0.0"}
    )
    assert asked == [(Path("/here/fleet"), "engine")]
    assert read(SMALL + REPOSITORY) == scenario  # kept runs are read without their repository
    old, bad = LINES + 7, LINES + 6
    assert faults(SMALL + REPOSITORY, lambda path, product: {"3.0.1"}) == [
        f"line {old}: release[1].bases.2.0 names '2.0.0', which is not in /here/fleet (there are: 3.0.1)"
    ]
    assert faults(SMALL + REPOSITORY, lambda path, product: {"2.0.0"}) == [
        f"line {bad}: release[1].version '3.0.1' of engine is not in /here/fleet (there are: 2.0.0)"
    ]

    def none(path: Path, product: str) -> Collection[str]:
        raise OperatorError(f"{path} is not a Slipstream repository")

    assert faults(SMALL + REPOSITORY, none) == [
        f"line {LINES + 4}: release[1].repository cannot be used: /here/fleet is not a Slipstream repository"
    ]


def test_which_of_two_releases_to_install_must_be_said() -> None:
    found = faults(SMALL + REPOSITORY.partition("[[order]]")[0])
    assert found == ["order is missing: which of the releases 2.0, 3.0 to install"]


def test_a_document_may_describe_only_a_fleet() -> None:
    head, _, rest = SMALL.partition("[[release]]")
    fleet = head + rest[rest.index("[[class]]") :]
    given = RepositoryRelease("new", Path("/r"), "engine", "2", {"1.9": "1.9"})
    scenario = parse_scenario(fleet.encode(), source="f.toml", directory=Path("/"), releases=(given,))
    assert scenario.releases == (given,)
    assert scenario.orders == (Order("new"),)
    assert "release is missing" in faults(fleet)[0]


def test_text_that_is_no_toml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        read("[[site]]\nid = = 1\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_scenario(b"\xff", source="x", directory=Path())
    with pytest.raises(ConfigError, match="over"):
        parse_scenario(b" " * (9 << 20), source="x", directory=Path())


@pytest.mark.parametrize("kind", list(LanKind))
def test_a_lan_is_what_it_says(kind: LanKind) -> None:
    assert read(SMALL.replace("count = 2", f"lan = {{ kind = '{kind}' }}")).sites[0].lan.kind is kind
