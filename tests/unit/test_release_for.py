"""From a timestamp to the release that a device is meant to run, over a whole repository."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec, encode_manifest
from p2p.content.order import Audience, Member, Order, Phase, PhaseState, encode_order, encode_phase_state
from p2p.errors import OriginError, TrustError
from p2p.trust import Decision, Meant, Need, Nothing, Question, TrustClient, release_for, run, run_async
from tests.support.tuf_repository import DAY, NOW, MemoryStore, Repository, Source

MEMBER = Member("dev-1", "site-1")
CHECK = ["metadata/2.root.json", "metadata/timestamp.json"]


class Fleet(Repository):
    """A repository of the product's whole layout; releases and orders of product `p`."""

    def __init__(self, *, threshold: int = 1, keys: int = 1) -> None:
        super().__init__()
        self.delegate("product-p", ["manifests/p/*"], keys=keys, threshold=threshold)
        self.delegate("orders-p", ["orders/p/*"], keys=keys, threshold=threshold)
        self.delegate("phases", ["phases/*/*"])
        self.publish("product-p", "orders-p", "phases", "targets")

    def release(self, counter: int, hardware: str = "board-a", image: bytes = b"image") -> Manifest:
        ref = ObjectRef(sha256(image), len(image))
        payload = PayloadSpec("rootfs", "rootfs-image", ref, (PackRef(None, ref, ref),))
        manifest = Manifest("p", f"1.{counter}", counter, (hardware,), (payload,))
        self.add_target("product-p", manifest.target_path, encode_manifest(manifest))
        return manifest

    def order(self, manifest: Manifest, sequence: int, audience: Audience | None = None) -> Order:
        everybody = Audience(all=True)
        order = Order(
            f"o{sequence}", manifest.product, manifest.version, manifest.counter,
            sha256(encode_manifest(manifest)), sequence, audience or everybody, (Phase("all", everybody),),
        )  # fmt: skip
        self.add_target("orders-p", order.target_path, encode_order(order))
        return order

    def phase(self, order: Order, opened: int = 1) -> None:
        state = PhaseState(order.id, order.product, opened)
        self.add_target("phases", state.target_path, encode_phase_state(state))

    def ordered(self, counter: int) -> Order:
        order = self.order(self.release(counter), counter)
        self.phase(order)
        self.publish("product-p", "orders-p", "phases")
        return order


class Device:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.store = MemoryStore()
        self.asked: list[str] = []

    def decide(
        self, *, now: float = NOW, floor: int = 0, hardware: str = "board-a", installed: Digest | None = None
    ) -> Decision:
        client = TrustClient(self.store, self.fleet.initial_root)
        source = Source(self.fleet.files)
        steps = release_for(client, Question(MEMBER, "p", hardware, floor, installed), now)
        try:
            return run(steps, source)
        finally:
            self.asked = source.asked

    def reason(self, **arguments: object) -> str:
        found = self.decide(**arguments)
        assert isinstance(found, Nothing), found
        return found.reason


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def device(fleet: Fleet) -> Device:
    return Device(fleet)


def test_from_nothing_to_the_release(fleet: Fleet, device: Device) -> None:
    order = fleet.ordered(1)
    found = device.decide()
    assert isinstance(found, Meant)
    assert found.order == order
    assert found.manifest_digest == order.manifest == sha256(encode_manifest(found.manifest))
    assert found.order_digest == sha256(encode_order(order))


def test_unchanged_it_costs_a_root_probe_and_the_timestamp(fleet: Fleet, device: Device) -> None:
    fleet.ordered(1)
    first = device.decide()
    changes = device.store.changes
    assert device.decide() == first
    assert device.asked == CHECK
    assert device.store.changes == changes


def test_opening_a_phase_costs_only_what_changed(fleet: Fleet, device: Device) -> None:
    order = fleet.order(fleet.release(1), 1)
    fleet.publish("product-p", "orders-p")
    assert device.reason() == "not-open"
    fleet.phase(order)
    fleet.publish("phases")
    assert isinstance(device.decide(), Meant)
    state = encode_phase_state(PhaseState(order.id, "p", 1))
    assert device.asked == [
        *CHECK,
        "metadata/4.snapshot.json",
        "metadata/2.phases.json",
        f"objects/{sha256(state).hex()}",
        "metadata/2.product-p.json",
        f"objects/{order.manifest.hex()}",
    ]


async def test_the_asynchronous_driver_gets_to_the_same_end(fleet: Fleet) -> None:
    fleet.ordered(1)
    source = Source(fleet.files)

    async def answer(need: Need) -> bytes | None:
        return source(need)

    client = TrustClient(MemoryStore(), fleet.initial_root)
    found = await run_async(release_for(client, Question(MEMBER, "p", "board-a", 0), NOW), answer)
    assert isinstance(found, Meant)

    async def lost(need: Need) -> bytes | None:
        raise OriginError("unreachable", need.path)

    with pytest.raises(OriginError):
        await run_async(release_for(client, Question(MEMBER, "p", "board-a", 0), NOW), lost)


def test_what_is_no_longer_named_leaves_the_cache(fleet: Fleet, device: Device) -> None:
    old = fleet.ordered(1)
    device.decide()
    fleet.signed["orders-p"].targets.clear()
    new = fleet.ordered(2)
    found = device.decide()
    assert isinstance(found, Meant)
    assert found.order == new
    cached = {name for name in device.store.values if name.startswith("object-")}
    assert f"object-{new.manifest.hex()}" in cached
    assert f"object-{old.manifest.hex()}" not in cached
    assert len(cached) == 3


@pytest.mark.parametrize(("floor", "reason"), [(1, None), (2, "below-floor")])
def test_the_last_release_replayed_after_all_tuf_state_was_zeroed(
    fleet: Fleet, device: Device, floor: int, reason: str | None
) -> None:
    fleet.ordered(1)
    replayed = dict(fleet.files)
    fleet.ordered(2)
    device.decide()
    fleet.files = replayed
    with pytest.raises(TrustError) as caught:
        device.decide(floor=floor)
    assert caught.value.reason == "rollback"
    for name in device.store.values:
        device.store.values[name] = bytes(len(device.store.values[name]))
    if reason is None:
        assert isinstance(device.decide(floor=floor), Meant)
    else:
        assert device.reason(floor=floor) == reason


def test_a_product_that_is_not_delegated_has_no_orders(fleet: Fleet) -> None:
    client = TrustClient(MemoryStore(), fleet.initial_root)
    steps = release_for(client, Question(MEMBER, "q", "board-a", 0), NOW)
    found = run(steps, Source(fleet.files))
    assert isinstance(found, Nothing)
    assert found.reason == "no-order"


def test_installed_and_hardware(fleet: Fleet, device: Device) -> None:
    order = fleet.ordered(1)
    assert device.reason(installed=order.manifest) == "installed"
    assert device.reason(hardware="board-b") == "hardware"


def test_other_devices_orders_cost_no_phase_state(fleet: Fleet, device: Device) -> None:
    order = fleet.order(fleet.release(1), 1, Audience(devices=("dev-2",)))
    fleet.phase(order)
    fleet.publish("product-p", "orders-p", "phases")
    assert device.reason() == "no-order"
    assert not any("phases" in path for path in device.asked)


# ------------------------------------------------------------------ who can do what with which keys


def test_every_subset_of_signers_against_what_gets_installed() -> None:
    """A release needs both thresholds (2 of 2 each); fewer keys of either install nothing."""
    for product, orders in itertools.product(range(3), range(3)):
        fleet = Fleet(threshold=2, keys=2)
        for role, count in (("product-p", product), ("orders-p", orders)):
            fleet.signers[role] = fleet.signers[role][:count]
        device = Device(fleet)
        fleet.ordered(1)
        if (product, orders) == (2, 2):
            assert isinstance(device.decide(), Meant)
        else:
            with pytest.raises(TrustError) as caught:
                device.decide()
            assert caught.value.reason == "signature"


def test_a_stolen_coordinator_can_open_and_delay_but_not_retarget(fleet: Fleet, device: Device) -> None:
    """The attacker signs snapshot, timestamp and phases, and puts forged orders where it can."""
    honest = fleet.order(fleet.release(1), 1, Audience(devices=("dev-2",)))
    fleet.publish("product-p", "orders-p")
    forged = replace(honest, audience=Audience(all=True))
    fleet.phase(honest)
    fleet.add_target("phases", forged.target_path, encode_order(forged))
    fleet.publish("phases")
    assert device.reason() == "no-order"

    fleet.add_target("orders-p", forged.target_path, encode_order(forged))
    fleet.signers["orders-p"] = fleet.signers["phases"]
    fleet.publish("orders-p")
    with pytest.raises(TrustError) as caught:
        device.decide()
    assert caught.value.reason == "signature"


def test_deployers_alone_cannot_release(fleet: Fleet, device: Device) -> None:
    evil = replace(fleet.release(1), version="9", counter=9)
    fleet.add_target("orders-p", evil.target_path, encode_manifest(evil))
    order = fleet.order(evil, 9)
    fleet.phase(order)
    fleet.publish("product-p", "orders-p", "phases")
    assert device.reason() == "no-manifest"


def test_an_order_of_another_manifest_than_the_signed_one_installs_nothing(
    fleet: Fleet, device: Device
) -> None:
    order = fleet.order(fleet.release(1), 1)
    fleet.phase(order)
    fleet.publish("product-p", "orders-p", "phases")
    assert isinstance(device.decide(), Meant)
    fleet.release(1, image=b"exchanged")  # the same path and version, other content
    fleet.publish("product-p")
    assert device.reason() == "no-manifest"


# ------------------------------------------------------------------ badly made documents


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b'{"_type":"slipstream-order"}'])
def test_a_badly_made_order_holds_nothing_else_back(fleet: Fleet, device: Device, data: bytes) -> None:
    fleet.ordered(1)
    fleet.add_target("orders-p", "orders/p/bad.json", data)
    fleet.publish("orders-p")
    assert isinstance(device.decide(), Meant)
    assert isinstance(device.decide(), Meant)
    assert device.asked == CHECK


def test_an_order_under_another_path_or_product_does_not_count(fleet: Fleet, device: Device) -> None:
    manifest = fleet.release(1)
    order = fleet.order(manifest, 1)
    del fleet.signed["orders-p"].targets[order.target_path]
    fleet.add_target("orders-p", "orders/p/other.json", encode_order(order))
    fleet.phase(order)
    fleet.publish("product-p", "orders-p", "phases")
    assert device.reason() == "no-order"
    fleet.add_target("orders-p", order.target_path, encode_order(order))
    fleet.publish("orders-p")
    assert isinstance(device.decide(), Meant)


@pytest.mark.parametrize("wrong", ["order", "product", "document"])
def test_a_phase_state_of_something_else_opens_nothing(fleet: Fleet, device: Device, wrong: str) -> None:
    order = fleet.order(fleet.release(1), 1)
    state = PhaseState(order.id, "p", 1)
    data = {
        "order": encode_phase_state(replace(state, order="o2")),
        "product": encode_phase_state(replace(state, product="q")),
        "document": b"{}",
    }[wrong]
    fleet.add_target("phases", state.target_path, data)
    fleet.publish("product-p", "orders-p", "phases")
    assert device.reason() == "not-open"
    fleet.phase(order)
    fleet.publish("phases")
    assert isinstance(device.decide(), Meant)


def test_a_badly_made_manifest_is_as_good_as_none(fleet: Fleet, device: Device) -> None:
    manifest = fleet.release(1)
    bad = encode_manifest(manifest).replace(b'"security":false', b'"security":"no"')
    fleet.add_target("product-p", manifest.target_path, bad)
    order = replace(fleet.order(manifest, 1), manifest=sha256(bad))
    fleet.add_target("orders-p", order.target_path, encode_order(order))
    fleet.phase(order)
    fleet.publish("product-p", "orders-p", "phases")
    assert device.reason() == "no-manifest"


@pytest.mark.parametrize(("count", "reason"), [(256, None), (257, "too-many-orders")])
def test_the_number_of_orders_is_bounded(
    fleet: Fleet, device: Device, count: int, reason: str | None
) -> None:
    manifest = fleet.release(1)
    for sequence in range(1, count + 1):
        fleet.order(manifest, sequence, Audience(devices=("dev-2",)))
    fleet.publish("product-p", "orders-p")
    if reason is None:
        assert device.reason() == "no-order"
    else:
        with pytest.raises(TrustError) as caught:
            device.decide()
        assert caught.value.reason == reason


def test_stale_metadata_is_said_to_be_stale(fleet: Fleet, device: Device) -> None:
    fleet.ordered(1)
    device.decide()
    with pytest.raises(TrustError) as caught:
        device.decide(now=NOW + DAY + 1)
    assert caught.value.reason == "expired"
    assert isinstance(device.decide(now=NOW + DAY - 1), Meant)
