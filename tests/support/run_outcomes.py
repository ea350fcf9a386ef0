"""Outcomes of runs that nobody ran, for tests of what is done with outcomes."""

from __future__ import annotations

from sim.outcome import DeviceOutcome, RunOutcome, Series, SiteOutcome, Span, Violation

DIGEST = "ab" * 32


def device(
    name: str, site: str, finished_s: float | None, *, state: str = "", wan_bytes: int = 0
) -> DeviceOutcome:
    return DeviceOutcome(
        device=name,
        site=site,
        device_class="box",
        base="none",
        state=state or ("committed" if finished_s is not None else "fetching"),
        started_s=0.0,
        meant_s=1.5,
        verified_s=None if finished_s is None else finished_s - 1,
        finished_s=finished_s,
        wan_bytes=wan_bytes,
        frames_wan=0,
        from_peers=0,
        sent=0,
        wasted=0,
    )


def site(name: str, devices: int, wan_down: int, floor: int | None, money: float = 0.0) -> SiteOutcome:
    group = name.partition("/")[0]
    return SiteOutcome(name, group, devices, devices, wan_down, 10, 0, floor, money, None)


def outcome(
    devices: tuple[DeviceOutcome, ...],
    sites: tuple[SiteOutcome, ...],
    *,
    scenario: str = "test",
    seed: int = 1,
    digest: str = DIGEST,
    violations: tuple[Violation, ...] = (),
    timelines: dict[str, tuple[Span, ...]] | None = None,
) -> RunOutcome:
    return RunOutcome(
        scenario=scenario,
        seed=seed,
        virtual_s=100.0,
        events=1234,
        trace_digest=digest,
        devices=devices,
        sites=sites,
        origin_egress=Series((0.0, 1.1), (2e6, 0.0)),
        completion=Series((0.0, 50.0), (0.0, float(len(devices)))),
        timelines=timelines or {},
        violations=violations,
    )
