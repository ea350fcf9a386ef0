"""`slipstream agent`: the commands of one device.

Arguments in, exit code out; what they do is in `p2p.agent` and `p2p.adapters`. Imports that cost time
or memory stay inside the commands, for an agent starts on small machines too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from p2p.cli.output import json_option, print_facts, print_json, size_text
from p2p.config import AgentConfig, read_config
from p2p.errors import ConfigError, OperatorError, SlipstreamError

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=Path("/etc/slipstream/agent.toml"),
    show_default=True,
    help="The agent's configuration (TOML).",
)


@click.group()
def agent() -> None:
    """Keep this device on the software that is meant for it.

    \b
    Examples:
      slipstream agent enroll --config agent.toml --voucher ABCD-EFGH
      slipstream agent run --config agent.toml
      slipstream agent status --config agent.toml --json
    """


@agent.command()
@config_option
@click.option("--voucher", required=True, help="The one-time voucher (`slipstream voucher create`).")
@json_option
def enroll(config_file: Path, voucher: str, as_json: bool) -> None:
    """Make a key on this device and get a certificate for it.

    May be repeated: the key is kept, and nothing is asked for when the certificate is there already.

    \b
    Example:
      slipstream agent enroll --config agent.toml --voucher ABCD-EFGH
    """
    from p2p.adapters.enrolment import enroll as enroll_device
    from p2p.adapters.lock import AgentLock

    config = read_config(config_file)
    with AgentLock(config.device.state_dir):
        result = enroll_device(config, voucher.strip())
    if as_json:
        print_json(
            {
                "device": result.device,
                "site": result.site,
                "groups": list(result.groups),
                "certificate": str(config.certificate_path),
                "already_enrolled": result.already,
            }
        )
        return
    click.echo(f"{'already enrolled' if result.already else 'enrolled'}: {result.device}, site {result.site}")
    print_facts(
        [
            ("groups", ", ".join(result.groups) or None),
            ("key", config.key_path),
            ("certificate", config.certificate_path),
        ]
    )


@agent.command()
@config_option
@click.option("--once", is_flag=True, help="End when what is meant for this device is committed.")
@click.option(
    "--linger",
    "linger_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="With --once: go on serving peers for so long.",
)
def run(config_file: Path, once: bool, linger_s: float) -> int:
    """Run the agent.

    With --once it exits 0 when what is meant for this device is installed and committed, else non-zero
    with the reason.

    \b
    Examples:
      slipstream agent run --config agent.toml
      slipstream agent run --config agent.toml --once --linger 30
    """
    from p2p.adapters.lock import AgentLock

    if linger_s and not once:
        raise click.UsageError(
            "--linger goes with --once: without it the agent serves for as long as it runs"
        )
    config = read_config(config_file)
    with AgentLock(config.device.state_dir):
        from p2p.agent import run as run_agent

        return int(run_agent(config, once=once, linger_s=linger_s))


@agent.command()
@config_option
@json_option
def status(config_file: Path, as_json: bool) -> None:
    """Show image, slots, state, byte ledger, peers and role of this device.

    \b
    Example:
      slipstream agent status --config agent.toml --json
    """
    config = read_config(config_file)
    facts = _status(config)
    if as_json:
        print_json(facts)
    else:
        _show_status(facts)


@agent.command()
@config_option
@click.option("--slot", type=click.Choice(["a", "b"]), required=True, help="The slot that was flashed.")
@click.option("--payload", help="The payload whose slot it is (needed only if there are several).")
@click.option("--size", type=click.IntRange(min=1), help="Bytes of the image, if less than the device.")
@json_option
def adopt(config_file: Path, slot: str, payload: str | None, size: int | None, as_json: bool) -> None:
    """Record the image that a slot was flashed with, so that updates can start from it.

    Done by itself on the first run for the slot that the device runs from.

    \b
    Example:
      slipstream agent adopt --config agent.toml --slot a
    """
    from p2p.adapters.device import boot_of, slots_of
    from p2p.adapters.lock import AgentLock

    config = read_config(config_file)
    payload = _payload(config, payload)
    with AgentLock(config.device.state_dir):
        digest, size = slots_of(config, boot_of(config))[payload].adopt(slot, size)
    if as_json:
        print_json({"payload": payload, "slot": slot, "image": digest.hex(), "size": size})
        return
    click.echo(f"adopted: {payload} slot {slot}")
    print_facts([("image", digest.hex()), ("size", size_text(size))])


@agent.command()
@config_option
@json_option
def check(config_file: Path, as_json: bool) -> None:
    """Check configuration, certificate, pinned root, slots and boot environment, without changing any.

    \b
    Example:
      slipstream agent check --config agent.toml
    """
    config = read_config(config_file)
    findings = [("configuration", "", str(config_file))]
    for what, examine in _CHECKS:
        try:
            findings += [(what, "", fact) for fact in examine(config)]
        except SlipstreamError as error:
            findings.append((what, error.message, error.next_step))
    faults = [fault for _, fault, _ in findings if fault]
    if as_json:
        print_json(
            {
                "ok": not faults,
                "checks": [
                    {"check": what, "fault": fault, "detail": detail} for what, fault, detail in findings
                ],
            }
        )
    else:
        print_facts(
            (what, f"FAULT  {fault}{f' ({detail})' if detail else ''}" if fault else f"ok     {detail}")
            for what, fault, detail in findings
        )
    if faults:
        raise ConfigError(f"{len(faults)} of {len(findings)} checks found a fault")


def _payload(config: AgentConfig, payload: str | None) -> str:
    if payload is None and len(config.slots) == 1:
        return next(iter(config.slots))
    if payload not in config.slots:
        raise OperatorError(f"name a payload with --payload: {', '.join(sorted(config.slots))}")
    return payload


def _status(config: AgentConfig) -> dict[str, Any]:
    from p2p.adapters.device import boot_of, install_record, slots_of
    from p2p.adapters.lock import lock_holder
    from p2p.adapters.status import read_status

    pid = lock_holder(config.device.state_dir)
    boot = boot_of(config)
    state = boot.read()
    record = install_record(config)
    slots = []
    for payload, places in sorted(slots_of(config, boot).items()):
        for slot in places.names:
            known = places.record_of(slot)
            slots.append(
                {
                    "payload": payload,
                    "slot": slot,
                    "path": places.path(slot),
                    "active": slot == state.running,
                    "valid": places.image_in(slot) is not None,
                    "image": known.image.hex() if known else None,
                    "size": known.size if known else None,
                }
            )
    return {
        "device": config.device.id,
        "product": config.device.product,
        "running": pid is not None,
        "pid": pid or None,
        "agent": read_status(config.status_path),
        "install": {
            "state": record.state.value,
            "release": record.release.version if record.release else None,
            "installed": record.installed.release.version if record.installed else None,
            "reason": record.reason or None,
            "blocked": [digest.hex() for digest in record.blocked],
        },
        "boot": {
            "active": state.active,
            "running": state.running,
            "trial": state.trial,
            "attempts_left": state.attempts_left,
            "failed": state.failed,
        },
        "slots": slots,
    }


def _show_status(facts: dict[str, Any]) -> None:
    agent_facts: dict[str, Any] = facts["agent"] or {}
    install, boot = facts["install"], facts["boot"]
    ledger: dict[str, Any] = agent_facts.get("ledger") or {}
    site = agent_facts.get("site")
    print_facts(
        [
            ("device", facts["device"] + (f" (site {site})" if site else "")),
            ("agent", _agent_line(facts)),
            ("release", install["installed"]),
            ("state", _state_line(install, agent_facts)),
            ("role", agent_facts.get("role")),
            ("boot", _boot_line(boot)),
        ]
    )
    click.echo("slots")
    for slot in facts["slots"]:
        mark = "*" if slot["active"] else " "
        holds = f"{slot['image']}  {size_text(slot['size'])}" if slot["image"] else "-"
        known = "" if slot["valid"] or not slot["image"] else "  (being written)"
        click.echo(f"  {mark} {slot['payload']} {slot['slot']}  {holds}{known}  {slot['path']}")
    if ledger:
        click.echo("bytes")
        taken, given = ledger.get("peers") or {}, ledger.get("sent") or {}
        print_facts(
            [
                ("from WAN", size_text(ledger.get("wan", 0))),
                ("from peers", size_text(sum(taken.values()))),
                *((f"  {device}", size_text(count)) for device, count in sorted(taken.items())),
                ("from base", size_text(ledger.get("base", 0))),
                ("zeros", size_text(ledger.get("zero", 0))),
                ("sent to peers", size_text(sum(given.values()))),
                ("wasted", size_text(ledger.get("wasted", 0))),
            ],
            indent="  ",
        )
    peers = agent_facts.get("peers") or []
    if peers:
        click.echo("peers")
        print_facts(
            (
                (p.get("device", "?"), " ".join(str(p[k]) for k in ("address", "role") if p.get(k)))
                for p in peers
            ),
            indent="  ",
        )


def _agent_line(facts: dict[str, Any]) -> str:
    updated = (facts["agent"] or {}).get("updated")
    age = "" if updated is None else f"{max(0, time.time() - updated):.0f} s ago"
    if facts["running"]:
        return f"running (pid {facts['pid'] or '?'})" + (f", as of {age}" if age else "")
    return "not running" + (f"; what follows is as of {age}" if age else "")


def _state_line(install: dict[str, Any], agent_facts: dict[str, Any]) -> str:
    line: str = agent_facts.get("state") or install["state"]
    if install["release"]:
        line += f" {install['release']}"
    progress = agent_facts.get("progress") or {}
    if progress.get("total"):
        line += f", {100 * progress.get('done', 0) / progress['total']:.0f} %"
    return line + (f" ({install['reason']})" if install["reason"] else "")


def _boot_line(boot: dict[str, Any]) -> str:
    line = f"running from {boot['running']}"
    if boot["trial"]:
        line += f", {boot['trial']} on trial ({boot['attempts_left']} attempts left)"
    return line + (f", {boot['failed']} failed" if boot["failed"] else "")


def _check_certificate(config: AgentConfig) -> list[str]:
    from p2p.adapters.identity import load_credentials

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
        raise ConfigError("the certificate has expired", next_step="enrol this device again")
    until = time.strftime("%Y-%m-%d", time.gmtime(credentials.not_after))
    return [f"{identity.device}, site {identity.site}, until {until}"]


def _check_root(config: AgentConfig) -> list[str]:
    from p2p.content import limits

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
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    try:
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise ConfigError(f"{path} is no root metadata")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise ConfigError(f"{path} is no valid root metadata: {error}") from error
    return f"version {metadata.signed.version}, until {metadata.signed.expires:%Y-%m-%d}"


def _check_slots(config: AgentConfig) -> list[str]:
    from p2p.adapters.device import boot_of, slots_of

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
    from p2p.adapters.device import boot_of

    return [f"running from slot {boot_of(config).read().running}"]


def _check_commands(config: AgentConfig) -> list[str]:
    import shutil

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


_CHECKS: tuple[tuple[str, Callable[[AgentConfig], list[str]]], ...] = (
    ("certificate", _check_certificate),
    ("pinned root", _check_root),
    ("boot", _check_boot),
    ("slots", _check_slots),
    ("commands", _check_commands),
)
