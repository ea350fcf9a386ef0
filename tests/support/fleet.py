"""A whole small fleet in a directory, for tests of the agent: real repository, packs, certificates, agents.

The repository and its packs are made once per session through the same functions that the commands
call; a test gets a copy of it, makes devices, and runs their agents in its own trio loop or as
processes of the `slipstream` command. Images are 4 MiB, so that there are several frames of each kind.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from coordinator.clock import wall_clock
from coordinator.domain import rollout
from coordinator.publishing.authority import FleetAuthority, key_of_request
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.orders import OrderRequest, change_phases, create_order, publish_order
from coordinator.publishing.releases import PayloadInput, ReleaseRequest, build_release, publish_release
from coordinator.publishing.repository import Repository
from coordinator.publishing.setup import init_repository
from p2p.adapters.device import boot_of, install_record, slots_of
from p2p.adapters.http import HttpClient
from p2p.adapters.identity import Credentials, load_credentials, make_key, signing_request
from p2p.adapters.status import read_status
from p2p.agent import asking, polling, runtime
from p2p.agent.runtime import Agent
from p2p.config import AgentConfig, parse_config
from p2p.content.digests import Digest, sha256
from p2p.content.limits import KIB, MIB
from p2p.content.manifest import Manifest, PackRef, decode_manifest
from p2p.content.order import Audience, Order
from p2p.errors import SlipstreamError
from p2p.install import InstallRecord
from p2p.swarm import Policy, gateway, indexes
from tests.support.fleet_repository import quick_packs
from tests.support.serving import serving

PRODUCT = "engine"
HARDWARE = "board-a"
NOWHERE = "http://127.0.0.1:9"
"""A coordinator that refuses connections at once."""

PATIENCE_S = 60.0
"""A test that waits for this long has found something that hangs."""


def _images() -> dict[str, bytes]:
    """Three successive images: edits that make PATCH, new data, long runs that stay, a run of zeros."""
    rng = random.Random(20)
    image = bytearray(rng.randbytes(4 * MIB))
    image[2560 * KIB : 2944 * KIB] = bytes(384 * KIB)
    found = {"1.0": bytes(image)}
    for version in ("2.0", "3.0"):
        for start in (0, 3840 * KIB):
            for at in range(start, start + 256 * KIB, 16 * KIB):
                image[at + 100 : at + 164] = rng.randbytes(64)
        start = 1536 * KIB
        image[start : start + 512 * KIB] = rng.randbytes(512 * KIB)
        found[version] = bytes(image)
    return found


IMAGES = _images()
DIGESTS = {version: sha256(image) for version, image in IMAGES.items()}
SMALL = b"a second payload, small " * 200


def _make_template(directory: Path) -> None:
    for version, image in IMAGES.items():
        (directory / f"{version}.img").write_bytes(image)
    (directory / "small.img").write_bytes(SMALL)
    passphrases = Passphrases(plain=True, environment={}, prompt=False)
    repository = init_repository(directory / "repository", passphrases, products=(PRODUCT,))
    for version, base in (("2.0", "1.0"), ("3.0", "2.0")):
        payload = PayloadInput("rootfs", directory / f"{version}.img", (directory / f"{base}.img",))
        request = ReleaseRequest(product=PRODUCT, version=version, hardware=(HARDWARE,), payloads=(payload,))
        built = build_release(
            request, repository.state(), repository.objects, repository.expiry("release"), workers=1
        )
        publish_release(repository, [built.proposal], None, sign_here=True)


@pytest.fixture(scope="session")
def fleet_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with releases 2.0 and 3.0 and no order, made once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    directory = shared / "fleet-template"
    with (shared / "fleet-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "ready").exists():
            directory.mkdir()
            _make_template(directory)
            (directory / "ready").touch()
    return directory


@pytest.fixture
def fleet(fleet_template: Path, tmp_path: Path) -> FleetRig:
    """A fleet of a test's own."""
    return FleetRig.copy_of(fleet_template, tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of this process are impatient: what takes seconds in a depot takes tenths here."""
    policy = functools.partial(
        Policy,
        join_s=0.5,
        request_s=0.8,
        hedge_s=0.3,
        help_s=0.1,
        object_s=0.5,
        have_batch_s=0.01,
        penalty_s=5.0,
    )
    monkeypatch.setattr(runtime, "Policy", policy)
    monkeypatch.setattr(
        runtime, "HttpClient", functools.partial(HttpClient, connect_s=1.0, idle_s=0.6, rate_min=2000)
    )
    monkeypatch.setattr(polling, "ONCE_PATIENCE_S", 1.0)
    monkeypatch.setattr(polling, "RETRY_S", (0.1, 0.5))
    monkeypatch.setattr(asking, "NEWS_PAUSE_S", 0.3)
    monkeypatch.setattr(gateway, "BACKOFF_S", (0.1, 0.5))
    monkeypatch.setattr(indexes, "INDEX_RETRY_S", 0.3)


@dataclass
class FleetRig:
    """A repository and its devices below one directory."""

    directory: Path
    repository: Repository
    template: Path
    devices: dict[str, Device] = field(default_factory=dict)

    @classmethod
    def copy_of(cls, template: Path, directory: Path) -> FleetRig:
        """Objects are linked (they never change), all else is copied."""
        source, target = template / "repository", directory / "repository"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("objects"))
        shutil.copytree(source / "objects", target / "objects", copy_function=os.link)
        passphrases = Passphrases(plain=True, environment={}, prompt=False)
        return cls(directory, Repository.open(target, passphrases), template)

    @functools.cached_property
    def authority(self) -> FleetAuthority:
        return FleetAuthority.load(self.repository.directory, self.repository.passphrases)

    # Publishing

    def order(self, version: str, audience: Audience | None = None, **request: Any) -> Order:
        """Create, sign and publish an order; its first phase is open."""
        opened = request.pop("opened", 1)
        product = request.pop("product", PRODUCT)
        asked = OrderRequest(product, version, audience or Audience(all=True), **request)
        proposal = create_order(self.repository, self.repository.state(), asked)
        return publish_order(self.repository, [proposal], sign_here=True, opened=opened)

    def pause(self, order: Order) -> None:
        change_phases(self.repository, order.id, lambda _, state: rollout.pause(state, "a test"))

    def resume(self, order: Order) -> None:
        change_phases(self.repository, order.id, lambda _, state: rollout.resume(state))

    def abort(self, order: Order) -> None:
        change_phases(self.repository, order.id, lambda _, state: rollout.abort(state, "a test"))

    def open(self, order: Order, phases: int) -> None:
        change_phases(
            self.repository, order.id, lambda found, state: rollout.open_phases(found, state, phases)
        )

    def release(
        self, version: str, payloads: dict[str, tuple[Path, tuple[Path, ...]]], **request: Any
    ) -> None:
        """Build, sign and publish a further release of small images, without any process."""
        inputs = tuple(PayloadInput(name, path, bases) for name, (path, bases) in payloads.items())
        request.setdefault("hardware", (HARDWARE,))
        request.setdefault("product", PRODUCT)
        asked = ReleaseRequest(version=version, payloads=inputs, **request)
        repository = self.repository
        with quick_packs():
            built = build_release(asked, repository.state(), repository.objects, repository.expiry("release"))
        publish_release(repository, [built.proposal], None, sign_here=True)

    def manifest(self, version: str) -> Manifest:
        state = self.repository.state()
        ref = state.target(f"product-{PRODUCT}", f"manifests/{PRODUCT}/{version}.json")
        assert ref is not None
        return decode_manifest(self.repository.get(ref))

    def pack(self, version: str, base: str | None) -> PackRef:
        """The pack of payload rootfs that starts from `base` (a version of `IMAGES`)."""
        wanted = None if base is None else DIGESTS[base]
        return next(p for p in self.manifest(version).payloads[0].packs if p.base == wanted)

    def object_path(self, digest: Digest) -> Path:
        return self.repository.objects / digest.hex()

    # Devices

    def device(
        self,
        name: str,
        *,
        site: str = "depot",
        groups: tuple[str, ...] = (),
        holds: str | None = "1.0",
        enrolled: bool = True,
        **settings: Any,
    ) -> Device:
        """A device whose slot a holds the image of version `holds`; see `Device.configure` for `settings`."""
        device = Device(self, name, self.directory / "devices" / name, free_port())
        device.directory.mkdir(parents=True)
        (device.directory / "root.json").write_bytes((self.repository.directory / "root.json").read_bytes())
        if holds is not None:
            shutil.copyfile(self.template / f"{holds}.img", device.slot("a"))
        device.configure(**settings)
        if enrolled:
            self.enrol(device, site, groups)
        self.devices[name] = device
        return device

    def enrol(self, device: Device, site: str, groups: tuple[str, ...] = ()) -> None:
        """What the device API does for a voucher, without a server."""
        config = device.config
        config.device.state_dir.mkdir(parents=True, exist_ok=True)
        key = make_key(config.key_path)
        request = signing_request(key, device.name)
        now = datetime.now(UTC)
        certificate = self.authority.issue(
            key_of_request(request.decode()), device.name, site, groups, now, days=30
        )
        config.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        config.fleet_ca_path.write_bytes(self.authority.pem.encode())

    @contextlib.contextmanager
    def coordinator(self) -> Iterator[str]:
        """Serve the repository with the real coordinator on a free port, in a thread; gives its URL."""
        with serving(self.repository, wall_clock) as (_, url):
            yield url


@dataclass
class Device:
    """One device: its directory, configuration, slots, and ways to run its agent."""

    fleet: FleetRig
    name: str
    directory: Path
    port: int

    def slot(self, name: str, payload: str = "rootfs") -> Path:
        return self.directory / f"{payload}-{name}.img"

    @property
    def config_file(self) -> Path:
        return self.directory / "agent.toml"

    def configure(
        self,
        *,
        origin: str | None = None,
        coordinator: str = NOWHERE,
        peers: tuple[Device | int, ...] = (),
        product: str = PRODUCT,
        hardware: str = HARDWARE,
        payloads: tuple[str, ...] = ("rootfs",),
        health: tuple[str, ...] | None = None,
        health_s: float = 5.0,
        wan: bool = True,
        weight: int = 100,
        settle_s: float = 0.2,
        stall_s: float = 0.8,
        fallback_s: float = 1.0,
        poll_s: float = 0.3,
        wan_rate: str | None = None,
        reboot: tuple[str, ...] | None = None,
        slot_directory: Path | None = None,
        extra: str = "",
    ) -> None:
        """Write `agent.toml`. `peers`: devices or ports to dial."""
        places = slot_directory or self.directory
        ports = [p if isinstance(p, int) else p.port for p in peers]
        lines = [
            "[device]", f'id = "{self.name}"', f'product = "{product}"', f'hardware = "{hardware}"',
            'state_dir = "state"',
            "[coordinator]", f'url = "{coordinator}"', f"poll_s = {poll_s}",
            *(["[origin]", f'url = "{origin}"'] if origin else []),
            "[trust]", 'root = "root.json"',
            "[network]", f'listen = "127.0.0.1:{self.port}"', 'advertise = "127.0.0.1"',
            "[discovery]", "mdns = false", f"peers = {json.dumps([f'127.0.0.1:{p}' for p in ports])}",
            *itertools.chain.from_iterable(
                [f"[slots.{p}]", f'a = "{places}/{p}-a.img"', f'b = "{places}/{p}-b.img"'] for p in payloads
            ),
            "[boot]", *([f"reboot_command = {json.dumps(reboot)}"] if reboot else ["attempts = 3"]),
            "[health]", *([f"command = {json.dumps(health)}"] if health else []), f"timeout_s = {health_s}",
            *(["[budgets]", f'wan_rate_max = "{wan_rate}"'] if wan_rate else []),
            "[swarm]", f"settle_s = {settle_s}", f"stall_s = {stall_s}", f"fallback_s = {fallback_s}",
            f"wan = {'true' if wan else 'false'}", f"weight = {weight}",
            extra,
        ]  # fmt: skip
        self.config_file.write_text("\n".join(lines) + "\n")

    @property
    def config(self) -> AgentConfig:
        return parse_config(
            self.config_file.read_bytes(), source=str(self.config_file), directory=self.directory
        )

    @property
    def credentials(self) -> Credentials:
        config = self.config
        return load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)

    # What is there

    @property
    def running_slot(self) -> str:
        return boot_of(self.config).read().running

    def running_version(self, payload: str = "rootfs") -> str | None:
        """Which image the running slot's file holds, byte for byte; None for none of ours."""
        found = sha256(self.slot(self.running_slot, payload).read_bytes())
        return next((version for version, digest in DIGESTS.items() if digest == found), None)

    @property
    def record(self) -> InstallRecord:
        return install_record(self.config)

    @property
    def status(self) -> dict[str, Any]:
        return read_status(self.config.status_path) or {}

    def valid_slots(self, payload: str = "rootfs") -> dict[str, str]:
        """Digest (hex) of the image that each valid slot holds."""
        slots = slots_of(self.config, boot_of(self.config))[payload]
        return {s: held[0].hex() for s in slots.names if (held := slots.image_in(s)) is not None}

    def adopt(self) -> None:
        """Record what slot a holds, as the first start does."""
        slots_of(self.config, boot_of(self.config))["rootfs"].adopt("a")

    # Running

    @contextlib.asynccontextmanager
    async def running(self, *, once: bool = False, linger_s: float = 0.0) -> AsyncIterator[RunningAgent]:
        """Its agent in this process and loop, stopped at the end of the block."""
        async with AsyncExitStack() as stack:
            agent = Agent(self.config, stack)
            run = RunningAgent(self, agent)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.run, once, linger_s)
                try:
                    yield run
                finally:
                    nursery.cancel_scope.cancel()

    async def once(self) -> SlipstreamError | None:
        """As `agent run --once` in this loop: the error that it ends with, or None."""
        with trio.fail_after(PATIENCE_S):
            async with self.running(once=True) as run:
                await run.ended.wait()
        return run.outcome

    def command(self, *arguments: str) -> list[str]:
        """The command line of a process of this device's agent."""
        return [sys.executable, str(IMPATIENT), "agent", *arguments, "--config", str(self.config_file)]


@dataclass(frozen=True)
class Done:
    """A command that ended; `code` is negative for a signal."""

    code: int
    output: str
    messages: str


class Forks:
    """Runs of `slipstream agent` in forks of one warm process, which saves most of their time."""

    def __init__(self, process: trio.Process, directory: Path) -> None:
        self._process = process
        self._files = [str(directory / "output"), str(directory / "messages")]

    async def run(self, device: Device, *arguments: str, before: tuple[str, ...] = ()) -> Done:
        """`before`: for `impatient_agent`."""
        return await self.command("agent", *arguments, "--config", str(device.config_file), before=before)

    async def command(self, *arguments: str, before: tuple[str, ...] = ()) -> Done:
        """Any other command."""
        line = [*self._files, *before, *arguments]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            await self._process.stdin.send_all(json.dumps(line).encode() + b"\n")
            code = int(await self._process.stdout.receive_some(100))
        output, messages = (Path(file).read_text() for file in self._files)
        return Done(code, output, messages)


@pytest.fixture
async def forks(tmp_path: Path) -> AsyncIterator[Forks]:
    """See `Forks`."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(IMPATIENT), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield Forks(process, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.aclose()
    await process.stdout.aclose()
    process.kill()
    await process.wait()


IMPATIENT = Path(__file__).with_name("impatient_agent.py")


@dataclass
class RunningAgent:
    """An agent in this loop. `outcome` counts once `ended` is set."""

    device: Device
    agent: Agent
    outcome: SlipstreamError | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self, once: bool, linger_s: float) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self.outcome = await self.agent.run(nursery, once=once, linger_s=linger_s)
                nursery.cancel_scope.cancel()
        except* SlipstreamError as group:
            self.outcome = _first(group)
        self.ended.set()

    @property
    def state(self) -> str:
        return self.agent._updates.progress.state

    @property
    def ledger(self) -> Any:
        return self.agent._node.ledger

    @property
    def links(self) -> Any:
        return self.agent._links

    @property
    def node(self) -> Any:
        return self.agent._node

    async def committed(self, version: str) -> None:
        """Until the device runs `version`, installed and committed."""
        await until(
            lambda: (
                self.agent._installer.record.installed is not None
                and self.agent._installer.record.installed.release.version == version
                and self.agent._installer.record.state.value == "idle"
            ),
            f"{self.device.name} runs {version}",
        )


def _first(group: BaseExceptionGroup[SlipstreamError]) -> SlipstreamError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, SlipstreamError)
    return found


async def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something that announces itself by nothing but being so."""
    with trio.move_on_after(timeout_s):
        while not condition():
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


_ports = itertools.count()


def free_port() -> int:
    """A port of loopback that nothing listens on, below the range that the system gives out."""
    for _ in range(2000):
        port = 20_000 + (os.getpid() * 37 + next(_ports)) % 12_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def flip(data: bytes, at: int = -1) -> bytes:
    """`data` with one bit flipped, by default in the middle."""
    at = len(data) // 2 if at < 0 else at
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def flip_file(path: Path, *offsets: int) -> None:
    """Flip one bit at each offset, in place."""
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0x10]))
