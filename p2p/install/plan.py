"""The install plan: all that will be written, and where, and whether it fits, before a byte changes.

Made from the signed manifest and facts about the slots; a plan that exists can be carried out as far
as anybody can know beforehand. Not for which pack makes an image: the swarm decides that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from p2p.content.digests import Digest
from p2p.content.manifest import Manifest, PayloadSpec
from p2p.errors import SlotError, SlotFull
from p2p.install.record import InstallPlan, PlannedPayload

ROOTFS_IMAGE = "rootfs-image"
PAYLOAD_TYPES = frozenset({ROOTFS_IMAGE})


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """One payload's place in the target slot.

    `image`: what it validly holds. `held`: bytes already allocated to it (a device: its size);
    `free`: bytes free beside it, shared by all slots of the same `filesystem`; 0 for a device.
    """

    image: tuple[Digest, int] | None
    filesystem: int
    held: int
    free: int


def make_plan(
    manifest: Manifest,
    slot: str,
    facts: Mapping[str, SlotFacts],
    *,
    types: Collection[str] = PAYLOAD_TYPES,
    reserve: int = 0,
) -> InstallPlan:
    """The plan to install `manifest` to `slot`; `facts` maps payload names to their places there.

    `reserve`: bytes to leave free on each file system. Raises `SlotError` for a payload that has no
    slot or a type that is not supported, `SlotFull` when the images do not fit; nothing was changed.
    """
    payloads = tuple(_planned(spec, facts, types) for spec in manifest.payloads)
    wanted: dict[int, int] = {}
    free: dict[int, int] = {}
    for payload in payloads:
        place = facts[payload.name]
        grows = 0 if payload.held else max(0, payload.size - place.held)
        wanted[place.filesystem] = wanted.get(place.filesystem, 0) + grows
        free[place.filesystem] = place.free
    for filesystem, size in wanted.items():
        if size and size + reserve > free[filesystem]:
            names = ", ".join(p.name for p in payloads if facts[p.name].filesystem == filesystem)
            raise SlotFull(
                f"release {manifest.version} does not fit into slot {slot}: {names} needs {size} bytes "
                f"more than it holds, {max(0, free[filesystem] - reserve)} are free",
                kept="nothing was changed",
                next_step="free space where the slot lies, or use a larger partition",
            )
    return InstallPlan(slot, payloads)


def _planned(spec: PayloadSpec, facts: Mapping[str, SlotFacts], types: Collection[str]) -> PlannedPayload:
    if spec.type not in types:
        raise SlotError(
            f"payload {spec.name} is of type {spec.type!r}, which this agent cannot install "
            f"(it can: {', '.join(sorted(types))})",
            kept="nothing was changed",
        )
    if spec.name not in facts:
        raise SlotError(
            f"this device has no slot for payload {spec.name} (it has: {', '.join(sorted(facts)) or 'none'})",
            kept="nothing was changed",
            next_step=f"add [slots.{spec.name}] to the configuration",
        )
    held = facts[spec.name].image == (spec.image.sha256, spec.image.size)
    return PlannedPayload(spec.name, spec.type, spec.image.sha256, spec.image.size, held)
