"""The coordinator's server: one ASGI application over a repository directory, and how it is run.

Wiring only. The repository's metadata and objects are plain files that any static server can take over;
the device API, the operators' API and the upkeep of the timestamp are what needs this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from coordinator.api.device import DeviceApi
from coordinator.api.errors import ApiError, api_error_response, http_error_response
from coordinator.api.files import Receive, RepositoryFiles, Scope, Send
from coordinator.api.operator import OperatorApi
from coordinator.clock import Clock, wall_clock
from coordinator.db import audit
from coordinator.db.database import Database
from coordinator.errors import RepositoryDamaged
from coordinator.publishing.authority import FleetAuthority
from coordinator.publishing.checkpoints import write_checkpoint
from coordinator.publishing.files import write_atomic
from coordinator.publishing.releases import object_problems
from coordinator.publishing.repository import Repository
from coordinator.publishing.state import ONLINE_PATHS, REVOCATIONS_ROLE
from coordinator.revoking import publish_marked, revocation_facts
from p2p.errors import OperatorError, SlipstreamError, StoreError

log = logging.getLogger("slipstream.coordinator")

UPKEEP_S = 900.0
SIGNED_BY_US = ("timestamp", "snapshot", *ONLINE_PATHS)
KEEP_ALIVE_S = 100
"""Longer than a device waits between two polls at the default pace (60 s, jittered by half)."""

CONNECTIONS_MAX = 2_000
GRACE_S = 10


@dataclass(frozen=True)
class Application:
    """Files go past FastAPI: bytes on thin links and time on busy servers are what they cost."""

    files: RepositoryFiles
    api: FastAPI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and str(scope["path"]).startswith(("/metadata/", "/objects/")):
            await self.files(scope, receive, send)
        else:
            await self.api(scope, receive, send)


@dataclass
class Coordinator:
    """A repository that is served: opened, checked, its timestamp kept fresh."""

    repository: Repository
    database: Database
    authority: FleetAuthority
    clock: Clock = wall_clock

    @classmethod
    def open(cls, repository: Repository, clock: Clock = wall_clock) -> Coordinator:
        """Check everything that serving needs; raises what `Repository.state` and the keys raise."""
        state = repository.state()
        problems = object_problems(repository, state)
        if problems:
            raise RepositoryDamaged(
                f"{len(problems)} objects of published releases are not there: {problems[0]}",
                kept="everything as it is",
                next_step=f"slipstream repo status {repository.directory}, then restore what it names",
            )
        for role, expires in state.expiries().items():
            if expires <= repository.clock() and role not in SIGNED_BY_US:
                log.warning("%s expired at %s; devices refuse it until it is signed again", role, expires)
        authority = FleetAuthority.load(repository.directory, repository.passphrases)
        coordinator = cls(repository, Database.open(repository.database), authority, clock)
        coordinator.upkeep()
        return coordinator

    def upkeep(self) -> None:
        """Re-sign what is due, publish revocations that wait, and checkpoint an audit log that has grown."""
        for role in self.repository.refresh_if_due():
            log.info("signed a new %s", role)
        self._publish_revocations()
        with self.database.read() as session:
            head = audit.head(session)
        if head is not None:
            write_checkpoint(self.repository, head)

    def _publish_revocations(self) -> None:
        """A list that cannot be published keeps nobody from being served."""
        try:
            if REVOCATIONS_ROLE in self.repository.state().delegated():
                publish_marked(self.repository, self.database, "coordinator")
        except OperatorError as error:
            log.error("revocations are not published: %s", error.diagnostics())

    def application(self) -> Application:
        """The ASGI application."""
        devices = DeviceApi(self.database, self.authority, self.repository.settings, self.clock)
        operators = OperatorApi(
            self.database, self.clock, self.repository.settings.roster_age_s, self._revocations
        )
        app = FastAPI(
            title="Slipstream coordinator",
            lifespan=self._lifespan,
            openapi_url="/api/v1/openapi.json",
            docs_url=None,
            redoc_url=None,
            exception_handlers={
                ApiError: api_error_response,
                HTTPException: http_error_response,
                StoreError: _store_failed,
            },
        )
        app.include_router(devices.router())
        app.include_router(operators.router())
        return Application(RepositoryFiles(self.repository.directory), app)

    def _revocations(self) -> dict[str, Any]:
        return revocation_facts(self.repository, self.database)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self._upkeep_loop())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.database.close()

    async def _upkeep_loop(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            try:
                await asyncio.to_thread(self.upkeep)
            except SlipstreamError as error:
                log.error("%s", error.diagnostics())


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where to listen; TLS when both files are given. `ready_file` gets the URL once requests are taken."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    ready_file: Path | None = None


def serve(coordinator: Coordinator, options: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests under way get `GRACE_S` seconds to end.

    Raises `OperatorError` when the address cannot be listened on or the TLS files are not usable.
    """
    server, listener = make_server(coordinator, options, ready)
    with listener:
        server.run(sockets=[listener])


def make_server(
    coordinator: Coordinator, options: ServeOptions, ready: Callable[[str], None]
) -> tuple[uvicorn.Server, socket.socket]:
    """A server and the socket that it is to run on; `ready` is called with the URL."""
    config = uvicorn.Config(
        coordinator.application(),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=16 * 1024,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )
    try:
        config.load()
    except OSError as error:
        raise OperatorError(f"the TLS certificate or key cannot be used: {error}") from error
    if config.ssl is not None:
        give_tickets(config.ssl)
    listener = _listen(options)
    scheme = "https" if options.certificate else "http"
    host, port = listener.getsockname()[:2]
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return _Server(config, lambda: _announce(url, options.ready_file, ready)), listener


def give_tickets(context: ssl.SSLContext) -> None:
    """One ticket a connection, of the kind that names a session kept here.

    A resumed handshake sends no certificates: with two of ECDSA P-256 of together 840 bytes it is 320 bytes
    of TLS to the device instead of 1,295. The ticket is 80 of them; one that holds the session would be 255.
    A session that is not known here any more (a restart, another replica) costs a full handshake.
    """
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 1


class _Server(uvicorn.Server):
    """uvicorn's server, told when it is ready, and ending normally where uvicorn re-raises the signal."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _announce(url: str, ready_file: Path | None, ready: Callable[[str], None]) -> None:
    if ready_file is not None:
        write_atomic(ready_file, f"{url}\n".encode())
    ready(url)


def _listen(options: ServeOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server((options.host, options.port), family=family, backlog=512)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror or error}",
            next_step="choose another --listen, or stop what listens there",
        ) from error


async def _store_failed(_request: Request, error: Exception) -> JSONResponse:
    log.error("%s", error)
    return JSONResponse({"error": "store", "message": "the coordinator's database failed"}, 503)
