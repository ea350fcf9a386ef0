"""What `slipstream agent check` looks at before a device is sent out. Nothing is changed or asked for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from p2p.adapters.conditions import read_conditions
from p2p.adapters.device import boot_of, check_places, slots_of
from p2p.adapters.disk_quota import quota_of
from p2p.adapters.identity import load_credentials
from p2p.agent.conditions import START_S
from p2p.cli.agent_status import check_membership, revocation_facts_of
from p2p.cli.output import size_text
from p2p.config import AgentConfig
from p2p.content import limits
from p2p.errors import ConfigError, StoreError


def _check_certificate(config: AgentConfig) -> list[str]:
    if not config.certificate_path.exists():
        raise ConfigError("this device is not enrolled", next_step="slipstream agent enroll --voucher …")
    credentials = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
    identity = credentials.identity
    if identity.device != config.device.id:
        raise ConfigError(
            f"the certificate is for device {identity.device}, device.id is {config.device.id}",
            next_step="correct device.id, or remove key and certificate and enrol anew",
        )
    if config.network.site not in (None, identity.site):
        raise ConfigError(
            f"the certificate is for site {identity.site}, network.site is {config.network.site}"
        )
    if credentials.not_after < time.time():
        raise ConfigError(
            "the certificate has expired: peers refuse this device",
            next_step="let the agent reach the coordinator, which renews it with the next check-in; a device"
            " without a WAN has to be enrolled again",
        )
    until, renewal = (
        time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (credentials.not_after, credentials.renew_at)
    )
    return [f"{identity.device}, site {identity.site}, until {until}, renewed from {renewal} on"]


def _check_root(config: AgentConfig) -> list[str]:
    try:
        with config.trust.root.open("rb") as file:
            data = file.read(limits.ROOT_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the pinned root {config.trust.root}: {error.strerror or error}",
            next_step="copy root.json of the repository there",
        ) from error
    return [_root_version(config.trust.root, data)]


def _root_version(path: Path, data: bytes) -> str:
    try:
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise ConfigError(f"{path} is no root metadata")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise ConfigError(f"{path} is no valid root metadata: {error}") from error
    return f"version {metadata.signed.version}, until {metadata.signed.expires:%Y-%m-%d}"


def _check_slots(config: AgentConfig) -> list[str]:
    check_places(config)
    boot = boot_of(config)
    found = []
    for payload, slots in sorted(slots_of(config, boot).items()):
        for slot in slots.names:
            space = slots.space(slot)
            held = slots.image_in(slot)
            room = space.held if space.is_device else space.held + space.free
            image = held[0].hex()[:16] if held else "no known image"
            found.append(f"{payload} {slot}: {image}, room for {size_text(room)}")
    return found


def _check_boot(config: AgentConfig) -> list[str]:
    return [f"running from slot {boot_of(config).read().running}"]


def _check_commands(config: AgentConfig) -> list[str]:
    found = []
    for key, command in (
        ("health.command", config.health.command),
        ("boot.reboot_command", config.boot.reboot_command),
    ):
        if command is None:
            continue
        if shutil.which(command[0]) is None:
            raise ConfigError(f"{key}: {command[0]} is not there or cannot be run")
        found.append(f"{key} {command[0]}")
    return found


def _check_conditions(config: AgentConfig) -> list[str]:
    path = config.budgets.conditions
    if path is None:
        return []
    said = read_conditions(path)
    if said is None:
        return [
            f"budgets.conditions: {path} is not there (yet): the agent takes its link to be metered and"
            f" roaming for {START_S:.0f} s from its start, and then nothing of it to hold"
        ]
    return [f"budgets.conditions: {path} says {said}"]


def _check_disk(config: AgentConfig) -> list[str]:
    quota = quota_of(config)
    used = quota.used()
    quota.check(0, "what is there")
    bound = "" if quota.most is None else f" of {size_text(quota.most)} (budgets.disk_max)"
    return [f"the agent's own files take up {size_text(used)}{bound}"]


def _check_membership(config: AgentConfig) -> list[str]:
    facts = revocation_facts_of(config)
    check_membership(facts)
    if facts is None:
        return ["not enrolled"]
    if facts["damaged"]:
        raise StoreError("what is known to be revoked is damaged in both copies", next_step="check the disk")
    return [f"not revoked, by list version {facts['version']}"]


CHECKS: tuple[tuple[str, Callable[[AgentConfig], list[str]]], ...] = (
    ("certificate", _check_certificate),
    ("membership", _check_membership),
    ("pinned root", _check_root),
    ("boot", _check_boot),
    ("slots", _check_slots),
    ("commands", _check_commands),
    ("link and power", _check_conditions),
    ("disk", _check_disk),
)
