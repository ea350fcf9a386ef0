"""Whom a node keeps connections to: few of many, alike from both ends, connected over segments."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from p2p.swarm.neighbours import KNOWN_MAX, Neighbours, pair_order


def started(device: str, most: int) -> Neighbours:
    """Of a node that started a while ago."""
    node = Neighbours(device, most)
    node.listened()
    return node


class Graph:
    """Devices that hear of each other and connect as their `Neighbours` say."""

    def __init__(self, devices: Iterable[str], most: int) -> None:
        self.most = most
        self.nodes = {d: started(d, most) for d in devices}
        self.links: dict[str, set[str]] = {d: set() for d in self.nodes}

    def hear(self, device: str, others: Iterable[str]) -> None:
        for other in others:
            self.nodes[device].heard(other)

    def dial(self) -> None:
        """Everybody dials whom it wants, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for device, node in self.nodes.items():
                for other in sorted(self.nodes):
                    if other != device and other in node._known and node.wants(other):
                        changed |= self.connect(device, other)

    def connect(self, one: str, other: str) -> bool:
        if other in self.links[one] or not (self.has_room(one, other) and self.has_room(other, one)):
            return False
        for end, far in ((one, other), (other, one)):
            if len(self.links[end]) >= self.most:
                last = self.nodes[end].displaced(far, self.links[end])
                assert last is not None
                self.links[end].discard(last)
                self.links[last].discard(end)
            self.links[end].add(far)
            self.nodes[end].met(far)
        return True

    def has_room(self, device: str, newcomer: str) -> bool:
        return (
            len(self.links[device]) < self.most
            or self.nodes[device].displaced(newcomer, self.links[device]) is not None
        )

    def reached_from(self, device: str) -> set[str]:
        seen, waiting = {device}, [device]
        while waiting:
            for other in self.links[waiting.pop()]:
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen


def test_where_there_are_few_everybody_keeps_everybody() -> None:
    graph = Graph([f"d{n}" for n in range(9)], most=8)
    for device in graph.nodes:
        graph.hear(device, graph.nodes)
    graph.dial()
    assert all(len(linked) == 8 for linked in graph.links.values())


@pytest.mark.parametrize(("segments", "each", "most"), [(2, 40, 6), (4, 75, 16), (2, 200, 64)])
def test_segments_that_filled_up_before_they_heard_of_each_other_are_connected_in_the_end(
    segments: int, each: int, most: int
) -> None:
    names = [[f"s{s}-d{n}" for n in range(each)] for s in range(segments)]
    graph = Graph([d for segment in names for d in segment], most)
    for segment in names:
        for device in segment:
            graph.hear(device, segment)
    graph.dial()
    assert graph.reached_from(names[0][0]) <= set(names[0])
    for device in graph.nodes:
        graph.hear(device, graph.nodes)
    graph.dial()
    assert graph.reached_from(names[0][0]) == set(graph.nodes)
    degrees = [len(linked) for linked in graph.links.values()]
    assert max(degrees) <= most
    assert sum(degrees) / len(degrees) >= most / 2


def test_the_order_of_hearing_makes_no_difference() -> None:
    names = [f"d{n}" for n in range(100)]
    first, second = started("me", 12), started("me", 12)
    for name in names:
        first.heard(name)
    for name in reversed(names):
        second.heard(name)
    wanted = [name for name in names if first.wants(name)]
    assert len(wanted) == 8
    assert wanted == [name for name in names if second.wants(name)]
    assert not first.wants("unheard-of")


def test_who_has_just_started_dials_few_until_it_has_listened() -> None:
    """Of the first that it hears of it would dial all, and those it hears of next would displace them."""
    node = Neighbours("me", 12)
    names = [f"d{n}" for n in range(100)]
    for name in names:
        node.heard(name)
    assert [name for name in names if node.wants(name)] == names[:3]
    assert node.wanted() == set(names[:3])
    node.listened()
    assert len(node.wanted()) == 8
    assert node.wanted() == {name for name in names if node.wants(name)}


def test_few_are_all_dialled_at_once() -> None:
    node = Neighbours("me", 12)
    for name in ("one", "two", "three"):
        node.heard(name)
        assert node.wants(name)
    assert node.wanted() == {"one", "two", "three"}


def test_who_cannot_be_reached_takes_no_place_until_it_is_met() -> None:
    node = started("me", 6)
    names = [f"d{n}" for n in range(50)]
    for name in names:
        node.heard(name)
    wanted = [name for name in names if node.wants(name)]
    node.failed(wanted[0])
    more = [name for name in names if node.wants(name)]
    assert set(wanted) < set(more)  # it is tried on
    assert len(more) == len(wanted) + 1
    node.met(wanted[0])
    assert wanted == [name for name in names if node.wants(name)]


def test_a_newcomer_displaces_only_who_comes_after_it() -> None:
    node = started("me", 2)
    ranked = sorted((f"d{n}" for n in range(5)), key=lambda d: pair_order("me", d, b"neighbours\0"))
    assert node.displaced(ranked[1], [ranked[0], ranked[3]]) == ranked[3]
    assert node.displaced(ranked[4], [ranked[0], ranked[3]]) is None
    assert node.displaced(ranked[4], []) is None


def test_no_more_are_remembered_than_a_bound() -> None:
    node = started("me", 4)
    for n in range(KNOWN_MAX + 100):
        node.heard(f"d{n}")
    assert len(node._known) == len(node._order) == KNOWN_MAX
    assert sum(node.wants(f"d{n}") for n in range(KNOWN_MAX + 100)) == 2


def test_both_ends_of_a_pair_have_one_place() -> None:
    assert pair_order("a", "b") == pair_order("b", "a") != pair_order("a", "b", b"other")


def test_names_that_lead_nowhere_are_forgotten_before_a_device_that_is_there() -> None:
    """Whoever chooses names can have as many as it likes come before all others."""
    node = started("me", 6)
    names = sorted(
        (f"n{n}" for n in range(KNOWN_MAX + 9)), key=lambda d: pair_order("me", d, b"neighbours\0")
    )
    real = names.pop()
    node.heard(real)
    for name in names:
        node.heard(name)
        node.failed(name)
    assert node.wants(real)
    assert real in node.wanted()
    assert len(node._known) == KNOWN_MAX


def full(device: str, most: int, others: int) -> tuple[Neighbours, list[str]]:
    """A node that has heard of many, and these from the first to the last in its order."""
    node = started(device, most)
    names = [f"d{n}" for n in range(others)]
    for name in names:
        node.heard(name)
    return node, sorted(names, key=lambda d: pair_order(device, d, b"neighbours\0"))


def test_fellows_come_before_all_others_for_a_third_of_the_connections() -> None:
    node, order = full("me", 6, 40)
    *_, one, two, three = order
    assert not node.wants(one)
    node.prefer((one, two, three))
    assert node.wanted() == {one, two, *order[:2]}
    assert node.wants(one)
    assert not node.wants(three)
    assert node.displaced(one, order[:6]) == order[5]
    assert node.displaced(order[0], [one, two]) is None
    node.prefer(())
    assert node.wanted() == set(order[:4])


def test_a_fellow_that_cannot_be_reached_leaves_its_place_to_the_next() -> None:
    node, order = full("me", 6, 40)
    *_, ghost, two, three = order
    node.prefer((ghost, two, three))
    node.failed(ghost)
    assert {two, three} <= node.wanted()
    node.met(ghost)
    assert {ghost, two} <= node.wanted()
    assert three not in node.wanted()


def test_a_fellow_may_be_heard_of_later_than_that_it_is_one() -> None:
    node, _ = full("me", 6, 40)
    node.prefer(("late", "me"))
    assert "late" not in node.wanted()
    node.heard("late")
    assert "late" in node.wanted()
