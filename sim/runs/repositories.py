"""What simulated releases need of real repositories: which versions there are, manifests and indexes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from coordinator.publishing.releases import list_releases
from coordinator.publishing.repository import Repository
from p2p.content.digests import Digest
from p2p.content.manifest import Manifest, encode_manifest
from p2p.errors import OperatorError
from sim.scenario.model import Release, RepositoryRelease
from sim.world.synthetic import Material, material_of_manifest

__all__ = ["material", "materials", "versions"]


def versions(directory: Path, product: str) -> Collection[str]:
    """The versions of a product that are published in a repository directory.

    Raises `OperatorError` if it is no repository or has no such product.
    """
    return list(_manifests(directory, product)[1])


def materials(releases: Iterable[Release]) -> dict[str, Material]:
    """Of all releases that stand in a repository, by their name in the scenario."""
    return {r.name: material(r) for r in releases if isinstance(r, RepositoryRelease)}


def material(release: RepositoryRelease) -> Material:
    """A real release, its indexes verified against the manifest.

    Raises `OperatorError` for what is not there, `RepositoryDamaged` for indexes that are not right.
    """
    repository, manifests = _manifests(release.repository, release.product)
    manifest = _of_version(manifests, release, release.version)
    indexes = {
        pack.index.sha256: repository.get(pack.index)
        for payload in manifest.payloads
        for pack in payload.packs
    }
    bases = {name: _image(_of_version(manifests, release, old)) for name, old in release.bases.items()}
    return material_of_manifest(release.name, encode_manifest(manifest), indexes, bases)


def _manifests(directory: Path, product: str) -> tuple[Repository, dict[str, Manifest]]:
    repository = Repository.open(directory)
    state = repository.state()
    if product not in state.products():
        raise OperatorError(
            f"{directory} has no product {product} (there are: {', '.join(state.products()) or 'none'})"
        )
    return repository, {m.version: m for m in list_releases(repository, state, product)}


def _of_version(manifests: dict[str, Manifest], release: RepositoryRelease, version: str) -> Manifest:
    if version not in manifests:
        raise OperatorError(
            f"{release.product} {version} is not in {release.repository} "
            f"(there are: {', '.join(sorted(manifests)) or 'none'})"
        )
    return manifests[version]


def _image(manifest: Manifest) -> Digest:
    return manifest.payloads[0].image.sha256
