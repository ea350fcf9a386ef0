"""The fleet CA: the X.509 authority that says which keys are devices of this fleet.

It issues nothing but device certificates: the subject and all names come from the coordinator's own
records, only the public key comes from the device's request. Not for TUF metadata: a device certificate
lets its holder talk to peers, never publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.errors import KeyUnavailable
from coordinator.publishing.files import read_file, write_atomic
from coordinator.publishing.keys import Passphrases, create_ca_key, read_private
from p2p.errors import ContentError, LocalError

CA_DIRECTORY = "ca"
CA_YEARS = 20
BACKDATE = timedelta(days=1)
CSR_SIZE_MAX = 8 * 1024
COMMON_NAME_MAX = 64
"""X.520's bound on a common name, so also on a device id."""


@dataclass(frozen=True)
class FleetAuthority:
    """The CA's certificate and private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The CA certificate, to hand to devices."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @classmethod
    def create(cls, directory: Path, passphrase: bytes | None, fleet: str, now: datetime) -> FleetAuthority:
        """Make key and certificate under `directory/ca`, and `directory/ca.pem` to ship on devices."""
        key = create_ca_key(directory / CA_DIRECTORY / "ca-key.pem", passphrase)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Slipstream fleet {fleet}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=365 * CA_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        authority = cls(certificate, key)
        write_atomic(directory / CA_DIRECTORY / "ca.pem", authority.pem.encode())
        write_atomic(directory / "ca.pem", authority.pem.encode())
        return authority

    @classmethod
    def load(cls, directory: Path, passphrases: Passphrases) -> FleetAuthority:
        """Raises `KeyUnavailable` or `LocalError` when the CA's files are not usable."""
        path = directory / CA_DIRECTORY / "ca.pem"
        try:
            certificate = x509.load_pem_x509_certificate(read_file(path, 1 << 20))
        except ValueError as error:
            raise LocalError(
                f"{path}: not a certificate", next_step=f"restore it from {directory}/ca.pem"
            ) from error
        key = read_private(directory / CA_DIRECTORY / "ca-key.pem", passphrases, service=True)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise KeyUnavailable(f"{directory}/ca/ca-key.pem does not belong to {path}")
        return cls(certificate, key)

    def issue(
        self,
        key: ec.EllipticCurvePublicKey,
        device: str,
        site: str,
        groups: Sequence[str],
        now: datetime,
        days: int,
    ) -> x509.Certificate:
        """A device certificate: CN is the device id, SAN URIs name device, site and groups."""
        uris = [f"slipstream:device:{device}", f"slipstream:site:{site}"]
        uris += [f"slipstream:group:{group}" for group in groups]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + timedelta(days=days), self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )


def key_of_request(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request whose signature proves possession of the private one.

    Names and extensions of the request are ignored. Raises `ContentError`.
    """
    if len(pem) > CSR_SIZE_MAX:
        raise ContentError(f"csr: over {CSR_SIZE_MAX} bytes")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise ContentError("csr: not a certificate request in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ContentError("csr: the key must be ECDSA P-256")
    if not proven:
        raise ContentError("csr: the signature is not by the request's own key")
    return key


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
