"""Signs what the orders of a scenario say, at its time: releases, orders for groups of devices, phases.

A scenario's phase is a share of all devices, drawn device by device; signed, it is a group that those
devices are members of. Not for what is looked up instead of signed (`orders`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from p2p.content.digests import Digest, sha256
from p2p.content.manifest import Manifest, ObjectRef, PayloadSpec, encode_manifest
from p2p.content.order import Audience, Order, Phase
from p2p.content.revocation import Reason, Revocation
from sim.world.boot import PAYLOAD
from sim.world.synthetic import Material, name_digest
from sim.world.trust import DAY_S, EPOCH, RememberingReader, VirtualRepository

if TYPE_CHECKING:
    from sim.world.run import World

PRODUCT = "product"
HARDWARE = "board"
SIGN_EVERY_S = 43_200.0
TIMESTAMP = "metadata/timestamp.json"
CERTIFICATE_S = 730 * DAY_S
"""For how long a device's certificate lasts (`coordinator.publishing.settings`)."""


class Publisher:
    """Signs releases and orders of a world when their time comes; `origin_objects` gets what it signed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.reader = RememberingReader()
        start = world.kernel.now
        self.repository = VirtualRepository(world.kernel.seed, [PRODUCT], now=start)
        self._orders: dict[int, Order] = {}
        self.manifests = {name: self._manifest(name, m) for name, m in world.materials.items()}
        self.names = {sha256(encode_manifest(m)): name for name, m in self.manifests.items()}
        world.origin_objects |= self.repository.objects
        self.first_timestamp = self.repository.files[TIMESTAMP]
        self._known = dict(self.repository.objects) if world.scenario.polling.at_rest else {}
        """What devices have had for long."""
        for at_s in sorted({phase.opens_s for order in world.scenario.orders for phase in order.phases}):
            world.kernel.at(at_s, self._publish, at_s)
        world.kernel.after(SIGN_EVERY_S, self._sign_again)

    def groups(self, draw: float) -> frozenset[str]:
        """The groups of a device: one for each phase that it is drawn into."""
        orders = enumerate(self.world.scenario.orders)
        return frozenset(
            _group(n, k) for n, order in orders for k, phase in enumerate(order.phases) if draw < phase.share
        )

    def needed(self) -> list[int]:
        """Sizes of the signed files that a device fetches to know what is meant for it now, each once."""
        sizes = [len(data) for data in self.repository.current() if sha256(data) not in self._known]
        return [len(self.repository.files[TIMESTAMP]), *sizes]

    def _manifest(self, name: str, material: Material) -> Manifest:
        payload = PayloadSpec(
            PAYLOAD, "rootfs-image", ObjectRef(material.image, material.size), material.packs
        )
        return Manifest(PRODUCT, name, self.world.counters[name], (HARDWARE,), (payload,))

    def _publish(self, at_s: float) -> None:
        now, repository = self.world.kernel.now, self.repository
        for number, order in enumerate(self.world.scenario.orders):
            opened = sum(phase.opens_s <= at_s for phase in order.phases)
            if not any(phase.opens_s == at_s for phase in order.phases):
                continue
            signed = self._orders.get(number)
            if signed is not None:
                repository.open_phases(signed, opened, now)
                continue
            manifest = self.manifests[order.release]
            repository.publish_release(manifest, now)
            phases = tuple(
                Phase(f"{k + 1}", Audience(groups=(_group(number, k),))) for k in range(len(order.phases))
            )
            self._orders[number] = repository.publish_order(manifest, now, phases=phases, opened=opened)
        self.world.origin_objects |= repository.objects

    def revoke(self, names: Collection[str]) -> None:
        """Publish the list with these devices; devices at rest hear of it at once, as of a release."""
        world = self.world
        until = EPOCH + world.kernel.now + CERTIFICATE_S
        revoked = [
            Revocation(certificate_of(world.kernel.seed, name), name, Reason.LOST, until)
            for name in sorted(names)
        ]
        self.repository.revoke(revoked, world.kernel.now)
        world.origin_objects |= self.repository.objects
        if world.scenario.polling.at_rest:
            for device in world.honest:
                device.told()

    def _sign_again(self) -> None:
        if self.repository.sign_again(self.world.kernel.now):
            self.world.origin_objects |= self.repository.objects
        self.world.kernel.after(SIGN_EVERY_S, self._sign_again)


def certificate_of(seed: int, device: str) -> Digest:
    """The digest that stands for a device's certificate."""
    return name_digest(seed, "certificate", device)


def _group(order: int, phase: int) -> str:
    return f"order-{order + 1}-phase-{phase + 1}"
