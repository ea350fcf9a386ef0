"""What charts draw follows from the outcomes: points, order, titles, bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sim.fleet.outcome import PlanOutcome, Way
from sim.outcome import RunOutcome, Series, Span
from sim.report import compose, subject
from sim.report.charts import bill, wan
from sim.report.charts.curves import BAND_POINTS, Curve, completion, egress
from sim.report.charts.timeline import ROWS_MAX, timeline
from sim.report.picture import Picture
from sim.report.thin import POINTS_MAX
from tests.unit.report.samples import depot, device, plan, run, site


def data(picture: Picture) -> list[dict[str, Any]]:
    """All rows of data of a picture, set by set in the order of their first use."""
    return [row for rows in picture.spec["datasets"].values() for row in rows]


def drawn(*outcomes: RunOutcome | PlanOutcome) -> dict[str, Picture]:
    """The pictures of the report of these, by name."""
    _, _, sections = compose(outcomes)
    return {picture.name: picture for section in sections for picture in section.pictures}


def test_completion_follows_the_devices() -> None:
    shown = drawn(depot())["completion"]
    assert shown.title == "All devices finished after 40 s"
    points = [(row["t"], row["v"]) for row in data(shown) if "when" in row]
    assert points[:5] == [(0.0, 0.0), (10.0, 0.25), (20.0, 0.5), (30.0, 0.75), (40.0, 1.0)]
    marks = [row["text"] for row in data(shown) if "text" in row]
    assert sorted(marks) == ["100 % at 40 s", "50 % at 20 s", "90 % at 40 s"]


def test_completion_says_so_when_devices_are_left_behind() -> None:
    shown = drawn(run(device("a", 10.0), device("b", None)))["completion"]
    assert shown.title == "50 % of the devices finished"
    assert [row["text"] for row in data(shown) if "text" in row] == ["50 % at 10 s"]


def test_no_device_finished_is_drawn_as_nothing_finished() -> None:
    shown = drawn(run(device("a", None)))["completion"]
    assert shown.title == "No device finished"
    assert {row["v"] for row in data(shown)} == {0.0}


def test_hostile_devices_are_not_waited_for() -> None:
    shown = drawn(run(device("a", 10.0), device("x", None, state="hostile")))["completion"]
    assert shown.title == "All devices finished after 10 s"


def test_a_run_without_devices_has_no_pictures_that_need_them() -> None:
    assert drawn(run(egress=Series((), ()))) == {}


def test_several_runs_have_a_line_each_named_by_what_differs() -> None:
    shown = drawn(depot(seed=1), depot(seed=2))["completion"]
    assert {row["of"] for row in data(shown)} == {"seed 1", "seed 2"}
    assert shown.title == "All devices finished after 40 s in every run"
    slower = run(device("a", 10.0), device("b", 70.0), seed=3)
    shown = drawn(depot(seed=1), slower)["completion"]
    assert shown.title == "All devices finished, first seed 1 (40 s), last seed 3 (1 min 10 s)"


def test_many_runs_of_one_scenario_are_a_band_that_holds_them_all() -> None:
    runs = [run(device("a", 10.0 + n), device("b", 20.0 + n), seed=n) for n in range(20)]
    shown = drawn(*runs)["completion"]
    rows = data(shown)
    assert "seed 19" in shown.title
    for row in rows:
        values = [sum(t <= row["t"] for t in (10.0 + n, 20.0 + n)) / 2 for n in range(20)]
        assert (row["low"], row["high"]) == (min(values), max(values))
        assert row["low"] <= row["middle"] <= row["high"]
    assert len({row["t"] for row in rows}) == BAND_POINTS + 1


def test_many_runs_of_different_scenarios_share_no_axis_of_time() -> None:
    runs = [depot(scenario=f"random-{n}", seed=n) for n in range(9)]
    _, _, [section] = compose(runs)
    assert "completion" not in {p.name for p in section.pictures}
    assert section.remarks == (
        "Curves over time are left out: 9 runs of 9 scenarios share no axis.",
        "Timelines of the first 8 of 9 sites are shown.",
    )


def test_egress_keeps_the_sum_and_the_peak() -> None:
    steps = Series((0.0, 1.0, 1.001, 8.0), (1e6, 9e6, 2e6, 0.0))
    shown = egress("egress", [Curve("it", steps, 20.0)], "run")
    assert shown is not None
    assert shown.title == "The origin sends 9.00 MB/s at its peak"
    rows = data(shown)[:BAND_POINTS]
    width = rows[1]["t"] - rows[0]["t"]
    sent = 1.0 * 1.0 + 9.0 * 0.001 + 2.0 * 6.999
    assert sum(row["v"] for row in rows) * width == pytest.approx(sent)
    assert max(row["peak"] for row in rows) == pytest.approx(9.0)


def test_an_origin_that_sent_nothing_is_not_drawn() -> None:
    assert egress("egress", [Curve("it", Series((0.0, 5.0), (0.0, 0.0)), 9.0)], "run") is None
    assert completion("completion", [Curve("it", Series((), ()), 9.0)], "run") is None


def test_of_many_runs_the_highest_peaks_are_drawn_and_the_page_says_so() -> None:
    curves = [Curve(f"r{n}", Series((0.0, 5.0), (1000.0 + n, 0.0)), 9.0) for n in range(12)]
    shown = egress("egress", curves, "run")
    assert shown is not None
    assert {row["of"] for row in data(shown)} == {f"r{n}" for n in range(4, 12)}
    assert shown.caption.endswith("Shown: the 8 of 12 runs with the highest peaks.")


def test_sites_stand_beside_their_floors_the_worst_first() -> None:
    sites = (site("a/0", 1_010_000, 1_000_000), site("b/0", 3_000_000, 2_000_000), site("c/0", 700, None))
    shown = wan.sites([subject(run(device("x", 1.0), sites=sites))])
    assert shown is not None
    assert shown.title.endswith("at worst b/0: 1.500 × its floor of 2.00 MB")
    rows = data(shown)
    assert [(r["site"], r["down"], r["floor"]) for r in rows[:3]] == [
        ("b/0", 3.0, 2.0), ("a/0", 1.01, 1.0), ("c/0", 0.0007, None)
    ]  # fmt: skip


def test_many_sites_become_a_distribution_and_the_worst() -> None:
    sites = tuple(site(f"s/{n}", 1_000_000 + 10_000 * n, 1_000_000) for n in range(100))
    shown = wan.sites([subject(run(device("x", 1.0), sites=sites))])
    assert shown is not None
    assert shown.title.startswith("94 of 100 sites took more than 1.05 × the floor; at worst s/99: 1.990 ×")
    curve = [(r["ratio"], r["share"]) for r in data(shown) if "share" in r]
    assert (curve[0], curve[-1]) == ((1.0, 0.01), (1.99, 1.0))
    assert [r["site"] for r in data(shown) if "down" in r][:12] == [f"s/{n}" for n in range(99, 87, -1)]


def test_many_sites_without_any_floor_are_still_drawn() -> None:
    sites = tuple(site(f"s/{n}", 1000 + n, None) for n in range(40))
    shown = wan.sites([subject(run(device("x", 1.0), sites=sites))])
    assert shown is not None
    assert shown.title == "40 sites took WAN bytes, none has a floor; most: s/39"


def test_devices_show_where_their_bytes_came_from() -> None:
    shown = drawn(depot())["devices"]
    assert shown.title == "1 device of 4 fetched frames over the WAN, 1.00 MB; peers passed on 3.00 kB"
    first = [(r["kind"], r["v"]) for r in data(shown) if r["device"] == "depot/0/a"]
    assert first == [("frames over the WAN", 1.0), ("other WAN bytes", 0.0005)]


def test_of_a_large_fleet_only_the_devices_of_a_site_with_a_timeline_are_drawn() -> None:
    many = tuple(device(f"s{n}", 5.0, site=f"shop/{n}", frames_wan=10) for n in range(41))
    one = replace(depot(), devices=(*depot().devices, *many))
    one = replace(one, sites=(*one.sites, *(site(f"shop/{n}", 10, 10) for n in range(41))))
    found = drawn(one)
    assert "devices" not in found
    assert found["devices-1-depot-0"].title.startswith("depot/0: 1 device of 4 fetched frames")


def test_the_worst_seed_is_named_with_its_command() -> None:
    runs = [subject(depot(seed=n, down=1_000_000 + 10_000 * n)) for n in range(1, 8)]
    shown = wan.amplification(runs)
    assert shown is not None
    assert shown.title == (
        "2 of 7 runs took more than 1.05 × the floor: median 1.040, worst 1.070 (depot-night · seed 7)"
    )
    assert shown.caption.endswith("slipstream sim run depot-night --seed 7")
    assert [r["share"] for r in data(shown) if "run" in r][-1] == 1.0
    assert wan.amplification(runs[:1]) is None
    assert "Dashed: the goal of 1.05" in shown.caption
    near = wan.amplification([subject(depot(seed=n, down=1_000_000 + n)) for n in range(7)])
    assert near is not None and "Dashed" not in near.caption, (
        "it would be far from all dots, and is not drawn"
    )


def test_more_runs_than_points_keep_both_ends() -> None:
    runs = [subject(depot(seed=n, down=1_000_000 + n)) for n in range(POINTS_MAX + 500)]
    shown = wan.amplification(runs)
    assert shown is not None
    ratios = [r["ratio"] for r in data(shown) if "run" in r]
    assert ratios[0] == 1.0
    assert ratios[-1] == 1 + (POINTS_MAX + 499) / 1e6
    assert len(set(ratios)) <= POINTS_MAX


def test_a_timeline_tells_who_fetched_and_who_rode() -> None:
    shown = drawn(depot())["timeline-1-depot-0"]
    assert shown.title == (
        "depot/0: 1 device fetched over the WAN, 1 only rode; 40.0 kB of the image came in vain"
    )
    rows = data(shown)
    left, right = rows[:4], rows[4:]
    told = [(r["device"], r["what"], r["from"]) for r in left]
    assert told == [
        ("depot/0/b", "made from what it has", "-"),
        ("depot/0/b", "rode: from a peer", "depot/0/a"),
        ("depot/0/a", "fetched over the WAN", "origin"),
        ("depot/0/c", "wasted", "-"),
    ]
    assert [(r["a"], r["b"]) for r in left] == [(1.0, 1.5), (3.0, 7.0), (2.0, 6.0), (4.0, 5.0)]
    assert [(r["a"], r["b"]) for r in right] == [(1.0, 3.0), (0.0, 1.0), (0.0, 1.0), (0.0, 0.04)]


def test_a_large_site_is_sampled_with_all_that_fetched_most() -> None:
    spans = [Span(f"d{n:03}", "rode", n, n + 1.0, 0, 10, "d000") for n in range(300)]
    spans += [Span(f"d{n:03}", "fetched", n, n + 1.0, 0, 10 + n) for n in range(0, 300, 60)]
    [shown] = timeline("big/0", spans, "t")
    devices = {r["device"] for r in data(shown)}
    assert len(devices) == ROWS_MAX
    assert {"d000", "d060", "d120", "d180", "d240", "d299"} <= devices
    assert f"Shown: {ROWS_MAX} of 300 devices" in shown.caption


def test_a_timeline_of_very_many_spans_stays_small_and_says_so() -> None:
    spans = [Span(f"d{n % 8}", "rode", n * 0.7, n * 0.7 + 0.3, n * 10, n * 10 + 5) for n in range(30_000)]
    [shown] = timeline("big/0", spans, "t")
    assert len(data(shown)) <= POINTS_MAX
    assert "Joined to stay readable" in shown.caption
    assert max(r["b"] for r in data(shown)[: len(data(shown)) // 2]) == pytest.approx(
        (29_999 * 0.7 + 0.3) / 3600
    )


def test_a_site_that_fetched_for_a_short_time_is_shown_closer() -> None:
    spans = [
        Span("a", "fetched", 3600.0, 3660.0, 0, 100),
        Span("b", "rode", 3602.0, 3640.0, 0, 100, "a"),
        Span("c", "rode", 7200.0, 7201.0, 0, 100, "b"),
    ]
    whole, closer = timeline("depot/0", spans, "t")
    assert (whole.name, closer.name) == ("t", "t-closer")
    assert closer.title == "depot/0 while it fetched: 1 min 00 s from 1 h 00 min on"
    assert {r["device"] for r in data(whole)} == {"a", "b", "c"}
    assert {r["device"] for r in data(closer)} == {"a", "b"}
    left = {r["device"]: (r["a"], r["b"]) for r in next(iter(closer.spec["datasets"].values()))}
    assert left["a"] == (3600.0, 3660.0)
    assert left["b"][0] == 3602.0
    assert timeline("depot/0", spans[:2], "t")[1:] == []


def test_something_new_on_a_timeline_is_drawn_under_its_own_name() -> None:
    [shown] = timeline("s", [Span("d", "dreamt", 0.0, 1.0, 0, 5)], "t")
    assert {r["what"] for r in data(shown)} == {"dreamt"}


def test_a_plan_compares_the_four_ways() -> None:
    found = drawn(plan())
    assert list(found) == ["plan-cost", "plan-completion", "plan-egress", "plan-sites"]
    cost = found["plan-cost"]
    assert (
        cost.title == "Release engine 2.1.0 takes 1.00 GB over all WANs with Slipstream, "
        "100 times less than with full images"
    )
    bars = [(r["row"], r["size_text"], r["money_text"]) for r in data(cost) if "size" in r][:4]
    assert bars == [
        ("full, no sharing", "100 GB", "100,002"),
        ("deltas, no sharing", "10.0 GB", "10,002"),
        ("full, shared", "8.00 GB", "8,002"),
        ("slipstream", "1.00 GB", "1,002"),
    ]
    marks = {(r["row"], r["mark"]): r["when"] for r in data(cost) if "mark" in r}
    assert marks["slipstream", "50 %"] == "1 h 00 min"
    assert ("slipstream", "100 %") not in marks
    assert "does not finish within 24 h 00 min" in cost.caption


def test_a_plan_for_one_site_has_no_distribution_over_sites() -> None:
    assert "plan-sites" not in drawn(replace(plan(), sites=1))


def test_a_peak_that_several_share_is_nobodys() -> None:
    curves = [Curve(f"r{n}", Series((0.0, 5.0), (1000.0, 0.0)), 9.0) for n in range(2)]
    shown = egress("egress", curves, "run")
    assert shown is not None
    assert shown.title == "The origin sends 1.00 kB/s at its peak"


def test_plans_are_compared_too() -> None:
    found = drawn(plan("as written", "nights"))
    assert {"plan-plans-completion", "plan-plans-egress"} <= set(found)
    assert {r["of"] for r in data(found["plan-plans-completion"])} == {"as written", "nights"}
    assert {r["row"] for r in data(found["plan-cost"])} >= {"nights: slipstream", "as written: full, shared"}
    lines = found["plan-plans-completion"].spec["layer"][0]["layer"]
    widths = [line["mark"]["strokeWidth"] for line in lines]
    assert widths == [3.5, 2], "the first is seen beside the one that is drawn over it"


def test_a_plan_that_reaches_far_fewer_devices_says_so_beside_its_bytes() -> None:
    compared = plan("as written", "nights")
    few = replace(compared.estimates[-1], finished=107)
    shown = drawn(replace(compared, estimates=(*compared.estimates[:-1], few)))["plan-cost"]
    labels = {r["row"] for r in data(shown)}
    assert "nights: slipstream (10.7 % done)" in labels and "as written: slipstream" in labels


def test_sites_of_a_plan_are_drawn_with_the_floor() -> None:
    shown = bill.per_site(plan().estimates, "x")
    assert shown is not None
    middle = [r["size"] for r in data(shown) if r["of"] == "slipstream" and r["share"] == 0.5]
    assert middle == ["10.0 MB"]
    assert {r["of"] for r in data(shown)} == {*(w.value for w in Way), "floor"}


def tooltips(spec: object) -> list[dict[str, str]]:
    if isinstance(spec, list):
        return [t for below in spec for t in tooltips(below)]
    if isinstance(spec, dict):
        here = spec.get("tooltip", [])
        return [*(here if isinstance(here, list) else []), *tooltips(list(spec.values()))]
    return []


def test_no_tooltip_has_a_heading_that_the_library_takes_for_an_image_to_load() -> None:
    for picture in {**drawn(depot()), **drawn(plan("a", "b"))}.values():
        found = tooltips({k: v for k, v in picture.spec.items() if k != "datasets"})
        assert found, picture.name
        assert not {"image", "title"} & {t.get("title", t["field"]) for t in found}, picture.name


def test_every_picture_says_how_to_read_it() -> None:
    found = {**drawn(depot()), **drawn(depot(seed=1), depot(seed=2)), **drawn(plan("a", "b"))}
    for picture in found.values():
        assert picture.caption.endswith((".", *(f"--seed {n}" for n in (1, 2)))), picture.name
        assert picture.title


def test_one_device_is_a_report_too() -> None:
    one = run(device("a", 5.0, frames_wan=10), sites=(site("depot/0", 10, 10),))
    assert set(drawn(one)) == {"completion", "egress", "sites", "devices"}
    assert set(drawn(replace(one, devices=(replace(one.devices[0], finished_s=0.0),)))) >= {"completion"}
