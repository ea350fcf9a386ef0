"""`slipstream agent`: the commands of one device.

Arguments in, exit code out; what they do is in `p2p.agent` and `p2p.adapters`. Imports that cost time
or memory stay inside the commands, for an agent starts on small machines too.
"""

from __future__ import annotations

from pathlib import Path

import click

from p2p.cli.output import json_option, print_facts, print_json, size_text
from p2p.config import CONFIG_FILE, AgentConfig, read_config
from p2p.content.manifest import COUNTER_MAX
from p2p.errors import ConfigError, OperatorError, SlipstreamError, TrustError

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=CONFIG_FILE,
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

    Exits 14 if this device is revoked.

    \b
    Example:
      slipstream agent status --config agent.toml --json
    """
    from p2p.cli.agent_status import check_membership, gather_status, show_status

    facts = gather_status(read_config(config_file))
    if as_json:
        print_json(facts)
    else:
        show_status(facts)
    check_membership(facts["revocations"])


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
def unblock(config_file: Path, as_json: bool) -> None:
    """Let releases that failed on this device be tried again.

    A release that was rolled back, or could not be read back after it was written, is blocked on the
    device until then. Stop the agent first.

    \b
    Example:
      slipstream agent unblock --config agent.toml
    """
    from p2p.adapters.device import installer_of
    from p2p.adapters.lock import AgentLock

    config = read_config(config_file)
    with AgentLock(config.device.state_dir):
        installer = installer_of(config, lambda release: None)
        freed = [digest.hex() for digest in installer.record.blocked]
        installer.unblock()
    if as_json:
        print_json({"unblocked": freed})
        return
    click.echo(f"unblocked: {len(freed)} releases" if freed else "nothing was blocked")
    print_facts(("manifest", digest) for digest in freed)


@agent.command("restore-floor")
@config_option
@click.option(
    "--counter",
    type=click.IntRange(min=0, max=COUNTER_MAX),
    help="The release counter of what runs. Default: of the release that was committed last.",
)
@json_option
def restore_floor(config_file: Path, counter: int | None, as_json: bool) -> None:
    """Set the downgrade floor anew after both of its copies were damaged, which stops all updates.

    A copy that is whole still counts, and the floor never falls below it. Stop the agent first.

    \b
    Examples:
      slipstream agent restore-floor --config agent.toml
      slipstream agent restore-floor --config agent.toml --counter 12
    """
    from p2p.adapters.device import floors_of, install_record
    from p2p.adapters.lock import AgentLock

    config = read_config(config_file)
    product = config.device.product
    with AgentLock(config.device.state_dir):
        floors, restored = floors_of(config), False
        try:
            floor = floors.get(product)
        except TrustError as damaged:
            installed = install_record(config).installed
            if counter is None and installed is not None and installed.release.product == product:
                counter = installed.release.counter
            if counter is None:
                raise OperatorError(
                    f"{damaged.message}, and this device does not know the counter of what it runs",
                    kept="what is installed goes on running, without updates",
                    next_step="name it with --counter: `slipstream release list` shows it",
                ) from damaged
            floors.restore(product, counter)
            floor, restored = floors.get(product), True
    if as_json:
        print_json({"product": product, "counter": floor, "restored": restored})
        return
    click.echo(f"the floor of {product} is {floor}" + ("" if restored else " and was not damaged: unchanged"))


@agent.command()
@config_option
@json_option
def check(config_file: Path, as_json: bool) -> None:
    """Check configuration, certificate, pinned root, slots and boot environment, without changing any.

    \b
    Example:
      slipstream agent check --config agent.toml
    """
    from p2p.cli.agent_check import CHECKS

    config = read_config(config_file)
    findings = [("configuration", "", str(config_file))]
    for what, examine in CHECKS:
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
