"""The release that a plan is about: a scenario's own, or the latest of a real repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from coordinator.publishing.releases import list_releases
from coordinator.publishing.repository import Repository
from coordinator.publishing.state import PHASES_ROLE
from p2p.content.digests import Digest
from p2p.content.manifest import Manifest
from p2p.errors import OperatorError
from sim.fleet.packs import Packs, of_payloads, of_synthetic
from sim.scenario.model import NO_BASE, Order, RepositoryRelease, Scenario

__all__ = ["expired", "packs_of", "published", "with_release"]

ONLINE = ("snapshot", "timestamp", PHASES_ROLE)
"""Roles that the coordinator signs again by itself."""


def published(directory: Path, product: str | None, version: str | None) -> RepositoryRelease:
    """A release of a repository, its bases named by their versions; raises `OperatorError`.

    Without `product` the only one there is, without `version` that with the highest release counter.
    """
    repository = Repository.open(directory)
    state = repository.state()
    products = list(state.products())
    if product is None and len(products) == 1:
        product = products[0]
    if not products:
        raise OperatorError(
            f"{directory} has no products", next_step=f"slipstream repo product add NAME --repo {directory}"
        )
    if product is None or product not in products:
        raise OperatorError(
            f"{directory} has no product {product}"
            if product
            else f"{directory} has {len(products)} products",
            next_step=f"--product with one of: {', '.join(products)}",
        )
    manifests = sorted(list_releases(repository, state, product), key=lambda m: m.counter)
    found = [m for m in manifests if version in (None, m.version)]
    if not manifests:
        raise OperatorError(
            f"no release of {product} is published in {directory}",
            next_step="build one, then sign and publish it: slipstream release build IMAGE --repo "
            f"{directory} --product {product} …, then slipstream release publish DOCUMENT --repo {directory}",
        )
    if not found:
        raise OperatorError(
            f"{product} {version} is not published in {directory}",
            next_step=f"--release with one of: {', '.join(m.version for m in manifests)}; what is only built "
            "or signed counts when it is published (slipstream release publish)",
        )
    chosen = found[-1]
    bases = {m.version: m.version for m in manifests if m.version != chosen.version}
    return RepositoryRelease(chosen.version, directory.absolute(), product, chosen.version, bases)


def expired(directory: Path) -> tuple[str, ...]:
    """What of a repository's metadata has expired, each in a sentence with what to do."""
    repository = Repository.open(directory)
    now = repository.clock()
    return tuple(
        f"metadata {role} of {directory} expired on {expires:%Y-%m-%d}: devices refuse it until it is signed "
        f"again ({f'slipstream repo refresh {directory}' if role in ONLINE else 'with its offline keys'})"
        for role, expires in repository.state().expiries().items()
        if expires <= now
    )


def with_release(scenario: Scenario, release: RepositoryRelease) -> Scenario:
    """The scenario with this release in the place of the one that its last order is for."""
    order = scenario.orders[-1]
    old = next((r for r in scenario.releases if r.name == order.release), None)
    bases = dict(old.bases) if isinstance(old, RepositoryRelease) else dict(release.bases)
    return replace(
        scenario, releases=(replace(release, bases=bases),), orders=(Order(release.name, order.phases),)
    )


def packs_of(scenario: Scenario) -> Packs:
    """The packs of the release that the scenario's last order is for; raises `OperatorError`."""
    wanted = scenario.orders[-1].release
    release = next(r for r in scenario.releases if r.name == wanted)
    if not isinstance(release, RepositoryRelease):
        return of_synthetic(release)
    repository = Repository.open(release.repository)
    manifests = {m.version: m for m in list_releases(repository, repository.state(), release.product)}
    if release.version not in manifests:
        raise OperatorError(f"{release.product} {release.version} is not in {release.repository}")
    used = {base for c in scenario.classes for base in c.bases} - {NO_BASE}
    missing = sorted(used - set(release.bases))
    if release.version in missing:
        raise OperatorError(
            f"the fleet runs {release.version}, which is the release to be planned",
            next_step="publish the next one, or choose another with --release",
        )
    if missing:
        raise OperatorError(
            f"the fleet runs {', '.join(missing)}, which no release of {release.repository} is called",
            next_step=f"name its bases by version ({', '.join(sorted(manifests))}), or `{NO_BASE}`",
        )
    named = {name: manifests[v] for name, v in release.bases.items() if v in manifests}
    return of_payloads(release.version, manifests[release.version].payloads, _images(named))


def _images(manifests: Mapping[str, Manifest]) -> dict[Digest, str]:
    return {payload.image.sha256: name for name, m in manifests.items() for payload in m.payloads}
