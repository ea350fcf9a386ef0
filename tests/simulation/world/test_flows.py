"""Max-min fairness: no link over its capacity, every flow held by a saturated link, no byte lost."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.world.flows import Flow, Flows, Link, max_min
from sim.world.kernel import Kernel


def _activate(flows: list[Flow]) -> None:
    for flow in flows:
        for link in flow.path:
            link.flows[flow] = link.flows.get(flow, 0) + 1


@st.composite
def _networks(draw: st.DrawFn) -> tuple[list[Link], list[Flow]]:
    links = [Link(str(n), float(draw(st.integers(0, 1000)))) for n in range(draw(st.integers(1, 8)))]
    paths = draw(st.lists(st.lists(st.sampled_from(links), min_size=1, max_size=4), min_size=1, max_size=12))
    caps = draw(st.lists(st.sampled_from([0.0, 0.0, 5.0, 200.0]), min_size=len(paths), max_size=len(paths)))
    flows = [Flow(tuple(path), cap) for path, cap in zip(paths, caps, strict=True)]
    _activate(flows)
    return links, flows


@given(_networks())
def test_rates_are_max_min_fair(network: tuple[list[Link], list[Flow]]) -> None:
    links, flows = network
    rates = max_min(flows)
    load = {link: sum(rates[f] * times for f, times in link.flows.items()) for link in links}
    for link in links:
        assert load[link] <= link.capacity * (1 + 1e-9) + 1e-9
    for flow in flows:
        if flow.cap and rates[flow] >= flow.cap - 1e-9:
            continue
        tight = [link for link in flow.path if load[link] >= link.capacity * (1 - 1e-9) - 1e-9]
        assert any(rates[flow] >= max(rates[f] for f in link.flows) - 1e-6 for link in tight)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_every_byte_crosses_once_whatever_starts_ends_and_changes(seed: int) -> None:
    rng = random.Random(seed)
    kernel = Kernel(seed)
    flows = Flows(kernel)
    links = [Link(str(n), rng.uniform(1e3, 1e6)) for n in range(5)]
    pipes = [Flow(tuple(rng.sample(links, rng.randint(1, 3)))) for _ in range(8)]
    through: list[int] = []
    pushed = cut = 0

    def cut_one(pipe: Flow) -> None:
        nonlocal cut
        under_way = pipe.queued
        crossed = flows.cut(pipe)
        assert 0 <= crossed <= under_way
        cut += under_way
        crossed_sizes.append(crossed)

    crossed_sizes: list[int] = []
    for _ in range(60):
        size = rng.randrange(0, 200_000)
        pushed += size
        kernel.at(rng.uniform(0, 5), flows.push, rng.choice(pipes), size, through.append, size)
    for _ in range(6):
        kernel.at(rng.uniform(0, 5), cut_one, rng.choice(pipes))
        kernel.at(rng.uniform(0, 5), flows.change, rng.choice(links), rng.uniform(1e3, 1e6))
    kernel.run(1e9)
    assert sum(through) + cut == pushed
    assert sum(p.done for p in pipes) == sum(through) + sum(crossed_sizes)
    assert sum(link.carried for link in links) == sum(p.done * len(p.path) for p in pipes)
    assert all(not link.flows for link in links)


def _times(capacity: float, *starts: tuple[float, int]) -> list[float]:
    """When flows that share one link are through; each is (start, bytes)."""
    kernel = Kernel(1)
    flows = Flows(kernel)
    link = Link("l", capacity)
    ends: list[float] = []
    for start, size in starts:
        kernel.at(start, flows.push, Flow((link,)), size, lambda: ends.append(kernel.now))
    kernel.run(1e6)
    return ends


def test_two_flows_share_a_link_while_both_run() -> None:
    assert _times(100.0, (0.0, 100)) == [1.0]
    assert _times(100.0, (0.0, 100), (0.0, 300)) == [2.0, 4.0]
    assert _times(100.0, (0.0, 200), (1.0, 50)) == pytest.approx([2.0, 2.5])


def test_a_link_that_carries_nothing_holds_what_is_queued_until_it_does() -> None:
    kernel = Kernel(1)
    flows = Flows(kernel)
    link = Link("l", 0.0)
    ends: list[float] = []
    flows.push(Flow((link,)), 100, lambda: ends.append(kernel.now))
    kernel.at(7.0, flows.change, link, 100.0)
    kernel.run(100.0)
    assert ends == [8.0]


def test_a_shared_medium_is_crossed_twice() -> None:
    kernel = Kernel(1)
    flows = Flows(kernel)
    air = Link("air", 100.0)
    ends: list[float] = []
    flows.push(Flow((air, air)), 100, lambda: ends.append(kernel.now))
    kernel.run(100.0)
    assert ends == [2.0]
    assert air.carried == 200


def test_what_passes_waits_only_for_what_is_under_way_and_has_passed_too() -> None:
    kernel = Kernel(1)
    flows = Flows(kernel)
    flow = Flow((Link("l", 100.0),))
    ends: list[tuple[str, float]] = []

    def end(name: str) -> None:
        ends.append((name, kernel.now))

    for name in ("one", "two", "three"):
        flows.push(flow, 100, end, name)
    kernel.at(0.5, flows.pass_on, flow, 10, end, "first")
    kernel.at(0.6, flows.pass_on, flow, 10, end, "second")
    kernel.at(1.15, flows.pass_on, flow, 10, end, "third")  # "second" is under way
    kernel.run(100.0)
    names = [name for name, _ in ends]
    assert names == ["one", "first", "second", "third", "two", "three"]
    assert [at for _, at in ends] == pytest.approx([1.0, 1.1, 1.2, 1.3, 2.3, 3.3])
    flows.pass_on(flow, 100, end, "alone")
    kernel.run(200.0)
    assert ends[-1][0] == "alone"


def test_after_a_cut_nothing_has_passed() -> None:
    kernel = Kernel(1)
    flows = Flows(kernel)
    flow = Flow((Link("l", 100.0),))
    ends: list[str] = []
    flows.push(flow, 100, ends.append, "one")
    flows.pass_on(flow, 10, ends.append, "passes")
    kernel.at(0.5, flows.cut, flow)
    kernel.run(1.0)
    for name in ("two", "three"):
        flows.push(flow, 100, ends.append, name)
    flows.pass_on(flow, 10, ends.append, "passes again")
    kernel.run(100.0)
    assert ends == ["two", "passes again", "three"]
