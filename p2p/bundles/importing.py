"""Importing: what a stick brings is verified as if a stranger had sent it, and laid down for the agent.

Whether an agent runs does not matter: the import changes none of its trust state (`p2p.bundles.judging`). It
writes a bundle of its own below the state directory, of what was verified and is of use here, and tells a
running agent to look. The agent then believes it no more than what any peer brings: it verifies the
metadata into its own state, and each frame on its way into the slot.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

from p2p.adapters.bundle_files import KEEP_NAME, BundleReader, BundleWriter, medium_error
from p2p.adapters.device import boot_of, slots_of
from p2p.adapters.directory_origin import BundleOrigin
from p2p.adapters.disk_quota import quota_of
from p2p.adapters.lock import AgentLock, lock_holder
from p2p.bundles.copying import Progress, copy_object
from p2p.bundles.export import check_room, missing_of, open_index
from p2p.bundles.judging import KEPT, RefusedBundle, judge
from p2p.config import AgentConfig
from p2p.content.bundle import (
    FAT32_PART_SIZE,
    BundleObject,
    Kind,
    Table,
    decode_table,
    encode_table,
    pack_name,
)
from p2p.content.digests import Digest
from p2p.content.index import PackIndex
from p2p.content.manifest import ObjectRef, PackRef, PayloadSpec
from p2p.errors import ContentError, LocalError, NothingMeantError, OperatorError, OriginError
from p2p.trust import Decision, Meant, Nothing

log = logging.getLogger(__name__)

NEWS_ONLY = "what is installed goes on running; of the bundle, who is revoked was imported, and nothing else"

_PACKS = (Kind.INDEX, Kind.FRAMES)

Wanted = dict[tuple[Kind, str], PackRef]
"""Index and frames to have here, by kind and name."""

Offers = Mapping[tuple[Kind, str], Collection[ObjectRef]]
"""What bundles call by a kind and a name. Nobody signs that, so one may call something else the same."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did. `packs`: names of the packs that are here now; `stale`: by exception.

    `nothing`: why nothing is to be installed here, None when a release is. `agent`: pid of the agent that
    runs (0: not known), None if none does; `told`: whether it looks at once.
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
    told: bool


async def import_bundle(
    config: AgentConfig,
    directory: str,
    now: float,
    bar: Callable[[int], AbstractContextManager[Progress]],
    *,
    everything: bool = False,
    keep: bool = False,
) -> Imported:
    """Bring the bundle in `directory` to this device. `bar`: shows progress towards so many bytes.

    `everything`: all packs that it could use; `keep`: their frames stay when the release is committed. Raises
    `TrustError` (not to be trusted, or stale), `ContentError` (not what it says it is), `OperatorError`
    (there is no bundle), `StoreError`.
    """
    reader = BundleReader.open(directory)
    own = _own(config)
    try:
        verdict = judge(config, reader, own, now)
    except RefusedBundle as refused:
        if refused.news and await _bring_news(config, reader, own, refused.news, now):
            refused.kept = NEWS_ONLY
        raise
    decision = verdict.decision
    before = [] if own is None else _sound(own, reader)
    here: dict[tuple[Kind, str], set[ObjectRef]] = {}
    for o in (*before, *reader.table.objects):
        here.setdefault((o.kind, o.name), set()).add(o.ref)
    frames_before = {o.ref for o in before if o.kind is Kind.FRAMES}
    wanted, installed, nothing = _packs(config, here, frames_before, decision, everything=everything)
    packs = [
        BundleObject(kind, name, pack.index if kind is Kind.INDEX else pack.frames)
        for (kind, name), pack in sorted(wanted.items(), key=lambda item: list(Kind).index(item[0][0]))
    ]
    packs += [o for o in before if o not in packs and _stays(o, wanted, decision, keep=keep)]
    signed_before = [o for o in before if o.kind not in _PACKS]
    used = verdict.used | {o.ref.sha256 for o in signed_before}  # those were verified then
    older = verdict.stale == "older" and any(o.kind is Kind.TIMESTAMP for o in signed_before)
    signed = signed_before if older else _signed(reader.table, used)
    as_they_are = frozenset(o.ref.sha256 for o in before if reader.find(o.ref.sha256) is None)
    table = _table(reader, (*signed, *packs), now)
    copied = await _lay_down(config, reader, own, table, wanted, as_they_are, bar, keep=keep)
    meant = decision if isinstance(decision, Meant) else None
    return Imported(
        release=None if meant is None else meant.manifest.version,
        order=None if meant is None else meant.order.id,
        packs=tuple(o.name for o in table.of(Kind.FRAMES)),
        size=table.size,
        copied=copied,
        stale=verdict.stale,
        nothing=_nothing(decision) if isinstance(decision, Nothing) else nothing,
        installed=installed,
        agent=lock_holder(config.device.state_dir),
        told=_tell(config),
    )


async def _bring_news(
    config: AgentConfig, reader: BundleReader, own: BundleReader | None, news: Collection[Digest], now: float
) -> bool:
    """Of a bundle that is refused, lay down who is revoked, for the agent; whether that could be done.

    What was imported before stays, but for signed metadata, of which there is one.
    """
    before = [] if own is None else [o for o in _sound(own, reader) if o.kind in _PACKS]
    as_they_are = frozenset(o.ref.sha256 for o in before)
    try:
        table = _table(reader, (*_signed(reader.table, news), *before), now)
        bar = nullcontext(lambda done: None)
        await _lay_down(config, reader, own, table, {}, as_they_are, lambda size: bar)
    except (ContentError, LocalError, OperatorError) as error:
        log.warning("the revocation list of the bundle: %s", error.message)
        return False
    _tell(config)
    return True


async def _lay_down(
    config: AgentConfig,
    reader: BundleReader,
    own: BundleReader | None,
    table: Table,
    wanted: Wanted,
    as_they_are: Collection[Digest],
    bar: Callable[[int], AbstractContextManager[Progress]],
    *,
    keep: bool | None = None,
) -> int:
    """Write what is imported; bytes that were copied. `own`: what was imported before, as it was judged by.

    `keep` None: as it was said before.
    """
    writer = BundleWriter(str(config.imported_dir), table.part_size)
    with writer.locked():
        _refuse_changed(config, own)
        quota_of(config).check(missing_of(writer, table), "what is to be imported")
        check_room(writer, table)
        with bar(table.size) as progress:
            copied = await _copy(writer, table, BundleOrigin(reader), wanted, as_they_are, progress)
        if keep is not None:
            _keep_frames(config, keep)
        writer.commit(table)
    return copied


def _refuse_changed(config: AgentConfig, own: BundleReader | None) -> None:
    """Raise `LocalError` if what was imported before is not what the new bundle was judged beside.

    Another import may have come between, or the agent dropped what it had used: what the table would take
    over of that is not there any more. Called by who alone may change it now.
    """
    there = _own(config)
    if (None if there is None else there.table) != (None if own is None else own.table):
        raise LocalError(
            f"what is in {config.imported_dir} has changed meanwhile, by another import or the agent",
            kept="what is there now; nothing was changed",
            next_step="import the bundle again",
        )


def _signed(table: Table, used: Collection[Digest]) -> list[BundleObject]:
    """The signed objects that were used, each once: nobody signs what the table calls them."""
    found, seen = [], {table.timestamp.ref.sha256}
    for o in table.objects:
        if o.kind is Kind.TIMESTAMP:
            found.append(o)
        elif o.kind not in _PACKS and o.ref.sha256 in used and o.ref.sha256 not in seen:
            found.append(o)
            seen.add(o.ref.sha256)
    return found


def _table(reader: BundleReader, objects: tuple[BundleObject, ...], now: float) -> Table:
    """The table of what is imported. Raises `ContentError` where nobody could read it."""
    table = replace(
        reader.table,
        created=now,
        products=tuple(dict.fromkeys(reader.table.products)),
        objects=objects,
        part_size=FAT32_PART_SIZE,
    )
    try:
        decode_table(encode_table(table))
    except ContentError as error:
        raise ContentError(
            f"{reader.directory}: its table contradicts what it holds: {error.message}",
            kept=KEPT,
            next_step="export the bundle again",
        ) from error
    return table


async def _copy(
    writer: BundleWriter,
    table: Table,
    origin: BundleOrigin,
    wanted: Wanted,
    as_they_are: Collection[Digest],
    progress: Progress,
) -> int:
    """Have all objects of the table. `as_they_are`: those that only an earlier import brought."""
    copied = 0
    indexes: dict[str, PackIndex] = {}
    for found in table.objects:
        index = indexes.get(found.name) if found.kind is Kind.FRAMES else None
        if found.ref.sha256 in as_they_are:
            progress(found.ref.size)
        else:
            try:
                stream = partial(origin.stream, found.ref.sha256)
                copied += await copy_object(writer, found, stream, index, progress)
            except OriginError as error:
                raise ContentError(error.message, kept=error.kept, next_step=error.next_step) from error
        if found.kind is Kind.INDEX and (found.kind, found.name) in wanted:
            try:
                data = writer.object(found.ref).read(0, found.ref.size)
            except OSError as error:
                raise medium_error("read", f"{writer.directory}: the index of {found.name}", error) from error
            indexes[found.name] = open_index(data, wanted[found.kind, found.name], found.name)
    return copied


def _sound(own: BundleReader, reader: BundleReader) -> list[BundleObject]:
    """What is of use of an earlier import: frames that are there, and small objects that are whole.

    A frame that has rotted stays: the agent verifies each as it uses it, and what that one lacks comes from
    elsewhere. What the new bundle holds too is mended from it.
    """
    gone = {o.ref.sha256 for o in own.lacks()}

    def is_sound(o: BundleObject) -> bool:
        if reader.find(o.ref.sha256) is not None:
            return True
        if o.kind is Kind.FRAMES:
            return o.ref.sha256 not in gone
        try:
            own.whole(o)
        except (ContentError, LocalError) as error:
            log.warning("imported before, and damaged: %s", error.message)
            return False
        return True

    return [o for o in own.table.objects if is_sound(o)]


def _stays(o: BundleObject, wanted: Wanted, decision: Decision, *, keep: bool) -> bool:
    """Whether a part of a pack that was imported before is kept, though this import does not ask for it.

    While nothing is meant (an order is paused, say) what may be meant again is kept; and so are, if they are
    to be kept, those of the release that is meant.
    """
    if o.kind not in _PACKS or (o.kind, o.name) in wanted:
        return False
    if not isinstance(decision, Meant):
        return True
    return keep and o.name.startswith(f"{decision.manifest.product}/{decision.manifest.version}/")


def _own(config: AgentConfig) -> BundleReader | None:
    """What was imported before, if it can be read: packs of it that are still of use stay."""
    try:
        return BundleReader.open(str(config.imported_dir))
    except (OperatorError, ContentError, LocalError):
        return None


def _packs(
    config: AgentConfig,
    here: Offers,
    frames_before: Collection[ObjectRef],
    decision: Decision,
    *,
    everything: bool,
) -> tuple[Wanted, bool, NothingMeantError | None]:
    """Index and frames to have here, whether what is meant is installed already, and why it cannot be.

    The smallest pack that this device can use of each payload, others that were imported before (of use where
    the base is damaged), and the index of the full pack, by which peers with other bases get their chunks.
    """
    wanted: Wanted = {}
    if not isinstance(decision, Meant):
        return wanted, False, None
    held = _held(config)
    lacking: NothingMeantError | None = None
    missing = [p for p in decision.manifest.payloads if held.get(p.name) != (p.image.sha256, p.image.size)]
    for payload in missing:
        base = held.get(payload.name)
        usable = _usable(decision, payload, None if base is None else base[0], here)
        if not usable:
            lacking = NothingMeantError(
                f"the bundle has no pack of {payload.name} {decision.manifest.version} that this device can"
                f" use: it holds {'no known image' if base is None else 'image ' + base[0].hex()}",
                kept="its signed metadata was imported, for this device and its peers",
                next_step="export with --base for that image, or with the full pack",
            )
        full = payload.full_pack
        name = _name(decision, payload, full)
        if full.index in here.get((Kind.INDEX, name), ()):
            wanted[Kind.INDEX, name] = full
        for n, pack in enumerate(usable):
            if n and not everything and pack.frames not in frames_before:
                continue
            name = _name(decision, payload, pack)
            wanted[Kind.INDEX, name] = wanted[Kind.FRAMES, name] = pack
    return wanted, not missing, lacking


def _held(config: AgentConfig) -> dict[str, tuple[Digest, int] | None]:
    """What the running slot of each payload holds. A device that has never been started learns it here."""
    slots = slots_of(config, boot_of(config))
    if lock_holder(config.device.state_dir) is None:
        with suppress(LocalError), AgentLock(config.device.state_dir):
            for places in slots.values():
                places.adopt_active()
    return {name: places.image_in(places.active()) for name, places in slots.items()}


def _usable(meant: Meant, payload: PayloadSpec, base: Digest | None, here: Offers) -> list[PackRef]:
    """Packs of the bundle that make the payload here, the smallest first."""
    found = []
    for pack in payload.packs:
        name = _name(meant, payload, pack)
        index_here = pack.index in here.get((Kind.INDEX, name), ())
        frames_here = pack.frames in here.get((Kind.FRAMES, name), ())
        if index_here and frames_here and pack.base in (None, base):
            found.append(pack)
    return sorted(found, key=lambda pack: pack.wan_bytes)


def _name(meant: Meant, payload: PayloadSpec, pack: PackRef) -> str:
    return pack_name(meant.manifest.product, meant.manifest.version, payload.name, pack.base)


def _nothing(decision: Decision) -> NothingMeantError:
    assert isinstance(decision, Nothing)
    return NothingMeantError(
        f"nothing in the bundle is meant for this device ({decision.reason}): {decision.detail}",
        kept="its signed metadata was imported, for this device and its peers",
        next_step="import it on a device that the order names",
    )


def _tell(config: AgentConfig) -> bool:
    """A running agent asks at once what is meant; one that cannot be told finds out at its next poll."""
    pid = lock_holder(config.device.state_dir)
    if not pid:
        return False
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError:
        return False
    return True


def _keep_frames(config: AgentConfig, keep: bool) -> None:
    """Whether the agent keeps the imported frames once their release is committed."""
    path = config.imported_dir / KEEP_NAME
    try:
        if keep:
            path.touch()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise medium_error("write", str(path), error) from error
