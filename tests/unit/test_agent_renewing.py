"""A certificate that is said to be this device's next one: what is taken, and what changes nothing."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.publishing.authority import FleetAuthority
from p2p.adapters.files import SYSTEM_FILES, Files
from p2p.adapters.identity import Credentials, load_credentials, load_key, make_key
from p2p.agent.renewing import Renewing
from p2p.content.digests import Digest, sha256

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Device:
    """A device with a certificate of 30 days, with what its agent was told to present."""

    authority: FleetAuthority
    config: Any
    renewing: Renewing
    now: datetime
    used: list[Credentials]
    presented: list[Digest]

    def certificate(self, *, days: int = 30, **changed: Any) -> bytes:
        """One that is issued now."""
        key = self.renewing.credentials.key.public_key()
        given: dict[str, Any] = {"key": key, "device": "d1", "site": "depot", "groups": ()} | changed
        authority = given.pop("authority", self.authority)
        found = authority.issue(**given, now=self.now, days=days)
        return bytes(found.public_bytes(serialization.Encoding.PEM))

    @property
    def kept(self) -> bytes:
        return bytes(self.config.certificate_path.read_bytes())


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return make(tmp_path, SYSTEM_FILES)


def new_authority(directory: Path) -> FleetAuthority:
    (directory / "ca").mkdir(parents=True)
    return FleetAuthority.create(directory, None, "test", NOW)


def make(directory: Path, files: Files) -> Device:
    authority = new_authority(directory)
    config: Any = SimpleNamespace(
        key_path=directory / "key.pem",
        certificate_path=directory / "certificate.pem",
        fleet_ca_path=directory / "ca.pem",
    )
    key = make_key(config.key_path)
    first = authority.issue(key.public_key(), "d1", "depot", (), NOW, 30)
    config.certificate_path.write_bytes(first.public_bytes(serialization.Encoding.PEM))
    used: list[Credentials] = []
    presented: list[Digest] = []
    transport: Any = SimpleNamespace(use=used.append)
    revoking: Any = SimpleNamespace(presents=presented.append)
    credentials = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
    renewing = Renewing(config, credentials, transport, revoking, lambda: found.now.timestamp(), files=files)
    found = Device(authority, config, renewing, NOW, used, presented)
    return found


async def test_it_is_asked_for_from_the_middle_of_its_life_on(device: Device) -> None:
    assert device.renewing.asked_for() == {}
    device.now += timedelta(days=14)  # one that is issued is dated back by a day
    assert device.renewing.asked_for() == {}
    device.now += timedelta(days=1)
    end = int((NOW + timedelta(days=30)).timestamp())
    assert device.renewing.asked_for() == {"certificate_until": end}
    await device.renewing.take(device.certificate())
    assert device.renewing.asked_for() == {}


async def test_a_new_one_is_kept_and_presented(device: Device) -> None:
    device.now += timedelta(days=20)
    renewed = device.certificate(groups=("pilots",))
    await device.renewing.take(renewed)
    assert device.kept == renewed
    (used,) = device.used
    assert used == device.renewing.credentials
    assert used.not_after == (NOW + timedelta(days=50)).timestamp()
    assert used.identity.groups == frozenset({"pilots"})
    assert device.presented == [used.identity.certificate]


async def test_what_is_no_certificate_for_this_device_changes_nothing(
    device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = device.kept
    device.now += timedelta(days=20)
    stranger = new_authority(tmp_path / "other")
    another = ec.generate_private_key(ec.SECP256R1()).public_key()
    good = device.certificate()
    refused = {
        "garbage": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "nothing": b"",
        "two of them": good + good,
        "another key": device.certificate(key=another),
        "another device": device.certificate(device="d2"),
        "another site": device.certificate(site="harbour"),
        "another CA": device.certificate(authority=stranger),
    }
    for what, pem in refused.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            await device.renewing.take(pem)
        assert "was not taken" in caplog.text, what
        assert "until 2026-07-01" in caplog.text, "what is kept"
        assert (device.kept, device.used, device.presented) == (held, [], []), what


async def test_an_older_one_that_somebody_kept_is_not_gone_back_to(device: Device) -> None:
    first = device.kept
    device.now += timedelta(days=20)
    second = device.certificate()
    await device.renewing.take(second)
    await device.renewing.take(first)
    await device.renewing.take(device.certificate(days=5))
    await device.renewing.take(second)
    assert device.kept == second
    assert len(device.used) == 1


async def test_a_full_disk_keeps_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        """Files that cannot be written."""

        def __getattr__(self, name: str) -> Any:
            return getattr(SYSTEM_FILES, name)

        def rename(self, source: str, target: str) -> None:
            raise OSError(28, "No space left on device")

    files: Any = Full()
    device = make(tmp_path, files)
    held = sha256(device.kept)
    device.now += timedelta(days=20)
    with caplog.at_level(logging.WARNING):
        await device.renewing.take(device.certificate())
    assert "No space left on device" in caplog.text
    assert (sha256(device.kept), device.used) == (held, [])
    assert device.renewing.asked_for(), "and goes on asking"


async def test_others_do_not_wait_for_a_disk_that_takes_long(tmp_path: Path) -> None:
    """The event loop serves peers meanwhile."""
    begun, goes_on = threading.Event(), threading.Event()

    class Slow:
        """Files that are durable when it is said."""

        def __getattr__(self, name: str) -> Any:
            return getattr(SYSTEM_FILES, name)

        def sync_directory(self, path: str) -> None:
            begun.set()
            assert goes_on.wait(5)
            SYSTEM_FILES.sync_directory(path)

    files: Any = Slow()
    device = make(tmp_path, files)
    held = device.kept
    device.now += timedelta(days=20)
    first, second = device.certificate(), device.certificate(days=40)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.renewing.take, first)
        with trio.fail_after(2):
            while not begun.is_set():
                await trio.sleep(0.01)
        nursery.start_soon(device.renewing.take, second)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert device.used == [], "nothing is presented before it is durable"
        goes_on.set()
    assert device.kept == second != held
    assert len(device.used) == len(device.presented) == 2


async def test_what_a_messenger_adds_to_a_good_one_does_not_reach_the_disk(device: Device) -> None:
    """What TLS reads there beside the certificate would keep the agent from its next start."""
    device.now += timedelta(days=20)
    good = device.certificate()
    added = b"-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n"
    await device.renewing.take(b"a word before\n" + good + added)
    assert device.kept == good
    device.renewing.credentials.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize("changed", ["key", "CA"])
async def test_one_for_what_was_replaced_on_disk_meanwhile_does_not_go_beside_it(
    changed: str, device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator enrolled the device anew, or put another CA there; the agent has yet to be restarted."""
    device.now += timedelta(days=20)
    renewed = device.certificate()
    authority = device.authority
    if changed == "key":
        device.config.key_path.unlink()
        make_key(device.config.key_path)
    else:
        authority = new_authority(tmp_path / "other")
        device.config.fleet_ca_path.write_text(authority.pem)
    key = load_key(device.config.key_path).public_key()
    anew = device.certificate(key=key, authority=authority)
    device.config.certificate_path.write_bytes(anew)
    with caplog.at_level(logging.WARNING):
        await device.renewing.take(renewed)
    assert "restart the agent" in caplog.text
    assert (device.kept, device.used) == (anew, [])
