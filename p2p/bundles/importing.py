"""Importing: what a stick brings is verified as if a stranger had sent it, and laid down for the agent.

Whether an agent runs does not matter: the import reads the agent's trust state and changes none of it. It
writes a bundle of its own below the state directory, of what was verified and is of use here, and tells a
running agent to look. The agent then believes it no more than what any peer brings: it verifies the
metadata into its own state, and each frame on its way into the slot.

A bundle whose metadata is expired, older than what the device knows, or of a release below its floor is
refused, unless a signed order excepts this device by name (`docs/spec/bundle.md` section 5).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from p2p.adapters.bundle_files import KEEP_NAME, BundleReader, BundleWriter, medium_error
from p2p.adapters.device import boot_of, slots_of
from p2p.adapters.directory_origin import BundleOrigin
from p2p.adapters.durable import ReadOnlyBlobStore
from p2p.adapters.identity import load_credentials
from p2p.adapters.lock import AgentLock, lock_holder
from p2p.bundles.copying import Progress, copy_object
from p2p.bundles.export import check_room, open_index
from p2p.config import AgentConfig
from p2p.content import limits
from p2p.content.bundle import BundleObject, Kind, pack_name
from p2p.content.digests import Digest, sha256
from p2p.content.index import PackIndex
from p2p.content.manifest import ObjectRef, PackRef, PayloadSpec
from p2p.content.order import Member
from p2p.errors import (
    ConfigError,
    ContentError,
    LocalError,
    NothingMeantError,
    OperatorError,
    OriginError,
    TrustError,
)
from p2p.trust import (
    Decision,
    Meant,
    Need,
    Nothing,
    Overlay,
    ReleaseFloors,
    TrustClient,
    excused,
    release_despite_expiry,
    release_for,
    run,
)
from p2p.trust.bundling import survey

_KEPT = "what is installed goes on running; nothing was imported"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did. `packs`: names of the packs that are here now; `stale`: by exception.

    `nothing`: why nothing is to be installed here, None when a release is. `agent`: pid of the agent that was
    told, None if none runs.
    """

    release: str | None
    order: str | None
    packs: tuple[str, ...]
    size: int
    copied: int
    stale: str | None
    nothing: NothingMeantError | None
    installed: bool
    agent: int | None


async def import_bundle(
    config: AgentConfig, directory: str, now: float, progress: Progress, *, everything: bool = False
) -> Imported:
    """Bring the bundle in `directory` to this device; `everything`: all packs that it could use.

    Raises `TrustError` (not to be trusted, or stale), `ContentError` (not what it says it is),
    `OperatorError` (no bundle, or none for what this device holds), `StoreError`.
    """
    reader = BundleReader.open(directory)
    verdict = _judge(config, reader, now)
    wanted, installed = _packs(config, reader, verdict.decision, everything=everything)
    own = str(config.imported_dir)
    writer = BundleWriter(own, reader.table.part_size)
    table = replace(
        reader.table,
        objects=tuple(
            o for o in reader.table.objects
            if o.ref.sha256 in verdict.used or o.kind is Kind.TIMESTAMP or (o.kind, o.name) in wanted
        ),
    )  # fmt: skip
    copied = 0
    with writer.locked():
        check_room(writer, table)
        indexes: dict[str, PackIndex] = {}
        origin = BundleOrigin(reader)
        for found in table.objects:
            index = indexes.get(found.name) if found.kind is Kind.FRAMES else None
            try:
                stream = partial(origin.stream, found.ref.sha256)
                copied += await copy_object(writer, found, stream, index, progress)
            except OriginError as error:
                raise ContentError(error.message, kept=error.kept, next_step=error.next_step) from error
            if found.kind is Kind.INDEX:
                data = writer.object(found.ref).read(0, found.ref.size)
                indexes[found.name] = open_index(data, wanted[found.kind, found.name], found.name)
        writer.commit(table)
    decision = verdict.decision
    meant = decision if isinstance(decision, Meant) else None
    return Imported(
        release=None if meant is None else meant.manifest.version,
        order=None if meant is None else meant.order.id,
        packs=tuple(o.name for o in table.of(Kind.FRAMES)),
        size=table.size,
        copied=copied,
        stale=verdict.stale,
        nothing=None if meant is not None else _nothing(decision),
        installed=installed,
        agent=_tell(config),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the bundle means for this device. `used`: the signed files that were verified on the way.

    `stale`: `expired` or `older`, where an exception lets it count all the same.
    """

    decision: Decision
    used: frozenset[Digest]
    stale: str | None = None


class _BundleSource:
    """Answers the trust client from a bundle, and remembers what it took."""

    def __init__(self, reader: BundleReader, *, mutable: bool = True) -> None:
        self._reader = reader
        self._mutable = mutable
        self.used: set[Digest] = set()

    def __call__(self, need: Need) -> bytes | None:
        if need.error is not None:
            raise OriginError("bad-bytes", need.error.message)
        table = self._reader.table
        found: BundleObject | None
        if need.digest is not None:
            found = self._reader.find(need.digest)
        elif not self._mutable:
            return None
        else:
            found = table.timestamp if need.role == "timestamp" else table.root(need.version or 0)
        if found is None:
            if need.may_be_absent:
                return None
            raise OriginError("not-found", f"the bundle has no {need.path}")
        if found.ref.size > need.size_max:
            raise OriginError("too-long", f"{need.path}: {found.ref.size} bytes are over {need.size_max}")
        data = self._reader.whole(found)
        self.used.add(found.ref.sha256)
        return data


def _judge(config: AgentConfig, reader: BundleReader, now: float) -> Verdict:
    """What the bundle means, or the refusal. The agent's state is only read."""
    member, device = _member(config), config.device
    state = device.state_dir
    client = TrustClient(
        Overlay(ReadOnlyBlobStore(state / "trust")), _root(config), build_time=config.trust.build_time or 0.0
    )
    floors = ReleaseFloors(
        Overlay(ReadOnlyBlobStore(state / "floor")), Overlay(ReadOnlyBlobStore(state / "floor.2"))
    )
    floor = floors.get(device.product)
    source = _BundleSource(reader)
    question = client, member, device.product, device.hardware, now
    stale: str | None = None
    try:
        decision: Decision = run(release_for(*question, floor=floor), source)
    except TrustError as refused:
        if refused.reason == "expired":
            decision = _despite_expiry(question, floor, source, refused, reader, now)
            stale = "expired"
        elif refused.reason == "rollback":
            decision = _despite_age(question, floor, reader, refused)
            stale = "older"
        else:
            raise _refusal(refused) from refused
    except OriginError as incomplete:
        raise ContentError(
            f"{reader.directory}: {incomplete.message}", kept=_KEPT, next_step="export the bundle again"
        ) from incomplete
    if isinstance(decision, Nothing) and decision.reason == "below-floor":
        raise TrustError(
            "below-floor",
            f"the bundle would take this device back: {decision.detail}",
            kept=_KEPT,
            next_step="order the release with `--allow-downgrade` for this device, and export it anew",
        )
    if stale is None:
        _survey_others(client, reader, source)
    return Verdict(decision, frozenset(source.used | _known_roots(client, reader)), stale)


def _despite_expiry(
    question: tuple[TrustClient, Member, str, str, float],
    floor: int,
    source: _BundleSource,
    refused: TrustError,
    reader: BundleReader,
    now: float,
) -> Decision:
    try:
        return run(release_despite_expiry(*question, floor=floor), source)
    except TrustError as error:
        if error.reason != "expired":
            raise _refusal(error) from refused
        raise TrustError(
            "expired",
            f"the bundle is stale: {refused.message}",
            kept=_KEPT,
            next_step="export it anew; or have the release ordered with `--allow-stale` for this device",
        ) from refused
    except OriginError as error:
        raise ContentError(f"{reader.directory}: {error.message}", kept=_KEPT) from refused


def _despite_age(
    question: tuple[TrustClient, Member, str, str, float],
    floor: int,
    reader: BundleReader,
    refused: TrustError,
) -> Decision:
    """By what the device knows itself, which is newer: the bundle can only give frames to it."""
    client, member = question[0], question[1]
    held = _BundleSource(reader, mutable=False)
    decision: Decision | None = None
    with suppress(TrustError, OriginError):
        decision = run(release_for(*question, floor=floor), held)
    if decision is None:
        with suppress(TrustError, OriginError):
            decision = run(release_despite_expiry(*question, floor=floor), held)
    if decision is None or not excused(decision, member, client.time):
        raise TrustError(
            "older",
            f"the bundle is older than what this device knows: {refused.message}",
            kept=_KEPT,
            next_step="export it anew; or have the release ordered with `--allow-stale` for this device",
        ) from refused
    return decision


def _known_roots(client: TrustClient, reader: BundleReader) -> set[Digest]:
    """Roots of the bundle that this device has walked: for whoever takes the imported bundle further."""
    found = set()
    for o in reader.table.of(Kind.ROOT):
        held = client.held_root(int(o.name))
        if held is not None and sha256(held) == o.ref.sha256:
            found.add(o.ref.sha256)
    return found


def _survey_others(client: TrustClient, reader: BundleReader, source: _BundleSource) -> None:
    """Take along what is signed for others of the site. What is not whole of that holds nothing up."""
    for product in reader.table.products:
        with suppress(TrustError, OriginError, ContentError):
            run(survey(client, product), source)


def _packs(
    config: AgentConfig, reader: BundleReader, decision: Decision, *, everything: bool
) -> tuple[dict[tuple[Kind, str], PackRef], bool]:
    """Index and frames to import, and whether what is meant is installed already.

    The smallest pack that this device can use of each payload, and the index of the full pack, by which peers
    with other bases get their chunks.
    """
    wanted: dict[tuple[Kind, str], PackRef] = {}
    if not isinstance(decision, Meant):
        return wanted, False
    held = _held(config)
    here = {(o.kind, o.name): o.ref for o in reader.table.objects}
    missing = [p for p in decision.manifest.payloads if held.get(p.name) != (p.image.sha256, p.image.size)]
    for payload in missing:
        base = held.get(payload.name)
        usable = _usable(decision, payload, None if base is None else base[0], here)
        if not usable:
            raise OperatorError(
                f"the bundle has no pack of {payload.name} {decision.manifest.version} that this device can"
                f" use: it holds {'no known image' if base is None else 'image ' + base[0].hex()}",
                kept=_KEPT,
                next_step="export with --base for that image, or with the full pack",
            )
        full = payload.full_pack
        name = _name(decision, payload, full)
        if here.get((Kind.INDEX, name)) == full.index:
            wanted[Kind.INDEX, name] = full
        for pack in usable if everything else usable[:1]:
            name = _name(decision, payload, pack)
            wanted[Kind.INDEX, name] = wanted[Kind.FRAMES, name] = pack
    return wanted, not missing


def _held(config: AgentConfig) -> dict[str, tuple[Digest, int] | None]:
    """What the running slot of each payload holds. A device that has never been started learns it here."""
    slots = slots_of(config, boot_of(config))
    if lock_holder(config.device.state_dir) is None:
        with suppress(LocalError), AgentLock(config.device.state_dir):
            for places in slots.values():
                places.adopt_active()
    return {name: places.image_in(places.active()) for name, places in slots.items()}


def _usable(
    meant: Meant, payload: PayloadSpec, base: Digest | None, here: Mapping[tuple[Kind, str], ObjectRef]
) -> list[PackRef]:
    """Packs of the bundle that make the payload here, the smallest first."""
    found = []
    for pack in payload.packs:
        name = _name(meant, payload, pack)
        objects = here.get((Kind.INDEX, name)), here.get((Kind.FRAMES, name))
        if objects == (pack.index, pack.frames) and pack.base in (None, base):
            found.append(pack)
    return sorted(found, key=lambda pack: pack.wan_bytes)


def _name(meant: Meant, payload: PayloadSpec, pack: PackRef) -> str:
    return pack_name(meant.manifest.product, meant.manifest.version, payload.name, pack.base)


def _member(config: AgentConfig) -> Member:
    if not config.certificate_path.exists():
        raise ConfigError("this device is not enrolled", next_step="slipstream agent enroll --voucher …")
    identity = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path).identity
    return Member(identity.device, identity.site, identity.groups, config.device.hardware)


def _root(config: AgentConfig) -> bytes:
    try:
        with config.trust.root.open("rb") as file:
            return file.read(limits.ROOT_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the pinned root {config.trust.root}: {error.strerror or error}",
            next_step="copy root.json of the repository there (trust.root)",
        ) from error


def _refusal(error: TrustError) -> TrustError:
    return TrustError(
        error.reason,
        f"the bundle is not to be trusted: {error.message}",
        kept=error.kept or _KEPT,
        next_step=error.next_step or "export it from this fleet's repository",
    )


def _nothing(decision: Decision) -> NothingMeantError:
    assert isinstance(decision, Nothing)
    return NothingMeantError(
        f"nothing in the bundle is meant for this device ({decision.reason}): {decision.detail}",
        kept="its signed metadata was imported, for this device and its peers",
        next_step="import it on a device that the order names",
    )


def _tell(config: AgentConfig) -> int | None:
    """A running agent asks at once what is meant."""
    pid = lock_holder(config.device.state_dir)
    if not pid:
        return None
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError:
        return None
    return pid


def keep_frames(config: AgentConfig, keep: bool) -> None:
    """Whether the agent keeps the imported frames once their release is committed."""
    path = config.imported_dir / KEEP_NAME
    try:
        if keep:
            path.touch()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise medium_error("write", str(path), error) from error
