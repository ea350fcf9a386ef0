"""The operators' API, read side: the fleet, its sites, its devices. Every request needs a bearer token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header

from coordinator.api.errors import ApiError
from coordinator.clock import Clock
from coordinator.db.database import Database
from coordinator.db.devices import devices_with_reports, find_token, history
from coordinator.db.models import Device, LatestReport
from coordinator.domain.overview import DeviceView, fleet_overview, site_overview
from p2p.errors import OperatorError


@dataclass
class OperatorApi:
    """State of the operators' API."""

    database: Database
    clock: Clock
    online_s: float
    revocations: Callable[[], dict[str, Any]]

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1", tags=["operators"], dependencies=[Depends(self._authorised)])
        router.add_api_route("/fleet", self.fleet, methods=["GET"])
        router.add_api_route("/sites", self.sites, methods=["GET"])
        router.add_api_route("/sites/{site}", self.site, methods=["GET"])
        router.add_api_route("/devices/{device}", self.device, methods=["GET"])
        router.add_api_route("/revocations", self.revoked, methods=["GET"])
        return router

    async def fleet(self) -> dict[str, Any]:
        """Counts over all devices, and one line per site."""
        return fleet_facts(self.database, self.clock(), self.online_s)

    async def sites(self) -> dict[str, Any]:
        """One line per site."""
        return {"sites": fleet_facts(self.database, self.clock(), self.online_s)["sites"]}

    async def site(self, site: str) -> dict[str, Any]:
        """A site and its devices."""
        try:
            return site_facts(self.database, site, self.clock(), self.online_s)
        except OperatorError as error:
            raise ApiError(404, "not-found", error.message) from error

    async def device(self, device: str) -> dict[str, Any]:
        """A device, its last report and its history."""
        try:
            return device_facts(self.database, device, self.clock(), self.online_s)
        except OperatorError as error:
            raise ApiError(404, "not-found", error.message) from error

    async def revoked(self) -> dict[str, Any]:
        """The published revocation list, and which devices have not told yet that they know it."""
        try:
            return self.revocations()
        except OperatorError as error:
            raise ApiError(404, "not-found", error.message) from error

    async def _authorised(self, authorization: Annotated[str | None, Header()] = None) -> None:
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and secret:
            with self.database.read() as session:
                if find_token(session, secret, int(self.clock())) is not None:
                    return
        raise ApiError(
            401, "token", "this needs a valid bearer token", headers={"WWW-Authenticate": "Bearer"}
        )


def fleet_facts(database: Database, now: float, online_s: float) -> dict[str, Any]:
    """What `/fleet` and `slipstream coordinator fleet` show."""
    with database.read() as session:
        return fleet_overview(_views(devices_with_reports(session)), now, online_s)


def site_facts(database: Database, site: str, now: float, online_s: float) -> dict[str, Any]:
    """What `/sites/{site}` and `slipstream coordinator site` show; `OperatorError` if there is none."""
    with database.read() as session:
        views = list(_views(devices_with_reports(session, site)))
    if not views:
        raise OperatorError(f"no device of a site {site!r} is enrolled")
    return site_overview(site, views, now, online_s) | {"devices": [v.to_json(now, online_s) for v in views]}


def device_facts(database: Database, device: str, now: float, online_s: float) -> dict[str, Any]:
    """What `/devices/{device}` and `slipstream coordinator device` show; `OperatorError` if there is none."""
    with database.read() as session:
        record = session.get(Device, device)
        if record is None:
            raise OperatorError(f"no device {device!r} is enrolled")
        (view,) = _views([(record, session.get(LatestReport, device))])
        kept = history(session, device)
    return view.to_json(now, online_s) | {"history": [{"at": at, **body} for at, body in kept]}


def _views(rows: Iterable[tuple[Device, LatestReport | None]]) -> Iterable[DeviceView]:
    for device, report in rows:
        yield DeviceView(
            device=device.id,
            site=device.site,
            groups=tuple(device.groups),
            hardware=device.hardware,
            certificate_until=device.not_after,
            revoked=device.revoked_reason,
            seen_at=None if report is None else report.at if report.signed_at is None else report.signed_at,
            address=None if report is None else f"{report.host}:{report.port}",
            status={} if report is None else report.body,
            via=None if report is None else report.via,
            received_at=None if report is None else report.at,
            quiet_s=0 if report is None else report.quiet_s,
        )
