"""`repo.toml`: expiries, which keys hold which role, and where private keys are.

Nothing here is secret and nothing here is trusted by a device: the signed root and targets metadata
decide who may sign. This file says how long the next signature lasts and where this machine finds keys.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.publishing.files import read_file
from p2p.errors import ConfigError

SETTINGS_FILE = "repo.toml"
ROLE_KINDS = ("root", "release", "order", "online")


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """The keys (by name; public halves in `keys/<name>.pub`) and the threshold of a kind of role."""

    threshold: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """Contents of `repo.toml`. Expiries in days, the rest in seconds."""

    roles: dict[str, RoleKeys]
    signers: dict[str, str] = field(default_factory=dict)
    expiry_days: dict[str, int] = field(default_factory=dict)
    poll_s: int = 60
    roster_age_s: int = 300
    certificate_days: int = 730

    def expiry(self, role: str) -> int:
        """Days that a new signature of `role` lasts (delegated roles: `release`, `order`, `phases`)."""
        return self.expiry_days.get(role) or DEFAULT_EXPIRY_DAYS[role]


DEFAULT_EXPIRY_DAYS = {
    "root": 1095,
    "targets": 1095,
    "release": 730,
    "order": 365,
    "phases": 90,
    "revocations": 90,
    "snapshot": 60,
    "timestamp": 14,
}


def load_settings(directory: Path) -> Settings:
    """Read `repo.toml`; raises `ConfigError` naming the key."""
    path = directory / SETTINGS_FILE
    try:
        document = tomllib.loads(read_file(path, 1 << 20).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    roles = {}
    for kind in ROLE_KINDS:
        table = _table(document, "roles", path).pop(kind, None)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: [roles.{kind}] is missing")
        keys = table.get("keys")
        if not isinstance(keys, list) or not keys or not all(isinstance(k, str) for k in keys):
            raise ConfigError(f"{path}: roles.{kind}.keys must be a list of key names")
        threshold = _whole(table.get("threshold"), f"{path}: roles.{kind}.threshold", 1, len(keys))
        roles[kind] = RoleKeys(threshold, tuple(keys))
    signers = _table(document, "signers", path)
    for name, uri in signers.items():
        if not isinstance(uri, str) or ":" not in uri:
            raise ConfigError(f'{path}: signers.{name} must be a key URI such as "slipstream-key:keys/x.pem"')
    expiry = {}
    for role, days in _table(document, "expiry_days", path).items():
        if role not in DEFAULT_EXPIRY_DAYS:
            raise ConfigError(
                f"{path}: expiry_days.{role} is unknown; known: {', '.join(DEFAULT_EXPIRY_DAYS)}"
            )
        expiry[role] = _whole(days, f"{path}: expiry_days.{role}", 1, 36_500)
    server = _table(document, "server", path)
    known = {"poll_s": (1, 86_400), "roster_age_s": (1, 604_800), "certificate_days": (1, 36_500)}
    for key, value in server.items():
        if key not in known:
            raise ConfigError(f"{path}: server.{key} is unknown; known: {', '.join(known)}")
        server[key] = _whole(value, f"{path}: server.{key}", *known[key])
    return Settings(roles=roles, signers=dict(signers), expiry_days=expiry, **server)


def render_settings(settings: Settings) -> bytes:
    """The text of a new `repo.toml`, with its comments."""
    lines = [
        "# Settings of a Slipstream repository; see docs/coordinator.md.",
        "",
        "[server]",
        f"poll_s = {settings.poll_s}              # how often devices check in",
        f"roster_age_s = {settings.roster_age_s}       # silent for longer: shown as offline",
        f"certificate_days = {settings.certificate_days}   # life of a device certificate",
        "",
        "[expiry_days]            # how long the next signature of each role lasts",
        *(f"{role} = {settings.expiry(role)}" for role in DEFAULT_EXPIRY_DAYS),
        "",
        "# Which keys a role of a new product gets (public halves in keys/<name>.pub).",
    ]
    for kind, role in settings.roles.items():
        keys = ", ".join(f'"{k}"' for k in role.keys)
        lines += [f"[roles.{kind}]", f"threshold = {role.threshold}", f"keys = [{keys}]", ""]
    lines += [
        "# Where private keys are: key files, or any URI that securesystemslib opens (hsm:, awskms:, ...)."
    ]
    lines += ["[signers]", *(f'{name} = "{uri}"' for name, uri in settings.signers.items()), ""]
    return "\n".join(lines).encode()


def _table(document: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = document.setdefault(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {key} must be a table")
    return table


def _whole(value: object, what: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{what} must be a whole number from {low} to {high}")
    return value
