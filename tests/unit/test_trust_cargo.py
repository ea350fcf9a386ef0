"""What a carrier takes along: by interest, within its quota, and nothing that it may install itself."""

from __future__ import annotations

from p2p.content.digests import sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec, encode_manifest
from p2p.content.order import Audience, Order, Phase, PhaseState, PhaseStatus, encode_order
from p2p.trust.bundling import Survey
from p2p.trust.cargo import Cargo, load

ALL = Audience(all=True)
INDEX = 10
"""Bytes of each index."""


def manifest(product: str, version: str, size: int, *hardware: str, content: str = "") -> Manifest:
    def ref(what: str, size: int) -> ObjectRef:
        return ObjectRef(sha256((content or product + version).encode() + what.encode()), size)

    pack = PackRef(None, ref("index", INDEX), ref("frames", size // 2))
    payload = PayloadSpec("rootfs", "rootfs-image", ref("image", size), (pack,))
    return Manifest(product, version, int(version[0]), hardware or ("h1",), (payload,))


def survey(*manifests: Manifest, status: PhaseStatus = PhaseStatus.RUNNING) -> Survey:
    """The later ones are ordered later, each for everybody."""
    product = manifests[0].product
    orders, states, found = {}, {}, {}
    for n, each in enumerate(manifests, 1):
        digest = sha256(encode_manifest(each))
        order = Order(f"o{n}", product, each.version, n, digest, n, ALL, (Phase("p", ALL, 100),))
        orders[sha256(encode_order(order))] = order
        states[order.id] = PhaseState(order.id, product, 1, status)
        found[digest] = each
    return Survey(product, orders, states, found)


def loaded(quota: int, *surveys: Survey, products: tuple[str, ...] = ("a", "b", "c")) -> Cargo:
    return load({found.product: found for found in surveys}, products, quota, "own", "h1")


def names(cargo: Cargo) -> tuple[list[str], list[str]]:
    return [p.name for p in cargo.parcels], [p.name for p in cargo.left_out]


A, B, C = (survey(manifest(p, "1.0", size)) for p, size in (("a", 100), ("b", 500), ("c", 200)))


def test_who_comes_first_goes_before_others_and_something_smaller_may_still_fit() -> None:
    room = 100 + 200 + 2 * INDEX
    assert names(loaded(room, A, B, C)) == (["a 1.0 rootfs", "c 1.0 rootfs"], ["b 1.0 rootfs"])
    assert names(loaded(room - 1, A, B, C)) == (["a 1.0 rootfs"], ["b 1.0 rootfs", "c 1.0 rootfs"])
    assert names(loaded(500 + INDEX, A, B, C, products=("b", "a", "c")))[0] == ["b 1.0 rootfs"]


def test_only_products_that_are_wanted_go_along() -> None:
    assert names(loaded(10_000, A, B, C, products=("c", "x"))) == (["c 1.0 rootfs"], [])


def test_the_newest_order_for_all_leaves_older_releases_at_home() -> None:
    both = survey(manifest("a", "1.0", 100), manifest("a", "2.0", 100))
    assert names(loaded(10_000, both))[0] == ["a 2.0 rootfs"]


def test_what_no_open_order_means_stays_at_home() -> None:
    paused = survey(manifest("a", "1.0", 100), status=PhaseStatus.PAUSED)
    assert names(loaded(10_000, paused)) == ([], [])


def test_its_own_product_goes_along_for_other_hardware_only() -> None:
    own = survey(manifest("own", "1.0", 100, "h1"), manifest("own", "2.0", 100, "h2"))
    assert names(loaded(10_000, own, products=("own",)))[0] == ["own 2.0 rootfs"]


def met(quota: int, *kinds: tuple[str, str], surveys: tuple[Survey, ...], products: tuple[str, ...]) -> Cargo:
    return load({found.product: found for found in surveys}, products, quota, "own", "h1", kinds)


def test_what_is_for_hardware_that_was_met_goes_before_all_else() -> None:
    one, two, three = (manifest("a", f"{n}.0", 100, f"h{n}") for n in (1, 2, 3))
    both = survey(one, two, three), B
    room = 100 + INDEX
    assert names(met(room, surveys=both, products=("a",)))[0] == ["a 3.0 rootfs"]
    assert names(met(room, ("b", "h2"), surveys=both, products=("a",)))[0] == ["a 3.0 rootfs"]
    assert names(met(room, ("a", "h2"), surveys=both, products=("b", "a")))[0] == ["a 2.0 rootfs"]
    found = names(met(2 * room, ("a", "h2"), ("a", "h1"), surveys=both, products=("b", "a")))[0]
    assert found == ["a 2.0 rootfs", "a 1.0 rootfs"]


def test_of_its_own_product_goes_along_what_is_for_other_hardware_that_was_met() -> None:
    own = (survey(manifest("own", "1.0", 100, "h1"), manifest("own", "2.0", 100, "h2")),)
    assert names(met(10_000, surveys=own, products=())) == ([], [])
    kinds = ("own", "h1"), ("own", "h2")
    assert names(met(10_000, *kinds, surveys=own, products=()))[0] == ["own 2.0 rootfs"]


def test_what_nothing_orders_stays_at_home_whoever_was_met() -> None:
    paused = (survey(manifest("a", "1.0", 100), status=PhaseStatus.PAUSED),)
    assert names(met(10_000, ("a", "h1"), surveys=paused, products=("a",))) == ([], [])


def test_an_image_is_taken_once_and_not_at_all_if_it_is_its_own() -> None:
    same = [survey(manifest(p, "1.0", 100, content="same")) for p in ("a", "b")]
    assert names(loaded(10_000, *same))[0] == ["a 1.0 rootfs"]
    own = survey(manifest("own", "1.0", 100, content="same"))
    assert names(loaded(10_000, *same, own)) == ([], [])
