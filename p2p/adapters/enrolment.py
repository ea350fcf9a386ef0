"""Enrolment: a key made on the device, a voucher spent, a certificate of the fleet kept.

May be repeated at any point: the key is made once and kept, the certificate is stored whole or not at
all, and a device that has one asks nobody. Not for renewal, which needs no voucher.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import trio

from p2p.adapters.device_api import DeviceApi, Enrolment
from p2p.adapters.files import SYSTEM_FILES, Files, replace_durably
from p2p.adapters.http import HttpClient
from p2p.adapters.identity import (
    FleetAuthority,
    check_certificate,
    load_credentials,
    load_key,
    make_key,
    signing_request,
)
from p2p.config import AgentConfig
from p2p.errors import ConfigError, StoreError
from p2p.ports import PeerIdentity


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Who the device now is. `already`: it had been enrolled before, and nobody was asked."""

    device: str
    site: str
    groups: tuple[str, ...]
    already: bool


def enroll(config: AgentConfig, voucher: str, *, files: Files = SYSTEM_FILES) -> Enrolled:
    """Enrol this device, or find that it is.

    Raises `OriginError` (no answer: repeat it with the same voucher), `CoordinatorRefusal` (its reason
    says whether another voucher is needed), `ConfigError` when the answer is not for this device.
    """
    if files.exists(str(config.certificate_path)):
        credentials = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
        return _enrolled(_checked(config, credentials.identity), already=True)
    try:
        files.make_directories(str(config.device.state_dir))
        key = load_key(config.key_path) if files.exists(str(config.key_path)) else make_key(config.key_path)
    except OSError as error:
        raise StoreError(f"cannot make {config.device.state_dir}: {error.strerror or error}") from error
    request = signing_request(key, config.device.id)
    answer = trio.run(_ask, config, voucher, request)
    pinned = config.trust.fleet_ca
    try:
        ca = pinned.read_bytes() if pinned else answer.ca
    except OSError as error:
        raise ConfigError(f"trust.fleet_ca: cannot read {pinned}: {error.strerror or error}") from error
    identity, _ = check_certificate(answer.certificate, key, FleetAuthority.from_pem(ca))
    _checked(config, identity)
    try:
        # The certificate last: where it is, everything that belongs to it is.
        if not pinned:
            replace_durably(files, str(config.fleet_ca_path), ca)
        replace_durably(files, str(config.certificate_path), answer.certificate)
    except OSError as error:
        raise StoreError(
            f"cannot keep the certificate: {error.strerror or error}",
            kept="the key; the voucher may be spent",
            next_step="free space, then repeat the command",
        ) from error
    return _enrolled(identity, already=False)


def _checked(config: AgentConfig, identity: PeerIdentity) -> PeerIdentity:
    if identity.device != config.device.id:
        raise ConfigError(
            f"the certificate is for device {identity.device}, device.id is {config.device.id}",
            next_step="correct device.id, or remove key and certificate and enrol anew",
        )
    if config.network.site not in (None, identity.site):
        raise ConfigError(
            f"the certificate is for site {identity.site}, network.site is {config.network.site}",
            next_step="use a voucher of that site, or correct network.site",
        )
    return identity


def _enrolled(identity: PeerIdentity, *, already: bool) -> Enrolled:
    return Enrolled(identity.device, identity.site, tuple(sorted(identity.groups)), already)


async def _ask(config: AgentConfig, voucher: str, request: bytes) -> Enrolment:
    def now() -> float:
        return max(time.time(), config.trust.build_time or 0.0)

    client = HttpClient(ca_file=config.coordinator.ca, now=now)
    try:
        api = DeviceApi(config.coordinator.url, client, now)
        return await api.enroll(voucher, config.device.id, config.device.hardware, request)
    finally:
        await client.aclose()
