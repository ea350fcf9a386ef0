"""A device's key, its certificate request, and what a certificate must say."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2p.adapters.identity import (
    FleetAuthority,
    check_certificate,
    load_credentials,
    load_key,
    make_key,
    signing_request,
)
from p2p.content.digests import sha256
from p2p.errors import ConfigError, PeerError, StoreError
from tests.support.certificates import NOW, Fleet

FLEET = Fleet()
KEY = ec.generate_private_key(ec.SECP256R1())


def issued(fleet: Fleet = FLEET, **profile: object) -> bytes:
    certificate = fleet.issue(KEY.public_key(), "truck-17", **profile)
    return certificate.public_bytes(serialization.Encoding.DER)


def authority(*fleets: Fleet) -> FleetAuthority:
    return FleetAuthority.from_pem(b"".join(f.pem for f in fleets or (FLEET,)))


# Certificates


def test_a_certificate_of_the_profile_is_an_identity() -> None:
    der = issued(site="depot-3", groups=["canary", "reefer"])
    identity = authority().identify(der, NOW)
    assert (identity.device, identity.site) == ("truck-17", "depot-3")
    assert identity.groups == {"canary", "reefer"}
    assert identity.certificate == sha256(der)


DEVICE, SITE = "slipstream:device:truck-17", "slipstream:site:depot"


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"uris": [DEVICE]}, "0 names slipstream:site:"),
        ({"uris": [DEVICE, SITE, "slipstream:site:plant"]}, "2 names slipstream:site:"),
        ({"uris": [SITE]}, "0 names slipstream:device:"),
        ({"uris": [DEVICE, "slipstream:device:truck-18", SITE]}, "2 names slipstream:device:"),
        ({"uris": [DEVICE, "slipstream:site:../etc"]}, "is not a name"),
        ({"uris": [DEVICE, SITE, "slipstream:group:"]}, "is not a name"),
        ({"common_name": "truck-18"}, "is not the device id"),
        ({"usages": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "lacks server authentication"),
        ({"usages": [ExtendedKeyUsageOID.SERVER_AUTH]}, "lacks client authentication"),
        ({"is_ca": True}, "a CA's certificate"),
        ({"not_after": NOW - 1}, "has expired"),
    ],
)
def test_a_certificate_outside_the_profile_is_refused(profile: dict[str, object], message: str) -> None:
    with pytest.raises(PeerError, match=message) as caught:
        authority().identify(issued(**profile), NOW)
    assert caught.value.reason == "not-of-fleet"


def test_names_of_other_kinds_are_left_alone() -> None:
    uris = [DEVICE, SITE, "spiffe://example.org/truck", "slipstream:later:thing"]
    assert authority().identify(issued(uris=uris), NOW).groups == frozenset()


def test_the_issuer_is_the_pinned_ca_and_nobody_else() -> None:
    same_name, below = Fleet(FLEET.name), Fleet("below", parent=FLEET)
    for fleet in (same_name, below, Fleet("other")):
        with pytest.raises(PeerError, match="not issued by this fleet's CA") as caught:
            authority().identify(issued(fleet), NOW)
        assert caught.value.reason == "not-of-fleet"
        assert authority(fleet).identify(issued(fleet), NOW).device == "truck-17"


def test_two_cas_are_pinned_while_one_replaces_the_other() -> None:
    successor = Fleet("fleet-2")
    both = authority(FLEET, successor)
    assert both.identify(issued(), NOW).device == both.identify(issued(successor), NOW).device


def test_certificates_that_are_none_are_refused_and_nothing_else() -> None:
    der = issued()
    mutants = [b"", b"\x30\x80", der[:-1], der + b"\x00", b"\x30\x82\xff\xff" + der]
    for position in range(0, len(der), 7):
        mutant = bytearray(der)
        mutant[position] ^= 0x41
        mutants.append(bytes(mutant))
    for mutant in mutants:
        with pytest.raises(PeerError) as caught:
            authority().identify(mutant, NOW)
        assert caught.value.reason == "not-of-fleet"


def test_a_fleet_ca_file_holds_cas_only() -> None:
    leaf = x509.load_der_x509_certificate(issued()).public_bytes(serialization.Encoding.PEM)
    for pem in (b"", b"not PEM", leaf, FLEET.pem + leaf):
        with pytest.raises(ConfigError, match="fleet CA"):
            FleetAuthority.from_pem(pem)


# Keys and files


def test_a_key_is_made_once_private_and_loadable(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    key = make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).private_numbers() == key.private_numbers()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        make_key(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["device.key"]


def no_links(source: object, target: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def no_links_left(source: object, target: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_where_there_are_no_hard_links_a_key_is_made_once_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on vfat and exFAT; also if two commands make it at the same time."""
    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "device.key"
    with ThreadPoolExecutor(4) as pool:
        tries = [pool.submit(make_key, path) for _ in range(8)]
        failures = [t.exception() for t in tries if t.exception() is not None]
    (key,) = [t.result() for t in tries if t.exception() is None]
    assert all(isinstance(e, StoreError) and "exists already" in e.message for e in failures)
    assert load_key(path).private_numbers() == key.private_numbers()
    assert [p.name for p in tmp_path.iterdir()] == ["device.key"]


def test_a_link_that_stands_where_the_key_is_to_be_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "device.key"
    path.symlink_to(tmp_path / "elsewhere")
    for link in (os.link, no_links):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(StoreError, match="exists already"):
            make_key(path)
    assert path.is_symlink()
    assert [p.name for p in tmp_path.iterdir()] == ["device.key"]


def test_what_a_cut_left_of_a_try_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices start the same processes in the same order, so a pid may well come again."""
    path = tmp_path / "device.key"
    monkeypatch.setattr(Path, "unlink", lambda path: None)
    monkeypatch.setattr(os, "link", no_links_left)
    with pytest.raises(StoreError):
        make_key(path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    make_key(path)
    load_key(path)


def test_where_a_key_cannot_be_kept_from_others_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems that keep no modes, all files have those of the mount."""
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0: real(path, flags, 0o755))
    with pytest.raises(StoreError, match="lets others read it") as caught:
        make_key(tmp_path / "device.key")
    assert "umask=077" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_cannot_be_written_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="device key"):
        make_key(tmp_path / "missing" / "device.key")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    make_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        load_key(path)


def test_files_that_are_not_keys_are_refused(tmp_path: Path) -> None:
    ed = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"garbage", ed):
        path = tmp_path / "device.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=r"device key .*: not a"):
            load_key(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_key(tmp_path / "none")


def test_a_request_names_the_device_twice_and_is_signed() -> None:
    request = x509.load_pem_x509_csr(signing_request(KEY, "truck-17"))
    assert request.is_signature_valid
    assert [a.value for a in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["truck-17"]
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["slipstream:device:truck-17"]


@pytest.mark.parametrize("device", ["", "d" * 65, "a/b", "ü"])
def test_a_device_id_that_cannot_stand_in_a_certificate(device: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a certificate"):
        signing_request(KEY, device)


def test_credentials_are_cross_checked(tmp_path: Path) -> None:
    files, other = FLEET.enrol(tmp_path / "a", "truck-17"), FLEET.enrol(tmp_path / "b", "truck-18")
    assert files.load().identity.device == "truck-17"
    assert files.load().renew_at == NOW
    with pytest.raises(ConfigError, match="for another key"):
        load_credentials(other.key, files.certificate, files.ca)
    with pytest.raises(ConfigError, match="not issued by this fleet's CA"):
        stranger = Fleet("other").enrol(tmp_path / "c", "truck-17")
        load_credentials(files.key, files.certificate, stranger.ca)
    with pytest.raises(ConfigError, match="not one PEM certificate"):
        check_certificate(files.certificate.read_bytes() * 2, load_key(files.key), authority())


def test_an_expired_certificate_is_loaded_so_that_it_can_be_renewed(tmp_path: Path) -> None:
    credentials = FLEET.credentials(tmp_path, "truck-17", not_after=NOW - 1)
    assert credentials.not_after == NOW - 1
