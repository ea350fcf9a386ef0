"""Whatever a device of the audience is meant to install is in the bundle that was made for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.bundle import Kind
from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, ObjectRef, PackRef, PayloadSpec, encode_manifest
from p2p.content.order import Audience, Member, Order, Phase, PhaseState, PhaseStatus, encode_order
from p2p.errors import OperatorError
from p2p.trust import Meant, decide
from p2p.trust.bundling import ChosenPack, Survey, Wanted, choose, fit

GROUPS, SITES, DEVICES = ("g1", "g2"), ("s1", "s2"), ("d1", "d2", "d3")
HARDWARE = ("h1", "h2")


def names(of: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(of), unique=True, max_size=len(of)).map(tuple)


AUDIENCES = st.builds(Audience, st.booleans(), names(GROUPS), names(SITES), names(DEVICES))
MEMBERS = st.builds(
    Member,
    st.sampled_from(DEVICES),
    st.sampled_from(SITES),
    st.frozensets(st.sampled_from(GROUPS)),
    st.sampled_from(HARDWARE),
)


def ref(text: str, size: int = 10) -> ObjectRef:
    return ObjectRef(sha256(text.encode()), size)


def manifest_of(version: str, counter: int, hardware: tuple[str, ...], bases: tuple[str, ...]) -> Manifest:
    packs = tuple(
        PackRef(base, ref(f"i{version}{base!r}"), ref(f"f{version}{base!r}", 1000 if base is None else 100))
        for base in (None, *(sha256(b.encode()) for b in bases))
    )
    payload = PayloadSpec("rootfs", "rootfs-image", ref(f"image {version}"), packs)
    return Manifest("p", version, counter, hardware, (payload,))


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    orders: dict[Digest, Order] = {}
    states: dict[str, PhaseState] = {}
    manifests: dict[Digest, Manifest] = {}
    for n in range(1, draw(st.integers(0, 5)) + 1):
        hardware = draw(st.sampled_from([("h1",), ("h2",), HARDWARE]))
        manifest = manifest_of(f"{n}.0", n, hardware, ("a", "b"))
        digest = sha256(encode_manifest(manifest))
        phases = tuple(
            Phase(f"p{i}", draw(AUDIENCES), draw(st.sampled_from([0, 50, 100])))
            for i in range(draw(st.integers(1, 2)))
        )
        order = Order(f"o{n}", "p", manifest.version, n, digest, n, draw(AUDIENCES), phases)
        orders[sha256(encode_order(order))] = order
        if draw(st.integers(0, 9)):
            manifests[digest] = manifest
        if draw(st.integers(0, 9)):
            status = draw(st.sampled_from([PhaseStatus.RUNNING, PhaseStatus.RUNNING, PhaseStatus.PAUSED]))
            states[order.id] = PhaseState(order.id, "p", draw(st.integers(0, 2)), status)
    return Survey("p", orders, states, manifests)


def meant(survey: Survey, member: Member) -> Manifest | None:
    found = decide(member, "p", member.hardware, survey.orders, survey.states, survey.manifests, 0)
    return found.manifest if isinstance(found, Meant) else None


@given(surveys(), MEMBERS, st.data())
def test_what_a_device_of_the_audience_is_meant_is_in_its_bundle(
    survey: Survey, member: Member, data: st.DataObject
) -> None:
    audience = data.draw(
        st.sampled_from(
            [
                Audience(all=True),
                # whoever exports for one device says all that its certificate says
                Audience(False, tuple(member.groups), (member.site,), (member.device,)),
            ]
        )
    )
    hardware = data.draw(st.sampled_from([frozenset[str](), frozenset({member.hardware})]))
    choice = choose(survey, Wanted(audience, hardware))
    manifest = meant(survey, member)
    if manifest is not None:
        assert manifest in [m for _, m in choice.releases]
        packs = {p.pack for p in choice.packs if p.version == manifest.version and p.whole}
        assert packs == set(manifest.payloads[0].packs)


@given(surveys())
def test_a_fully_open_order_for_everybody_leaves_older_releases_at_home(survey: Survey) -> None:
    newest = manifest_of("9.0", 9, HARDWARE, ())
    everybody = Audience(all=True)
    digest = sha256(encode_manifest(newest))
    order = Order("o9", "p", "9.0", 9, digest, 9, everybody, (Phase("all", everybody),))
    full = Survey(
        "p",
        survey.orders | {sha256(encode_order(order)): order},
        survey.states | {"o9": PhaseState("o9", "p", 1)},
        survey.manifests | {digest: newest},
    )
    assert choose(full, Wanted()).releases == ((order, newest),)


@given(surveys(), st.frozensets(st.sampled_from(["a", "b", "c"])), st.booleans())
def test_chosen_bases_and_no_others(survey: Survey, bases: frozenset[str], full: bool) -> None:
    wanted = Wanted(bases=frozenset(sha256(b.encode()) for b in bases), full=full)
    try:
        choice = choose(survey, wanted)
    except OperatorError:
        assert not full
        assert not bases & {"a", "b"}
        return
    for chosen in choice.packs:
        assert chosen.pack.base is None or chosen.pack.base in wanted.bases
        assert chosen.whole or (chosen.pack.base is None and not full)
        kinds = [o.kind for o in chosen.objects()]
        assert kinds == ([Kind.INDEX, Kind.FRAMES] if chosen.whole else [Kind.INDEX])
    for _, manifest in choice.releases:
        assert any(p.version == manifest.version and p.pack.base is None for p in choice.packs)


@given(st.lists(st.integers(1, 100), max_size=6), st.integers(0, 50), st.integers(0, 400))
def test_what_does_not_fit_is_named_and_what_fits_is_not(
    sizes: list[int], others: int, size_max: int
) -> None:
    packs = [
        ChosenPack("p", f"{n}", "rootfs", PackRef(None, ref(f"i{n}", 0), ref(f"f{n}", size)), True)
        for n, size in enumerate(sorted(sizes))
    ]
    total = others + sum(sizes)
    if total <= size_max:
        fit(others, packs, size_max)
        return
    with pytest.raises(OperatorError) as caught:
        fit(others, packs, size_max)
    named = {p.name for p in packs if f"does not fit: {p.name} " in caught.value.message}
    left = sum(p.size for p in packs if p.name not in named)
    assert others + left <= size_max or others > size_max
    assert f"{total} bytes, {total - size_max} more than {size_max}" in caught.value.message
