"""Fleets and device certificates for tests: a CA in memory, credentials in a directory."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2p.adapters.identity import Credentials, FleetAuthority, load_credentials, load_key
from p2p.content.digests import Digest
from p2p.ports import PeerIdentity

NOW = 1_800_000_000.0
"""Trusted time of the tests; certificates of `Fleet` are valid a year around it."""

DAY = 86_400.0
BOTH_USAGES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def _at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass
class Fleet:
    """A fleet CA. `parent` makes it an intermediate of another one."""

    name: str = "fleet"
    parent: Fleet | None = None
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        issuer = self.parent or self
        issuer_name = _name(issuer.name)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(issuer_name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_at(NOW - 365 * DAY))
            .not_valid_after(_at(NOW + 3650 * DAY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        device: str,
        *,
        site: str = "depot",
        groups: Sequence[str] = (),
        usages: Sequence[x509.ObjectIdentifier] = BOTH_USAGES,
        not_before: float = NOW - 180 * DAY,
        not_after: float = NOW + 180 * DAY,
        common_name: str | None = None,
        uris: Sequence[str] | None = None,
        is_ca: bool = False,
    ) -> x509.Certificate:
        """A device certificate; every departure from the profile is one argument."""
        if uris is None:
            uris = [f"slipstream:device:{device}", f"slipstream:site:{site}"]
            uris = [*uris, *(f"slipstream:group:{g}" for g in groups)]
        return (
            x509.CertificateBuilder()
            .subject_name(_name(common_name or device))
            .issuer_name(_name(self.name))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_at(not_before))
            .not_valid_after(_at(not_after))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )

    def enrol(
        self,
        directory: Path,
        device: str,
        *,
        chain: Sequence[x509.Certificate] = (),
        trusts: Fleet | None = None,
        profile: dict[str, object] | None = None,
    ) -> CredentialFiles:
        """Key, certificate (with `chain` after it) and the CA that the device trusts, as files."""
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.issue(key.public_key(), device, **(profile or {}))
        files = CredentialFiles(
            directory / f"{device}.key", directory / f"{device}.crt", directory / f"{device}.ca.crt"
        )
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files.key.chmod(0o600)
        pems = [c.public_bytes(serialization.Encoding.PEM) for c in (certificate, *chain)]
        files.certificate.write_bytes(b"".join(pems))
        files.ca.write_bytes((trusts or self).pem)
        return files

    def credentials(self, directory: Path, device: str, **profile: object) -> Credentials:
        """Loaded credentials of a device that follows the profile but for the given arguments."""
        return self.enrol(directory, device, profile=profile).load()


@dataclass(frozen=True)
class CredentialFiles:
    key: Path
    certificate: Path
    ca: Path

    def load(self) -> Credentials:
        return load_credentials(self.key, self.certificate, self.ca)

    def load_unchecked(self) -> Credentials:
        """As `load`, but the certificate may be anything: what an attacker would present."""
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return Credentials(
            key_file=self.key,
            certificate_file=self.certificate,
            key=load_key(self.key),
            authority=FleetAuthority.from_pem(self.ca.read_bytes()),
            identity=PeerIdentity("attacker", "anywhere", frozenset(), Digest(bytes(32))),
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )


def server_context(
    fleet: Fleet, directory: Path, *, not_after: float = NOW + DAY, host: str = "127.0.0.1"
) -> ssl.SSLContext:
    """A web server whose certificate `fleet` issued; leaves `server.pem` (with its key) and `ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    at = [datetime.datetime.fromtimestamp(t, datetime.UTC) for t in (NOW - 300 * DAY, not_after)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")]))
        .issuer_name(fleet.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at[0])
        .not_valid_after(at[1])
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
        )
        .sign(fleet.key, hashes.SHA256())
    )
    directory.mkdir(exist_ok=True)
    (directory / "server.pem").write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (directory / "ca.pem").write_bytes(fleet.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context
