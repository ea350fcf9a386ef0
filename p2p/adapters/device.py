"""What one device's configuration names: its slots, its boot environment, which boot this is.

The one place where the agent and the command turn an `AgentConfig` into those adapters.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from p2p.adapters.boot import FileBoot
from p2p.adapters.durable import DirectoryBlobStore, ReadOnlyBlobStore
from p2p.adapters.installer import Installer
from p2p.adapters.slots import FileSlots
from p2p.config import AgentConfig
from p2p.errors import ConfigError, ContentError
from p2p.install import InstallRecord, Release, decode_record
from p2p.install.record import RECORD_NAME
from p2p.trust import Overlay, ReleaseFloors, Revocations

INSTALL_DIRECTORY = "install"
REVOKED_DIRECTORIES = ("revoked", "revoked.2")
FLOOR_DIRECTORIES = ("floor", "floor.2")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_of(config: AgentConfig) -> FileBoot:
    """The boot environment of the configuration."""
    return FileBoot(str(config.boot.environment), default=config.boot.default_slot)


def slots_of(config: AgentConfig, boot: FileBoot) -> dict[str, FileSlots]:
    """The slots by payload name; nothing is touched yet."""
    return {
        payload: FileSlots(payload, places.places, str(config.slots_dir / payload), boot)
        for payload, places in config.slots.items()
    }


def check_places(config: AgentConfig) -> None:
    """Raise `ConfigError` if two slots are one file or device under two names (links, `/dev/disk/by-…`): an
    update would overwrite what the device runs from."""
    found: dict[tuple[int, int], str] = {}
    for payload, places in sorted(config.slots.items()):
        for slot, place in places.places.items():
            try:
                facts = os.stat(place)  # noqa: PTH116 (paths of slots are text)
            except OSError:
                continue  # not there yet
            is_device = stat.S_ISBLK(facts.st_mode)
            identity = (-1, facts.st_rdev) if is_device else (facts.st_dev, facts.st_ino)
            named = f"slots.{payload}.{slot} ({place})"
            other = found.setdefault(identity, named)
            if other != named:
                raise ConfigError(
                    f"{named} is the same place as {other}:"
                    " an update would overwrite what the device runs from",
                    kept="both, as they are",
                    next_step="give each slot a file or partition of its own",
                )


def boot_id(config: AgentConfig) -> str:
    """Which boot of the device this is; where nothing reboots, each start of the agent is one."""
    if config.boot.reboot_command is not None:
        with suppress(OSError):
            return BOOT_ID.read_text().strip()
    return uuid.uuid4().hex


def installer_of(config: AgentConfig, raise_floor: Callable[[Release], None]) -> Installer:
    """The installer of this device, its record below the state directory. Call `reconcile` first.

    Raises `ConfigError` (`check_places`).
    """
    check_places(config)
    boot = boot_of(config)
    return Installer(
        DirectoryBlobStore(config.device.state_dir / INSTALL_DIRECTORY),
        slots_of(config, boot),
        boot,
        attempts=config.boot.attempts,
        boot_id=boot_id(config),
        reboots=config.boot.reboot_command is not None,
        raise_floor=raise_floor,
    )


def floors_of(config: AgentConfig) -> ReleaseFloors:
    """The downgrade floors of this device, for whoever holds the agent's lock."""
    first, second = (config.device.state_dir / name for name in FLOOR_DIRECTORIES)
    return ReleaseFloors(DirectoryBlobStore(first), DirectoryBlobStore(second))


def revocations_of(config: AgentConfig, *, read_only: bool = False) -> Revocations:
    """What this device knows to be revoked; `read_only`: as it is, for whoever is not the agent."""
    first, second = (config.device.state_dir / name for name in REVOKED_DIRECTORIES)
    if read_only:
        return Revocations(Overlay(ReadOnlyBlobStore(first)), Overlay(ReadOnlyBlobStore(second)))
    return Revocations(DirectoryBlobStore(first), DirectoryBlobStore(second))


def install_record(config: AgentConfig) -> InstallRecord:
    """What the record says, for people to see: read without making or changing anything."""
    try:
        data = (config.device.state_dir / INSTALL_DIRECTORY / RECORD_NAME).read_bytes()
        return decode_record(data)
    except (OSError, ContentError):
        return InstallRecord()
