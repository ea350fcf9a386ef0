"""Small outcomes for the tests of the report, written by hand so that every figure in them is known."""

from __future__ import annotations

from dataclasses import replace

from sim.fleet.outcome import MARKS, Asking, Estimate, GroupEstimate, ModelError, Off, PlanOutcome, Way
from sim.outcome import DeviceOutcome, RunOutcome, Series, SiteOutcome, Span

DIGEST = "5a" * 32


def device(
    name: str, finished_s: float | None, *, site: str = "depot/0", frames_wan: int = 0, state: str = ""
) -> DeviceOutcome:
    return DeviceOutcome(
        device=name,
        site=site,
        device_class="box",
        base="1.0",
        state=state or ("fetching" if finished_s is None else "committed"),
        started_s=0.0,
        meant_s=1.0,
        verified_s=finished_s,
        finished_s=finished_s,
        wan_bytes=frames_wan + 500,
        frames_wan=frames_wan,
        from_peers=0 if frames_wan else 1000,
        sent=1000 if frames_wan else 0,
        wasted=0,
    )


def site(name: str, down: int, floor: int | None, *, devices: int = 1) -> SiteOutcome:
    return SiteOutcome(name, name.split("/")[0], devices, devices, down, 10, 5000, floor, 0.25, 40.0)


def run(
    *devices: DeviceOutcome,
    sites: tuple[SiteOutcome, ...] = (),
    scenario: str = "depot-night",
    seed: int = 7,
    egress: Series | None = None,
    spans: tuple[Span, ...] = (),
) -> RunOutcome:
    """A run of these devices; completion follows from them. A site that is not given has no floor."""
    known = {s.site for s in sites}
    unknown = dict.fromkeys(d.site for d in devices if d.site not in known)
    sites = (*sites, *(site(name, 0, None) for name in unknown))
    times = sorted(d.finished_s for d in devices if d.finished_s is not None and d.state != "hostile")
    return RunOutcome(
        scenario=scenario,
        seed=seed,
        virtual_s=max(times, default=0.0) + 10.0,
        events=1234,
        trace_digest=DIGEST,
        devices=devices,
        sites=sites,
        origin_egress=egress or Series((0.0, 2.0, 6.0), (0.0, 250_000.0, 0.0)),
        completion=Series((0.0, *times), tuple(float(n) for n in range(len(times) + 1))),
        timelines={"depot/0": spans} if spans else {},
        violations=(),
    )


def depot(*, seed: int = 7, down: int = 1_020_000, scenario: str = "depot-night") -> RunOutcome:
    """Four devices at one site with a floor of 1 MB; one fetched, all finished, the last after 40 s."""
    spans = (
        Span("depot/0/a", "fetched", 2.0, 6.0, 0, 1_000_000),
        Span("depot/0/b", "rode", 3.0, 7.0, 0, 1_000_000, "depot/0/a"),
        Span("depot/0/b", "made", 1.0, 1.5, 1_000_000, 3_000_000),
        Span("depot/0/c", "wasted", 4.0, 5.0, 0, 40_000),
    )
    return run(
        device("depot/0/a", 10.0, frames_wan=1_000_000),
        device("depot/0/b", 20.0),
        device("depot/0/c", 30.0),
        device("depot/0/d", 40.0),
        sites=(site("depot/0", down, 1_000_000, devices=4),),
        scenario=scenario,
        seed=seed,
        spans=spans,
    )


def estimate(way: Way, plan: str, wan_bytes: int) -> Estimate:
    marks = (3600.0, 7200.0, 10_800.0, None)
    return Estimate(
        way=way,
        plan=plan,
        devices=1000,
        finished=995,
        wan_bytes=wan_bytes,
        wan_down=wan_bytes,
        floor_bytes=wan_bytes,
        wan_money=wan_bytes / 1e6,
        origin_money=1.5,
        asking=Asking(2_000_000, 0.02, 3_000_000, 2_000_000, 86_400.0),
        marks_s=marks,
        groups=(
            GroupEstimate("store", 100, 1000, 995, wan_bytes, wan_bytes, wan_bytes, 1.0, 2_000_000, marks),
        ),
        completion=Series((0.0, 3600.0, 7200.0, 10_800.0), (0.0, 500.0, 900.0, 995.0)),
        origin_egress=Series((0.0, 10_800.0), (wan_bytes / 10_800, 0.0)),
        site_bytes=tuple(wan_bytes / 100 * (0.5 + n / 100) for n in range(101)),
        site_floors=tuple(wan_bytes / 101 * (0.5 + n / 100) for n in range(101)),
    )


def plan(*names: str) -> PlanOutcome:
    """A thousand devices; Slipstream takes a hundredth of the bytes of full images."""
    sizes = {Way.FULL: 10**11, Way.DELTA: 10**10, Way.SHARED: 8 * 10**9, Way.SLIPSTREAM: 10**9}
    chosen = names or ("as written",)
    return PlanOutcome(
        scenario="retail-chain",
        seed=1,
        sites=100,
        devices=1000,
        release="engine 2.1.0",
        image_bytes=100_000_000,
        horizon_s=86_400.0,
        plans={name: f"the plan {name}" for name in chosen},
        estimates=tuple(estimate(way, name, size) for name in chosen for way, size in sizes.items()),
        error=ModelError(
            120,
            5,
            Off(0.004, 0.012, 0.021, 7),
            Off(0.05, 0.101, 0.13, 8),
            Off(0.003, 0.011, 0.02, 7),
            Off(0.04, 0.09, 0.12, 9),
            "python benchmarks/fleet_model.py",
        ),
        notes=("clocks are right",),
    )


def renamed(outcome: RunOutcome, old: str, new: str) -> RunOutcome:
    """The same run, a device of it called something else everywhere."""
    spans = {
        name: tuple(replace(s, device=new) if s.device == old else s for s in spans)
        for name, spans in outcome.timelines.items()
    }
    devices = tuple(replace(d, device=new) if d.device == old else d for d in outcome.devices)
    return replace(outcome, devices=devices, timelines=spans)


assert len(MARKS) == len(estimate(Way.FULL, "", 1).marks_s)
