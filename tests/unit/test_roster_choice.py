"""Who is in a roster: others of the site, fresh, at most 64, a different part for each caller."""

from __future__ import annotations

from collections import Counter, deque

from coordinator.domain.overview import DeviceView, fleet_overview
from coordinator.domain.roster import ROSTER_MAX, Presence, choose_roster


def site(count: int, seen_at: float = 100.0) -> list[Presence]:
    return [Presence(f"d{n}", f"10.0.0.{n}", 7000, seen_at) for n in range(count)]


def test_a_small_site_gets_everybody_but_the_caller() -> None:
    found = choose_roster(site(5), "d2")
    assert [p.device for p in found] == ["d0", "d1", "d3", "d4"]


def test_who_was_never_seen_is_named_too_the_latest_first() -> None:
    present = [
        Presence("fresh", "h", 1, 40.0),
        Presence("old", "h", 1, 39.9),
        Presence("enrolled", "", 0, 100.0),
    ]
    assert [p.device for p in choose_roster(present, "me")] == ["enrolled", "fresh", "old"]


def test_a_large_site_is_shared_out_evenly_and_stays_connected() -> None:
    present = site(500)
    graph = {p.device: [q.device for q in choose_roster(present, p.device)] for p in present}
    assert {len(found) for found in graph.values()} == {ROSTER_MAX}
    named = Counter(device for found in graph.values() for device in found)
    assert len(named) == 500
    assert max(named.values()) < 2 * ROSTER_MAX
    reached, queue = {"d0"}, deque(["d0"])
    while queue:
        for device in graph[queue.popleft()]:
            if device not in reached:
                reached.add(device)
                queue.append(device)
    assert len(reached) == 500


def test_fleet_overview_adds_up() -> None:
    def view(device: str, where: str, seen_at: int | None, **status: object) -> DeviceView:
        return DeviceView(device, where, (), "board", 0, seen_at, None, dict(status))

    ledger = {"wan": 100, "peers": {"b": 7, "c": 1}, "base": 3, "wasted": 2}
    facts = fleet_overview(
        [
            view("a", "s1", 95, release="1.0", state="idle", ledger=ledger),
            view("b", "s1", 10, release="1.1", state="idle", ledger=ledger),
            view("c", "s2", None),
        ],
        now=100,
        online_s=60,
    )
    assert (facts["devices_enrolled"], facts["devices_online"]) == (3, 1)
    assert facts["releases"] == {"1.0": 1, "1.1": 1, "unknown": 1}
    assert (facts["wan_bytes"], facts["peer_bytes"], facts["wasted_bytes"]) == (200, 16, 4)
    assert [(s["site"], s["wan_bytes"]) for s in facts["sites"]] == [("s1", 200), ("s2", 0)]
