"""What a bundle means for this device, judged as if a stranger had sent it (`docs/spec/bundle.md` section 5).

The agent's trust state is read, and none of it changed, so that it does not matter whether an agent runs.
A bundle whose metadata is expired, older than what the device knows, or of a release below its floor is
refused, unless a signed order excepts this device by name.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from p2p.adapters.bundle_files import BundleReader
from p2p.adapters.device import FLOOR_DIRECTORIES, revocations_of
from p2p.adapters.durable import ReadOnlyBlobStore
from p2p.adapters.identity import load_credentials, read_pinned_root
from p2p.config import AgentConfig
from p2p.content.bundle import BundleObject, Kind
from p2p.content.digests import Digest, sha256
from p2p.content.order import Member
from p2p.errors import ConfigError, ContentError, OriginError, TrustError
from p2p.trust import (
    Decision,
    Need,
    Nothing,
    Overlay,
    Question,
    ReleaseFloors,
    TrustClient,
    excused,
    release_despite_expiry,
    release_for,
    run,
)
from p2p.trust.bundling import products_of, survey

REVOCATIONS = "revocations/"
"""How the names of the parts of a revocation list begin."""

KEPT = "what is installed goes on running; nothing was imported"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the bundle means for this device. `used`: the signed files that were verified on the way.

    `stale`: `expired` or `older`, where an exception lets it count all the same.
    """

    decision: Decision
    used: frozenset[Digest]
    stale: str | None = None


class RefusedBundle(TrustError):  # noqa: N818 (a state, as in trio.Cancelled)
    """It brings nothing to install. `news`: the signed files of it by which it is known who is revoked."""

    def __init__(self, error: TrustError, news: frozenset[Digest]) -> None:
        super().__init__(error.reason, error.message, kept=error.kept, next_step=error.next_step)
        self.news = news


class _BundleSource:
    """Answers the trust client from a bundle, and remembers what it took.

    `mutable` False: roots and timestamp are not asked of it. `own`: what was imported before, for what the
    bundle lacks of the rest.
    """

    def __init__(
        self, reader: BundleReader, *, mutable: bool = True, own: BundleReader | None = None
    ) -> None:
        self._reader = reader
        self._own = own
        self._mutable = mutable
        self.used: set[Digest] = set()

    def __call__(self, need: Need) -> bytes | None:
        if need.error is not None:
            raise OriginError("bad-bytes", need.error.message)
        reader, table = self._reader, self._reader.table
        found: BundleObject | None
        if need.digest is not None:
            found = reader.find(need.digest)
            if found is None and self._own is not None:
                reader, found = self._own, self._own.find(need.digest)
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
        data = reader.whole(found)
        self.used.add(found.ref.sha256)
        return data


def judge(config: AgentConfig, reader: BundleReader, own: BundleReader | None, now: float) -> Verdict:
    """What the bundle means, or the refusal. `own`: what was imported before, which the device knows too.

    The agent's state is only read. Raises `TrustError`, `ContentError`, `ConfigError`, `StoreError`.
    """
    member, device = _member(config), config.device
    state = device.state_dir
    client = TrustClient(
        Overlay(ReadOnlyBlobStore(state / "trust")),
        read_pinned_root(config.trust.root),
        build_time=config.trust.build_time or 0.0,
    )
    floors = ReleaseFloors(
        *(Overlay(ReadOnlyBlobStore(state / directory)) for directory in FLOOR_DIRECTORIES)
    )
    floor = floors.get(device.product)
    revoked = revocations_of(config, read_only=True)
    in_force = own is not None and _learn(client, own, now)
    source = _BundleSource(reader)
    question = Question(member, device.product, device.hardware, floor, revocations=revoked)
    stale: str | None = None
    try:
        decision: Decision = run(release_for(client, question, now), source)
    except TrustError as refused:
        if refused.reason == "expired":
            try:
                decision = _despite_expiry(client, question, now, source, refused, reader)
            except TrustError as error:
                # What was imported before, and is in force, is not given up for what has expired.
                news = frozenset() if in_force else _news(client, reader, source)
                raise RefusedBundle(error, news) from error
            stale = "expired"
        elif refused.reason == "rollback":
            decision = _despite_age(client, replace(question, revocations=None), now, reader, own, refused)
            stale = "older"
        else:
            raise _refusal(refused) from refused
    except OriginError as incomplete:
        raise ContentError(
            f"{reader.directory}: {incomplete.message}", kept=KEPT, next_step="export the bundle again"
        ) from incomplete
    if isinstance(decision, Nothing) and decision.reason == "below-floor":
        below = TrustError(
            "below-floor",
            f"the bundle would take this device back: {decision.detail}",
            kept=KEPT,
            next_step="order the release with `--allow-downgrade` for this device, and export it anew",
        )
        raise RefusedBundle(below, frozenset() if stale else _news(client, reader, source))
    if stale is None:
        _survey_others(client, reader, source)
    return Verdict(decision, frozenset(source.used | _known_roots(client, reader)), stale)


def _learn(client: TrustClient, own: BundleReader, now: float) -> bool:
    """What was imported before is known, also once it has expired: nothing older counts as news after it.

    Whether it is in force.
    """
    try:
        with suppress(OriginError, ContentError):
            run(client.refresh(now), _BundleSource(own))
            return True
    except TrustError as refused:
        if refused.reason == "expired":
            copy = client.lenient_copy()
            with suppress(TrustError, OriginError, ContentError):
                run(copy.refresh(now), _BundleSource(own))
            client.adopt(copy)
    return False


def _news(client: TrustClient, reader: BundleReader, source: _BundleSource) -> frozenset[Digest]:
    """What was verified of a bundle, if a revocation list is in it: no list is too old to count."""
    documents = reader.table.of(Kind.DOCUMENT)
    listed = any(o.name.startswith(REVOCATIONS) and o.ref.sha256 in source.used for o in documents)
    return frozenset(source.used | _known_roots(client, reader)) if listed else frozenset()


def _despite_expiry(
    client: TrustClient,
    question: Question,
    now: float,
    source: _BundleSource,
    refused: TrustError,
    reader: BundleReader,
) -> Decision:
    try:
        return run(release_despite_expiry(client, question, now), source)
    except TrustError as error:
        if error.reason != "expired":
            raise _refusal(error) from refused
        raise TrustError(
            "expired",
            f"the bundle is stale: {refused.message}",
            kept=KEPT,
            next_step="export it anew; or have the release ordered with `--allow-stale` for this device",
        ) from refused
    except OriginError as error:
        raise ContentError(f"{reader.directory}: {error.message}", kept=KEPT) from refused


def _despite_age(
    client: TrustClient,
    question: Question,
    now: float,
    reader: BundleReader,
    own: BundleReader | None,
    refused: TrustError,
) -> Decision:
    """By what the device knows itself, which is newer: the bundle can only give frames to it."""
    held = _BundleSource(reader, mutable=False, own=own)
    decision: Decision | None = None
    with suppress(TrustError, OriginError, ContentError):
        decision = run(release_for(client, question, now), held)
    if decision is None:
        with suppress(TrustError, OriginError, ContentError):
            decision = run(release_despite_expiry(client, question, now), held)
    if decision is None or not excused(decision, question.member, client.time):
        raise TrustError(
            "older",
            f"the bundle is older than what this device knows: {refused.message}",
            kept=KEPT,
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
    known: tuple[str, ...] = ()
    with suppress(TrustError, OriginError, ContentError):
        known = run(products_of(client), source)
    for product in known:  # which is signed; of what the table names there may be any number
        if product in reader.table.products:
            with suppress(TrustError, OriginError, ContentError):
                run(survey(client, product), source)


def _member(config: AgentConfig) -> Member:
    if not config.certificate_path.exists():
        raise ConfigError("this device is not enrolled", next_step="slipstream agent enroll --voucher …")
    identity = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path).identity
    return Member(identity.device, identity.site, identity.groups, config.device.hardware)


def _refusal(error: TrustError) -> TrustError:
    return TrustError(
        error.reason,
        f"the bundle is not to be trusted: {error.message}",
        kept=error.kept or KEPT,
        next_step=error.next_step or "export it from this fleet's repository",
    )
