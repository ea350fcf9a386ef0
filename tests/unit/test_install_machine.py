"""The table of install states, what a crash leaves behind, and the plan."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from p2p.content.digests import sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec
from p2p.errors import ContentError, LocalError, SlotError, SlotFull
from p2p.install import (
    TRANSITIONS,
    BootFacts,
    Effect,
    Event,
    Installed,
    InstallPlan,
    InstallRecord,
    PlannedPayload,
    Release,
    SlotFacts,
    State,
    decode_record,
    encode_record,
    make_plan,
    reconcile,
    step,
)
from p2p.install.diagram import page

IMAGE = sha256(b"image")
RELEASE = Release("gw", "2.0", 7, sha256(b"manifest"), "order-1")
PLAN = InstallPlan("b", (PlannedPayload("rootfs", "rootfs-image", IMAGE, 100),))
HELD = {"rootfs": (IMAGE, 100)}
FULL = InstallRecord(
    state=State.TRIAL,
    release=RELEASE,
    plan=PLAN,
    boot_id="boot-1",
    reason="why",
    installed=Installed(replace(RELEASE, version="1.0"), "a"),
    blocked=(sha256(b"x"), sha256(b"y")),
)


def spec(name: str = "rootfs", size: int = 100, kind: str = "rootfs-image") -> PayloadSpec:
    ref = ObjectRef(sha256(name.encode()), size)
    return PayloadSpec(name, kind, ref, (PackRef(None, ref, ref),))


def manifest(*payloads: PayloadSpec) -> Manifest:
    return Manifest("gw", "2.0", 7, ("rev1",), payloads or (spec(),))


# The table


def test_the_path_of_an_update_is_the_designed_one() -> None:
    record = InstallRecord()
    path = [record.state]
    done: list[Effect] = []
    for event in (
        Event.MEANT, Event.WANTED, Event.PLANNED, Event.BEGUN, Event.OPENED, Event.READ_BACK, Event.ARMING,
        Event.STARTED, Event.HEALTHY, Event.DONE,
    ):  # fmt: skip
        record, effects = step(record, event, release=RELEASE, plan=PLAN, boot_id="1")
        path.append(record.state)
        done += effects
    assert path == [
        State.IDLE, State.VERIFIED, State.FETCHING, State.STAGED, State.SLOT_INVALID, State.WRITING,
        State.WRITTEN, State.ARMED, State.TRIAL, State.COMMITTED, State.IDLE,
    ]  # fmt: skip
    assert done.index(Effect.OPEN_SLOTS) < done.index(Effect.SEAL_SLOTS) < done.index(Effect.ARM_BOOT)
    assert done.index(Effect.CHECK_HEALTH) < done.index(Effect.COMMIT_BOOT) < done.index(Effect.RAISE_FLOOR)
    assert record == InstallRecord(installed=Installed(RELEASE, "b"))


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_what_is_not_in_the_table_is_refused(state: State, event: Event) -> None:
    record = replace(FULL, state=state)
    if (state, event) in TRANSITIONS:
        assert step(record, event)[0].state is TRANSITIONS[state, event].to
        return
    with pytest.raises(LocalError, match=f"{event} is not possible while {state}"):
        step(record, event)


def test_every_state_is_reached_and_left() -> None:
    assert {t.to for t in TRANSITIONS.values()} == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_before_a_slot_is_read_back_nothing_touches_the_boot_environment() -> None:
    boot_effects = {Effect.ARM_BOOT, Effect.REBOOT, Effect.COMMIT_BOOT, Effect.COUNT_ATTEMPT}
    early = (State.VERIFIED, State.FETCHING, State.STAGED, State.SLOT_INVALID, State.WRITING)
    for (state, _), transition in TRANSITIONS.items():
        if state in early:
            assert not boot_effects & set(transition.effects)
    armed = [key for key, t in TRANSITIONS.items() if Effect.ARM_BOOT in t.effects]
    assert armed == [(State.WRITTEN, Event.ARMING)]
    assert [key for key, t in TRANSITIONS.items() if Effect.COMMIT_BOOT in t.effects] == [
        (State.TRIAL, Event.HEALTHY)
    ]


def test_a_failed_trial_blocks_its_manifest_and_a_failed_write_does_not() -> None:
    trial = replace(FULL, blocked=())
    rolled_back, effects = step(trial, Event.UNHEALTHY, reason="no network")
    assert rolled_back.blocked == (RELEASE.manifest,)
    assert rolled_back.reason == "no network"
    assert Effect.ROLL_BACK_BOOT in effects
    failed, effects = step(replace(trial, state=State.WRITING), Event.FAILED, reason="disk full")
    assert failed.blocked == ()
    assert failed.reason == "disk full"
    assert Effect.ROLL_BACK_BOOT not in effects


def test_a_slot_that_never_reads_back_right_blocks_its_manifest_and_touches_no_boot_environment() -> None:
    writing = replace(FULL, state=State.WRITING, blocked=())
    failed, effects = step(writing, Event.UNSOUND, reason="a bad block")
    assert (failed.state, failed.blocked, failed.reason) == (
        State.FAILED, (RELEASE.manifest,), "a bad block",
    )  # fmt: skip
    assert effects == (Effect.CLOSE_SLOTS, Effect.REPORT)


def test_blocked_manifests_are_bounded_and_keep_the_latest() -> None:
    record = FULL
    for n in range(100):
        record = replace(record, state=State.TRIAL, release=replace(RELEASE, manifest=sha256(b"%d" % n)))
        record, _ = step(record, Event.UNHEALTHY)
    assert len(record.blocked) == 64
    assert record.blocked[-1] == sha256(b"99")


def test_the_diagram_in_the_docs_is_the_table() -> None:
    drawn = Path(__file__).parents[2] / "docs" / "architecture" / "install.md"
    assert drawn.read_text() == page(), "run: python -m p2p.install.diagram > docs/architecture/install.md"
    for (state, event), transition in TRANSITIONS.items():
        assert f"| {state} | {event} | {transition.to} |" in page()


# The record


def test_a_record_survives_its_encoding() -> None:
    for record in (InstallRecord(), FULL):
        assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b'"state":"trial"', b'"state":"dancing"', "install.state"),
        (b'"slot":"b"', b'"slot":"../b"', "install.plan.slot"),
        (b'"size":100', b'"size":-1', "size"),
        (b'"spec":1', b'"spec":2', "install.spec"),
        (b'"boot_id"', b'"boots"', "install.boot_id"),
        (b'"reason":"why"', b'"reason":"why","more":1', "install.more"),
        (b'"state"', b'"state', "not valid JSON"),
    ],
)
def test_a_damaged_record_is_refused_by_its_key(old: bytes, new: bytes, complaint: str) -> None:
    good = encode_record(FULL)
    assert old in good
    assert decode_record(good) == FULL
    with pytest.raises(ContentError, match=complaint):
        decode_record(good.replace(old, new, 1))


# Reconciling


BOOTS = [
    BootFacts(active, trial, tried, failed)
    for active in ("a", "b")
    for trial, tried in ((None, 0), ("a", 0), ("a", 1), ("b", 0), ("b", 1))
    for failed in (None, "a", "b")
    if trial != active and not (trial and failed) and failed != active
]


def boot_after(boot: BootFacts, effect: Effect, slot: str | None) -> BootFacts:
    """What the effects do to a boot environment that has one attempt left."""
    match effect:
        case Effect.ARM_BOOT:
            assert slot not in (None, boot.active)
            return BootFacts(boot.active, slot, 0, None)
        case Effect.COUNT_ATTEMPT:
            return replace(boot, tried=boot.tried + 1) if boot.trial else boot
        case Effect.COMMIT_BOOT:
            assert boot.trial is not None and boot.tried
            return BootFacts(boot.trial, None, 0, None)
        case Effect.ROLL_BACK_BOOT:
            return BootFacts(boot.active, None, 0, None)
    return boot


@pytest.mark.parametrize("state", list(State))
def test_reconciling_ends_from_any_combination_and_does_nothing_unsafe(state: State) -> None:
    combinations = itertools.product(BOOTS, (HELD, {}), (True, False), (PLAN, None))
    for boot, images, rebooted, plan in combinations:
        record = replace(FULL, state=state, plan=plan, blocked=())
        trace = []
        for _ in range(8):
            now_rebooted = rebooted and record.boot_id == FULL.boot_id
            finding = reconcile(record, boot, images, rebooted=now_rebooted)
            if finding is None:
                break
            trace.append(finding)
            slot = record.plan.slot if record.plan else None
            effects = list(finding.effects)
            for effect in effects:
                boot = boot_after(boot, effect, slot)
            if finding.event is not None:
                record, effects_after = step(
                    record,
                    finding.event,
                    reason=finding.reason,
                    plan=finding.plan,
                    boot_id="boot-2" if finding.event in (Event.STARTED, Event.FOUND_TRIAL) else None,
                )
                for effect in effects_after:
                    boot = boot_after(boot, effect, record.plan.slot if record.plan else slot)
            if Effect.ARM_BOOT in effects:
                assert images, "only a slot that holds the release is armed"
        else:
            raise AssertionError(f"does not end: {trace}")
        if record.state is State.IDLE:
            assert boot.trial is None and boot.failed is None
        if record.state in (State.TRIAL, State.ARMED):
            assert record.plan is not None
            assert boot.trial == record.plan.slot


@pytest.mark.parametrize(
    ("state", "boot", "images", "rebooted", "event"),
    [
        (State.ARMED, BootFacts("a", "b", 0, None), HELD, True, Event.STARTED),
        (State.ARMED, BootFacts("a", "b", 0, None), HELD, False, None),
        (State.ARMED, BootFacts("a", None, 0, "b"), HELD, True, Event.FELL_BACK),
        (State.ARMED, BootFacts("b", None, 0, None), HELD, True, Event.FOUND_ACTIVE),
        (State.ARMED, BootFacts("a", None, 0, None), {}, True, Event.FAILED),
        (State.TRIAL, BootFacts("a", "b", 1, None), HELD, True, Event.STARTED),
        (State.TRIAL, BootFacts("a", "b", 1, None), HELD, False, None),
        (State.TRIAL, BootFacts("a", None, 0, "b"), HELD, True, Event.FELL_BACK),
        (State.TRIAL, BootFacts("a", None, 0, None), HELD, False, Event.FELL_BACK),
        (State.WRITTEN, BootFacts("a", None, 0, None), HELD, True, None),
        (State.WRITTEN, BootFacts("a", None, 0, None), {}, True, Event.DAMAGED),
        (State.WRITING, BootFacts("a", None, 0, None), {}, True, None),
        (State.WRITING, BootFacts("b", None, 0, None), {}, True, Event.SUPERSEDED),
        (State.COMMITTED, BootFacts("b", None, 0, None), HELD, True, Event.DONE),
        (State.COMMITTED, BootFacts("a", None, 0, "b"), HELD, True, Event.FELL_BACK),
        (State.ROLLED_BACK, BootFacts("a", None, 0, None), HELD, True, Event.DONE),
        (State.ROLLED_BACK, BootFacts("a", None, 0, None), HELD, False, None),
        (State.FAILED, BootFacts("a", None, 0, None), HELD, True, Event.DONE),
        (State.IDLE, BootFacts("a", None, 0, None), {}, True, None),
        (State.IDLE, BootFacts("a", "b", 1, None), {}, True, Event.FOUND_TRIAL),
    ],
)
def test_the_boot_environment_decides(
    state: State,
    boot: BootFacts,
    images: dict[str, tuple[object, int] | None],
    rebooted: bool,
    event: Event | None,
) -> None:
    finding = reconcile(replace(FULL, state=state), boot, images, rebooted=rebooted)
    assert (finding.event if finding else None) is event


def test_an_arm_that_the_record_lost_is_taken_back() -> None:
    finding = reconcile(InstallRecord(), BootFacts("a", "b", 0, None), {}, rebooted=True)
    assert finding is not None
    assert finding.effects == (Effect.ROLL_BACK_BOOT,)


# The plan


def facts(free: int = 1000, held: int = 0, image: bytes | None = None) -> SlotFacts:
    return SlotFacts((sha256(image), 100) if image else None, 1, held, free)


def test_a_plan_names_slot_payloads_and_sizes() -> None:
    plan = make_plan(manifest(spec("rootfs"), spec("boot", 50)), "b", {"rootfs": facts(), "boot": facts()})
    assert plan.slot == "b"
    assert [(p.name, p.size, p.held) for p in plan.payloads] == [("rootfs", 100, False), ("boot", 50, False)]
    assert plan.to_write == plan.payloads


def test_what_the_slot_holds_is_not_written() -> None:
    plan = make_plan(manifest(), "b", {"rootfs": facts(free=0, held=100, image=b"rootfs")})
    assert plan.to_write == ()
    assert len(plan.payloads) == 1


@pytest.mark.parametrize(("free", "fits"), [(100, True), (99, False)])
def test_room_is_counted_to_the_byte(free: int, fits: bool) -> None:
    if fits:
        assert make_plan(manifest(), "b", {"rootfs": facts(free)}).slot == "b"
        return
    with pytest.raises(SlotFull, match="100 bytes more than it holds, 99 are free"):
        make_plan(manifest(), "b", {"rootfs": facts(free)})


def test_payloads_on_one_file_system_share_its_room() -> None:
    both = manifest(spec("rootfs"), spec("boot"))
    with pytest.raises(SlotFull, match="200 bytes more"):
        make_plan(both, "b", {"rootfs": facts(150), "boot": facts(150)})
    apart = {"rootfs": facts(150), "boot": replace(facts(150), filesystem=2)}
    assert len(make_plan(both, "b", apart).payloads) == 2


def test_what_a_slot_has_allocated_counts_and_the_reserve_too() -> None:
    assert make_plan(manifest(), "b", {"rootfs": facts(10, held=95)}).slot == "b"
    with pytest.raises(SlotFull):
        make_plan(manifest(), "b", {"rootfs": facts(10, held=95)}, reserve=6)
    assert make_plan(manifest(), "b", {"rootfs": facts(10, held=95)}, reserve=5).slot == "b"


def test_a_payload_without_a_slot_or_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(SlotError, match="no slot for payload boot") as caught:
        make_plan(manifest(spec("boot")), "b", {"rootfs": facts()})
    assert "[slots.boot]" in caught.value.next_step
    with pytest.raises(SlotError, match="of type 'docker', which this agent cannot install"):
        make_plan(manifest(spec(kind="docker")), "b", {"rootfs": facts()})
    assert make_plan(manifest(spec()), "b", {"rootfs": facts()}).slot == "b"
