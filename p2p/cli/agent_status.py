"""What `slipstream agent status` shows: what the running agent tells, and what its device's disk says.

Gathering changes nothing, so it may be asked beside a running agent.
"""

from __future__ import annotations

import time
from typing import Any

import click

from p2p.adapters.device import boot_of, install_record, revocations_of, slots_of
from p2p.adapters.identity import load_credentials
from p2p.adapters.lock import lock_holder
from p2p.adapters.status import read_status
from p2p.cli.output import print_facts, size_text
from p2p.config import AgentConfig
from p2p.errors import ConfigError, RevokedError
from p2p.trust.revocations import revocation_facts


def gather_status(config: AgentConfig) -> dict[str, Any]:
    """The facts, as `--json` prints them."""
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
        "revocations": revocation_facts_of(config),
        "certificate": certificate_facts_of(config),
    }


def check_membership(found: dict[str, Any] | None) -> None:
    """Raise `RevokedError` if the device is revoked. `found`: as `revocation_facts_of` gives it."""
    own = (found or {}).get("own")
    if own is not None:
        raise RevokedError(
            f"this device is revoked ({own['reason']}): it has no peers, and the coordinator refuses it",
            kept="what it runs, and its own updates from the origin",
            next_step="if that is a mistake, stop the agent, remove its key and certificate, and enrol it"
            " again with a voucher that is made for it",
        )


def revocation_facts_of(config: AgentConfig) -> dict[str, Any] | None:
    """What the device knows to be revoked; None while it is not enrolled."""
    try:
        credentials = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
    except ConfigError:
        return None
    return revocation_facts(revocations_of(config, read_only=True), credentials.identity.certificate)


def certificate_facts_of(config: AgentConfig) -> dict[str, int] | None:
    """When the certificate ends and is renewed, in seconds since 1970; None while there is none."""
    try:
        credentials = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
    except ConfigError:
        return None
    return {"until": int(credentials.not_after), "renews_at": int(credentials.renew_at)}


def show_status(facts: dict[str, Any]) -> None:
    """The same facts for people."""
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
            *([("WAN", _wan_line(agent_facts["wan"]))] if agent_facts.get("wan") else []),
            ("boot", _boot_line(boot)),
            *([("revoked", _revoked_line(facts["revocations"]))] if facts["revocations"] else []),
            *([("certificate", _certificate_line(facts["certificate"]))] if facts["certificate"] else []),
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
                *((("from a bundle", size_text(ledger["imported"])),) if ledger.get("imported") else ()),
                ("sent to peers", size_text(sum(given.values()))),
                ("wasted", size_text(ledger.get("wasted", 0))),
                ("copied from base", size_text(ledger.get("base", 0))),
                ("rebuilt by patches", size_text(ledger.get("patched", 0))),
                ("new chunks", size_text(ledger.get("chunks", 0))),
                ("zeros", size_text(ledger.get("zero", 0))),
                ("resumed", size_text(ledger.get("resumed", 0))),
            ],
            indent="  ",
        )
    given = agent_facts.get("given") or []
    if given:
        click.echo("brought to others, of what it runs")
        print_facts(((g.get("name", "?"), _given_line(g)) for g in given), indent="  ")
    carried = agent_facts.get("carried") or []
    if carried:
        click.echo("carried for others")
        print_facts(((c.get("name", "?"), _carried_line(c)) for c in carried), indent="  ")
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


def _wan_line(wan: dict[str, Any]) -> str:
    """What the budgets allow."""
    closed = {"window": "closed (budgets.wan_windows)", "quota": "closed (budgets.wan_month_max)",
              "site-quota": "closed (budgets.site_wan_month_max)",
              "roaming": "closed (budgets.wan_roaming)"}  # fmt: skip
    line = closed.get(wan["closed_by"], "open") + (f" until {wan['until']}" if wan["until"] else "")
    most = f" of {size_text(wan['month_max'])}" if wan["month_max"] else ""
    site = ""
    if wan.get("site_max"):
        site = f", by the site {size_text(wan['site_used'])} of {size_text(wan['site_max'])}"
    return f"{line}; {size_text(wan['month_used'])}{most} used in {wan['month']}{site}"


def _carried_line(carried: dict[str, Any]) -> str:
    """How far a carrier is with one image."""
    state, size = carried["state"], carried["size"]
    words = {"coming": f"{size_text(carried.get('left', size))} to come", "no-room": "no room for it",
             "failed": f"failed: {carried.get('reason')}"}  # fmt: skip
    word = _LACKS.get(carried.get("lacks") or "", "whole") if state == "whole" else words.get(state, state)
    return f"{word}, {size_text(size)}"


_LACKS = {
    "index": "whole, but the index of its full pack has yet to come: not for every device",
    "leave": "whole, but not given to others just now (on battery, or swarm.serve_s is over)",
}


def _given_line(given: dict[str, Any]) -> str:
    """Whether a carrier has all that it needs to give others what it runs."""
    return f"{_LACKS.get(given.get('lacks') or '', 'whole')}, {size_text(given['size'])}"


def _revoked_line(found: dict[str, Any]) -> str:
    own = f"THIS DEVICE ({found['own']['reason']}), and " if found["own"] else ""
    return f"{own}{found['known'] - bool(found['own'])} others, list version {found['version']}"


def _certificate_line(found: dict[str, int]) -> str:
    until, renewal = (time.strftime("%Y-%m-%d", time.gmtime(found[key])) for key in ("until", "renews_at"))
    if found["until"] < time.time():
        return f"HAS EXPIRED on {until}: peers refuse it; the next check-in renews it"
    return f"until {until}, renewed from {renewal} on"


def _boot_line(boot: dict[str, Any]) -> str:
    line = f"running from {boot['running']}"
    if boot["trial"]:
        line += f", {boot['trial']} on trial ({boot['attempts_left']} attempts left)"
    return line + (f", {boot['failed']} failed" if boot["failed"] else "")
