"""The running agent: what is opened at the start, and the tasks that go on until the end.

`Agent` holds one device's adapters, wires them to the node and starts the tasks; which release is meant is
found out and installed by `polling`. Not for any decision of those.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from contextlib import AsyncExitStack
from functools import partial

import trio

from p2p.adapters.background import Background
from p2p.adapters.device import boot_of, floors_of, installer_of, revocations_of
from p2p.adapters.device_api import DeviceApi
from p2p.adapters.disk_quota import quota_of
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.http import HttpClient
from p2p.adapters.identity import load_credentials, read_pinned_root
from p2p.adapters.installer import Task
from p2p.adapters.origin import HttpOrigin
from p2p.adapters.reports import ReportCount
from p2p.adapters.tls import TlsTransport
from p2p.agent.asking import Asking
from p2p.agent.budget import ProcessorBudget, RateBudget
from p2p.agent.carrying import carrying_of
from p2p.agent.conditions import ConditionsWatch
from p2p.agent.discovering import Discovering, discovery_sources
from p2p.agent.driver import SwarmDriver
from p2p.agent.imported import ImportedBundle
from p2p.agent.links import PeerLinks
from p2p.agent.metering import meter_of
from p2p.agent.polling import Polling
from p2p.agent.renewing import Renewing
from p2p.agent.reporting import Reporting
from p2p.agent.revoking import Revoking
from p2p.agent.updates import RebootPendingError, Updates
from p2p.config import AgentConfig
from p2p.content.digests import Digest
from p2p.content.order import Member
from p2p.errors import ConfigError, LocalError, SlipstreamError, TrustError
from p2p.install import Release
from p2p.ports import Discovery, PeerAddress
from p2p.swarm import Policy, SwarmNode
from p2p.swarm import events as e
from p2p.swarm.conditions import Conditions
from p2p.swarm.site_quota import SiteQuota
from p2p.trust import TrustClient, trusted_time

log = logging.getLogger(__name__)


def run(config: AgentConfig, *, once: bool = False, linger_s: float = 0.0) -> int:
    """Run the agent of `config`; returns the exit code. The caller holds the agent's lock."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    return trio.run(_main, config, once, linger_s)


async def _main(config: AgentConfig, once: bool, linger_s: float) -> int:
    outcome: list[SlipstreamError | None] = []
    async with AsyncExitStack() as stack:
        agent = Agent(config, stack)
        async with trio.open_nursery() as nursery:
            await nursery.start(_heed_signals, agent, nursery.cancel_scope)
            outcome.append(await agent.run(nursery, once=once, linger_s=linger_s))
            nursery.cancel_scope.cancel()
    if outcome and outcome[0] is not None:
        raise outcome[0]
    return 0


async def _heed_signals(agent: Agent, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    """SIGTERM ends the agent; SIGHUP makes it ask at once what is meant for it."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                agent.ask_now()
                continue
            log.info("stopping")
            scope.cancel()
            return


class Agent:
    """One device. Opening it touches no network; `run` does."""

    def __init__(self, config: AgentConfig, stack: AsyncExitStack) -> None:
        self._config = config
        state = config.device.state_dir
        if not config.certificate_path.exists():
            raise ConfigError("this device is not enrolled", next_step="slipstream agent enroll --voucher …")
        self._credentials = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
        identity = self._credentials.identity
        if identity.device != config.device.id:
            raise ConfigError(
                f"the certificate is for device {identity.device}, device.id is {config.device.id}",
                next_step="run `slipstream agent check`",
            )
        self._member = Member(identity.device, identity.site, identity.groups, config.device.hardware)
        self._trust = TrustClient(
            DirectoryBlobStore(state / "trust"),
            read_pinned_root(config.trust.root),
            build_time=config.trust.build_time or 0.0,
        )
        self._indexes = DirectoryBlobStore(state / "indexes")
        self._imported = ImportedBundle(config.imported_dir)
        self._floors = floors_of(config)
        self._revocations = revocations_of(config)
        self._background = Background() if config.budgets.wan_gives_way else None
        self._client = HttpClient(ca_file=config.origin.ca, now=self._now, background=self._background)
        self._origin = HttpOrigin(config.origin.url, self._client)
        same = config.coordinator.ca == config.origin.ca
        self._api_client = self._client if same else HttpClient(ca_file=config.coordinator.ca, now=self._now)
        # Without a WAN nobody else corrects a clock that stands; what was signed and has come is newer.
        clock = time.time if config.swarm.wan else self._now
        self._api = DeviceApi(config.coordinator.url, self._api_client, clock)
        for client in {id(c): c for c in (self._client, self._api_client)}.values():
            stack.push_async_callback(client.aclose)
        boot = boot_of(config)
        self._boot = boot
        self._installer = installer_of(config, self._raise_floor)
        # The installer's own: slots remember what their records say, so there must be only one of each.
        self._slots = self._installer.slots
        self._transport = TlsTransport(
            self._credentials,
            self._now,
            host=_numeric(config.network.listen.host),
            port=config.network.listen.port,
            admit=lambda peer: self._links.admits(peer),
            revoked=self._is_revoked,
        )
        stack.callback(self._transport.close)
        self._conditions = ConditionsWatch(config, self._conditions_changed)
        most = config.budgets.site_wan_month_max
        quota = SiteQuota(most, identity.device) if most is not None and config.swarm.wan else None
        self._meter = meter_of(
            config,
            DirectoryBlobStore(state / "budget"),
            self._crossed,
            self._now,
            changed=lambda is_open: self._driver.feed(e.WanChanged(True, closed=not is_open)),
            roaming=self._conditions.now.roaming,
            site=quota,
            told=lambda usage: self._driver.feed(e.WanUsed(usage.number, usage.size)),
        )
        self._node = SwarmNode(
            device=identity.device,
            site=identity.site,
            port=self._transport.port,
            rng=random.SystemRandom(),
            policy=Policy(
                settle_s=config.swarm.settle_s,
                stall_s=config.swarm.stall_s,
                fallback_s=config.swarm.fallback_s,
                gateways_max=config.swarm.gateways_max,
                peer_deltas=config.swarm.peer_deltas,
                cost=config.cost,
            ),
            wan=config.swarm.wan,
            closed=self._meter is not None and not self._meter.open,
            weight=self._conditions.now.weight(config.swarm.weight),
            carrier=config.swarm.carrier,
            recomputes=config.budgets.recompute_memory is not None,
            divides=config.budgets.site_wan_rate_max is not None,
            price=config.budgets.price if config.swarm.wan else None,
            quota=quota,
            isolated=not config.swarm.wan,
            visits=identity.is_carrier,
        )
        self._processor = ProcessorBudget(config.budgets.recompute_cpu, battery=self._conditions.now.battery)
        self._driver = SwarmDriver(
            self._node,
            self._origin,
            spool=state / "spool",
            wan=RateBudget(
                config.budgets.wan_rate_max,
                self._meter.wake if self._meter else None,
                site_rate=config.budgets.site_wan_rate_max,
            ),
            failed=self._failed,
            found=self._found,
            indexes=self._indexes,
            recompute_memory=config.budgets.recompute_memory,
            processor=self._processor,
            held=self._held,
            imported=self._imported,
            weights=config.cost,
        )
        self._links = PeerLinks(
            identity.device,
            self._transport,
            self._driver.received,
            self._driver.answer,
            lan=RateBudget(config.budgets.lan_rate_max),
            backlog=self._driver.storing.backlog,
            revoked=self._is_revoked,
        )
        self._driver.links = self._links
        disk = quota_of(config)  # one for all: what has no name only who took it knows
        self._carrying = carrying_of(config, self._trust, self._driver, disk, self._now)
        self._discovering = Discovering()
        self._revoking = Revoking(
            self._revocations, identity.certificate, self._driver, self._links, self._discovering.silence
        )
        self._updates = Updates(
            config,
            self._installer,
            self._slots,
            boot,
            self._driver,
            disk,
            self._raise_floor,
            leaving=lambda: self._reporting.leaving(),
        )
        self._reporting = Reporting(
            config,
            self._credentials,
            self._api,
            self._client,
            self._installer,
            boot,
            self._driver,
            self._updates,
            self._meter,
            ReportCount(DirectoryBlobStore(state / "reports")),
            self._revoking,
            Renewing(config, self._credentials, self._transport, self._revoking, self._now),
        )
        if self._carrying is not None:
            self._reporting.carried = self._carrying.facts
        self._asking = Asking(
            config,
            self._member,
            self._trust,
            self._floors,
            self._origin,
            self._driver,
            self._imported,
            contacted=self._reporting.polled,
            revoking=self._revoking,
            decided=self._carrying.look if self._carrying is not None else lambda: None,
        )
        self._updates.may_serve(self._conditions.now.serves)
        self._polling = Polling(
            config,
            self._asking,
            self._updates,
            self._reporting,
            self._driver,
            self._meter,
            self._floors,
            self._imported,
        )

    async def run(self, nursery: trio.Nursery, *, once: bool, linger_s: float) -> SlipstreamError | None:
        """Until cancelled; with `once`, until what is meant is committed, or the error that prevents it."""
        self._updates.adopt()
        self._installer.reconcile()
        self._imported.tidy(time.time())
        if self._installer.task is Task.HEALTH and not once:
            self._asking.began_anew()
        await nursery.start(self._driver.run)
        self._revoking.heed()
        await nursery.start(self._links.serve)
        nursery.start_soon(self._discovering.run, self._sources, self._found)
        if self._config.swarm.wan or self._config.swarm.lookout:
            await nursery.start(partial(self._reporting.check_in_always, once=once))
        if self._config.swarm.wan:
            nursery.start_soon(self._reporting.handing_in.hand_in_always)
        if self._meter is not None:
            nursery.start_soon(self._meter.run)
        nursery.start_soon(self._conditions.run)
        nursery.start_soon(self._updates.serve_for_a_time)
        if self._carrying is not None and not once:
            nursery.start_soon(self._carrying.run)
        nursery.start_soon(self._reporting.write_status_always)
        outcome: SlipstreamError | None = None
        try:
            await self._updates.settle()
            if once:
                outcome = await self._polling.once()
            else:
                await self._polling.always()
        except RebootPendingError as pending:
            outcome = pending
        finally:
            with trio.CancelScope(shield=True):
                await self._reporting.write_status()
        if once:
            await self._reporting.last_word()
        if once and outcome is None:
            await trio.sleep(linger_s)
        return outcome

    def ask_now(self) -> None:
        """Do not wait for the next poll, nor be content with a question that is under way."""
        self._conditions.look()
        self._asking.ask_now()

    # Inside

    def _now(self) -> float:
        """Trusted time."""
        return trusted_time(
            time.time(), build_time=self._config.trust.build_time or 0.0, signed_time=self._trust.time
        )

    def _conditions_changed(self, now: Conditions) -> None:
        if self._meter is not None:
            self._meter.roam(now.roaming and not self._config.budgets.wan_roaming)
        self._driver.feed(e.WeightChanged(now.weight(self._config.swarm.weight)))
        self._updates.may_serve(now.serves)
        self._processor.on_battery(now.battery)

    def _held(self, digest: Digest) -> bytes | None:
        """A small object of this device's own stores, but for indexes."""
        held = self._trust.held(digest) or self._imported.object(digest)
        return held if held is not None or self._carrying is None else self._carrying.held(digest)

    def _failed(self, image: Digest, error: LocalError) -> None:
        if self._carrying is not None and self._carrying.has(image):
            self._carrying.failed(image, error)
        else:
            self._updates.failed(image, error)

    def _crossed(self) -> int:
        """Bytes that this process has moved over its WAN, both ways."""
        clients = {id(c): c for c in (self._client, self._api_client)}.values()
        return sum(client.wire_received + client.wire_sent for client in clients)

    def _is_revoked(self, certificate: Digest) -> bool:
        return self._revocations.find(certificate) is not None

    def _found(self, address: PeerAddress) -> None:
        """Somebody says where a peer listens."""
        if not self._revoking.is_out(address.device):
            self._links.found(address)

    def _sources(self) -> list[Discovery]:
        identity = self._credentials.identity
        return discovery_sources(self._config, identity, self._transport.port, self._reporting.roster)

    def _raise_floor(self, release: Release) -> None:
        """After a commit. A floor that is damaged stops updates, not the agent: peers want what it has."""
        try:
            self._floors.raise_to(release.product, release.counter)
        except TrustError as error:
            log.error("%s", error.diagnostics())


def _numeric(host: str) -> str:
    return "" if host in ("0.0.0.0", "::", "*") else host
