"""What a device is meant to run: only what a valid order and a valid manifest both name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec, encode_manifest
from p2p.content.order import Audience, Member, Order, Phase, PhaseState, PhaseStatus, encode_order
from p2p.trust import Decision, Meant, Nothing, decide

MEMBER = Member("dev-1", "site-1", frozenset({"bench"}))
EVERYBODY = Audience(all=True)


def manifest(counter: int, hardware: str = "board-a") -> Manifest:
    ref = ObjectRef(sha256(b"image"), 5)
    payload = PayloadSpec("rootfs", "rootfs-image", ref, (PackRef(None, ref, ref),))
    return Manifest("p", f"1.{counter}", counter, (hardware,), (payload,))


def order_of(release: Manifest, sequence: int, **changes: object) -> Order:
    order = Order(
        id=f"o{sequence}",
        product=release.product,
        version=release.version,
        counter=release.counter,
        manifest=sha256(encode_manifest(release)),
        sequence=sequence,
        audience=EVERYBODY,
        phases=(Phase("bench", Audience(groups=("bench",))), Phase("all", EVERYBODY)),
    )
    return replace(order, **changes)


def opened(order: Order, count: int = 2, status: PhaseStatus = PhaseStatus.RUNNING) -> PhaseState:
    return PhaseState(order.id, order.product, count, status)


def decision(
    *pairs: tuple[Order, PhaseState | None],
    manifests: tuple[Manifest, ...],
    member: Member = MEMBER,
    hardware: str = "board-a",
    floor: int = 0,
    installed: Digest | None = None,
) -> Decision:
    return decide(
        member,
        "p",
        hardware,
        {sha256(encode_order(order)): order for order, _ in pairs},
        {order.id: state for order, state in pairs if state is not None},
        {sha256(encode_manifest(m)): m for m in manifests},
        floor,
        installed,
    )


def reason(found: Decision) -> str:
    assert isinstance(found, Nothing), found
    assert found.detail
    return found.reason


V1, V2, V3 = manifest(1), manifest(2), manifest(3)
O1, O2, O3 = order_of(V1, 1), order_of(V2, 2), order_of(V3, 3)


def test_an_open_order_and_its_manifest_are_meant() -> None:
    found = decision((O2, opened(O2)), manifests=(V2,))
    assert found == Meant(O2, sha256(encode_order(O2)), V2, sha256(encode_manifest(V2)))


def test_the_highest_sequence_that_is_open_for_the_device_counts() -> None:
    for states, expected in (
        ((2, 2, 2), O3),
        ((2, 2, 0), O2),
        ((2, 0, 0), O1),
    ):
        pairs = [(o, opened(o, n)) for o, n in zip((O1, O2, O3), states, strict=True)]
        found = decision(*pairs, manifests=(V1, V2, V3))
        assert isinstance(found, Meant)
        assert found.order == expected


def test_equal_sequences_are_settled_by_the_id() -> None:
    twin = replace(O2, id="o9")
    for pairs in (((O2, opened(O2)), (twin, opened(twin))), ((twin, opened(twin)), (O2, opened(O2)))):
        found = decision(*pairs, manifests=(V2,))
        assert isinstance(found, Meant)
        assert found.order == twin


@pytest.mark.parametrize(
    "state",
    [
        None,
        opened(O2, 0),
        opened(O2, 2, PhaseStatus.PAUSED),
        opened(O2, 2, PhaseStatus.ABORTED),
        replace(opened(O2), order="o1"),
        replace(opened(O2), product="q"),
    ],
)
def test_an_order_in_no_open_phase_is_not_open(state: PhaseState | None) -> None:
    assert reason(decision((O2, state), manifests=(V2,))) == "not-open"
    assert isinstance(decision((O2, opened(O2)), manifests=(V2,)), Meant)


def test_phases_open_one_by_one() -> None:
    other = replace(MEMBER, groups=frozenset())
    assert isinstance(decision((O2, opened(O2, 1)), manifests=(V2,)), Meant)
    assert reason(decision((O2, opened(O2, 1)), manifests=(V2,), member=other)) == "not-open"
    assert isinstance(decision((O2, opened(O2, 2)), manifests=(V2,), member=other), Meant)


@pytest.mark.parametrize(
    ("audience", "meant"),
    [
        (Audience(), False),
        (Audience(devices=("dev-2",)), False),
        (Audience(devices=("dev-1",)), True),
        (Audience(sites=("site-1",)), True),
        (Audience(groups=("bench",)), True),
        (Audience(groups=("field",)), False),
    ],
)
def test_the_coordinator_cannot_widen_the_audience(audience: Audience, meant: bool) -> None:
    order = replace(O2, audience=audience)
    found = decision((order, opened(order)), manifests=(V2,))
    if meant:
        assert isinstance(found, Meant)
    else:
        assert reason(found) == "no-order"


def test_orders_of_another_product_are_not_ours() -> None:
    foreign = replace(O2, product="q")
    assert reason(decision((foreign, opened(foreign)), manifests=(V2,))) == "no-order"


def test_an_order_without_its_manifest_waits() -> None:
    assert reason(decision((O2, opened(O2)), manifests=())) == "no-manifest"
    assert reason(decision((O2, opened(O2)), manifests=(V1,))) == "no-manifest"


@pytest.mark.parametrize(
    "change",
    [{"version": "1.3"}, {"counter": 3}],
)
def test_an_order_must_say_what_the_manifest_says(change: dict[str, object]) -> None:
    order = replace(O2, **change)
    assert reason(decision((order, opened(order)), manifests=(V2,))) == "manifest-mismatch"
    assert isinstance(decision((O2, opened(O2)), manifests=(V2,)), Meant)


def test_a_refused_order_is_not_replaced_by_an_older_one() -> None:
    lying = replace(O3, counter=9)
    found = decision((O2, opened(O2)), (lying, opened(lying)), manifests=(V2, V3))
    assert reason(found) == "manifest-mismatch"


def test_an_order_for_other_hardware_is_passed_over() -> None:
    other = manifest(3, "board-b")
    newer = order_of(other, 3)
    found = decision((O2, opened(O2)), (newer, opened(newer)), manifests=(V2, other))
    assert isinstance(found, Meant)
    assert found.order == O2
    assert reason(decision((newer, opened(newer)), manifests=(other,))) == "hardware"


@pytest.mark.parametrize(("floor", "allowed"), [(1, True), (2, True), (3, False)])
def test_the_floor(floor: int, allowed: bool) -> None:
    found = decision((O2, opened(O2)), manifests=(V2,), floor=floor)
    if allowed:
        assert isinstance(found, Meant)
    else:
        assert reason(found) == "below-floor"


@pytest.mark.parametrize(("devices", "allowed"), [(("dev-1",), True), (("dev-2",), False)])
def test_a_signed_exception_lets_only_the_named_device_below_its_floor(
    devices: tuple[str, ...], allowed: bool
) -> None:
    order = replace(O2, allow_downgrade=devices)
    found = decision((order, opened(order)), manifests=(V2,), floor=3)
    assert isinstance(found, Meant) is allowed


def test_what_is_installed_is_not_installed_again() -> None:
    digest = sha256(encode_manifest(V2))
    assert reason(decision((O2, opened(O2)), manifests=(V2,), installed=digest)) == "installed"
    assert isinstance(decision((O2, opened(O2)), manifests=(V2,), installed=sha256(b"")), Meant)
