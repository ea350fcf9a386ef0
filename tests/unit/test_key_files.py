"""Key files and `repo.toml`: encrypted by default, opened only by the right passphrase, clear errors."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import Signer

from coordinator.errors import KeyUnavailable
from coordinator.publishing.keys import (
    Passphrases,
    create_signing_key,
    open_key_file,
    open_signer,
    read_public,
)
from coordinator.publishing.settings import RoleKeys, Settings, load_settings, render_settings
from p2p.errors import ConfigError, OperatorError


def secrets(**environment: str) -> Passphrases:
    return Passphrases(environment=environment, prompt=False)


def test_a_key_is_encrypted_private_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    public = create_signing_key(path, b"right")
    assert b"ENCRYPTED" in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_public(tmp_path / "a.pub").keyid == public.keyid
    signer = open_key_file(path, secrets(SLIPSTREAM_PASSPHRASE="right"))
    public.verify_signature(signer.sign(b"data"), b"data")
    with pytest.raises(KeyUnavailable, match="wrong passphrase"):
        open_key_file(path, secrets(SLIPSTREAM_PASSPHRASE="wrong"))
    with pytest.raises(KeyUnavailable, match="no passphrase was given"):
        open_key_file(path, secrets())


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    create_signing_key(path, b"x")
    before = path.read_bytes()
    with pytest.raises(OperatorError, match="exists"):
        create_signing_key(path, b"x")
    assert path.read_bytes() == before


def test_new_keys_without_a_passphrase_take_saying_so() -> None:
    with pytest.raises(KeyUnavailable, match="need a passphrase"):
        secrets().new()
    assert Passphrases(plain=True, environment={}, prompt=False).new() is None
    assert secrets(SLIPSTREAM_PASSPHRASE="x").new() == b"x"


def test_where_a_passphrase_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_bytes(b"from file\n")
    environment = {"SLIPSTREAM_PASSPHRASE": "general", "SLIPSTREAM_SERVICE_PASSPHRASE": "service"}
    given = Passphrases(file=file, environment=environment, prompt=False)
    assert given.open("k") == b"from file"
    assert given.open("k", service=True) == b"service"
    assert secrets(**environment).open("k") == b"general"
    assert secrets(SLIPSTREAM_PASSPHRASE="general").open("k", service=True) == b"general"
    with pytest.raises(KeyUnavailable):
        secrets(SLIPSTREAM_SERVICE_PASSPHRASE="service").open("k")  # does not open the release keys


def test_signers_open_by_uri_and_must_match(tmp_path: Path) -> None:
    public = create_signing_key(tmp_path / "a.pem", b"x")
    other = create_signing_key(tmp_path / "b.pem", b"x")
    given = secrets(SLIPSTREAM_PASSPHRASE="x")
    uri = f"slipstream-key:{tmp_path / 'a.pem'}"
    assert isinstance(open_signer(uri, public, given), Signer)
    with pytest.raises(KeyUnavailable, match="cannot be opened"):
        open_signer(uri, other, given)
    with pytest.raises(KeyUnavailable, match="cannot be opened"):
        open_signer("nosuch:thing", public, given)
    with pytest.raises(KeyUnavailable, match="No such file"):
        open_signer(f"slipstream-key:{tmp_path / 'c.pem'}", public, given)


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pem"
    path.write_bytes(content)
    with pytest.raises(KeyUnavailable, match="not a PKCS#8 PEM key"):
        open_key_file(path, secrets())
    with pytest.raises(OperatorError, match="not a public key"):
        read_public(path)


ROLES = {kind: RoleKeys(1, (kind,)) for kind in ("root", "release", "order", "online")}


def test_settings_round_trip(tmp_path: Path) -> None:
    settings = Settings(roles=ROLES, signers={"root": "slipstream-key:keys/root.pem"}, poll_s=5)
    (tmp_path / "repo.toml").write_bytes(render_settings(settings))
    found = load_settings(tmp_path)
    assert (found.roles, found.signers, found.poll_s) == (settings.roles, settings.signers, 5)
    assert found.expiry("timestamp") == settings.expiry("timestamp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("poll_s = 60", "poll_s = 0"), "server.poll_s"),
        (lambda t: t.replace("poll_s = 60", "pol_s = 60"), "server.pol_s is unknown"),
        (lambda t: t.replace("timestamp = 14", 'timestamp = "14"'), "expiry_days.timestamp"),
        (lambda t: t.replace("[roles.order]", "[roles.orders]"), "roles.order"),
        (lambda t: t.replace("threshold = 1", "threshold = 2"), "threshold"),
        (lambda t: t + 'x = "no uri"\n', "signers.x"),
        (lambda t: t + "= broken", "repo.toml"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    text = render_settings(Settings(roles=ROLES)).decode()
    changed = change(text)
    assert changed != text
    (tmp_path / "repo.toml").write_text(changed)
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load_settings(tmp_path)
    (tmp_path / "repo.toml").write_text(text)
    load_settings(tmp_path)
