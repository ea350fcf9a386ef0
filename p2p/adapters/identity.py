"""A device's key and certificate, and who a peer is by its certificate.

The profile of a device certificate (X.509 v3, `docs/spec/identity.md`): issued *directly* by a pinned
fleet CA; common name = device id; subject alternative names with exactly one URI
`slipstream:device:<id>` (equal to the common name), exactly one `slipstream:site:<site>` and any
number of `slipstream:group:<group>`; not a CA; extended key usage both client and server.

Trust here is narrower than a TLS library's: no system roots, no intermediates (an intermediate below
the fleet CA, or another CA of the same name, is refused), and times are judged by the *trusted time*
that the caller passes, never by the system clock. Trusted time is a lower bound of the real time, so
a certificate past its end is refused, while "not valid yet" proves nothing and is not checked: it
would lock out of its site a device whose clock stands at 1970.

Not for TLS itself (`p2p.adapters.tls`), nor for issuing certificates (the coordinator does that).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.fields import check_name
from p2p.errors import ConfigError, ContentError, PeerError, StoreError
from p2p.ports import PeerIdentity

DEVICE_URI = "slipstream:device:"
SITE_URI = "slipstream:site:"
GROUP_URI = "slipstream:group:"

_PRIVATE = "chmod 600 {}; where the file system keeps no modes, mount it with umask=077"

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system without hard links says of them."""

_USAGES = {ExtendedKeyUsageOID.CLIENT_AUTH: "client", ExtendedKeyUsageOID.SERVER_AUTH: "server"}
_PARSE_ERRORS = (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension, UnsupportedAlgorithm)


@dataclass(frozen=True)
class FleetAuthority:
    """The pinned certificates of the fleet CA (more than one only while the CA is being replaced)."""

    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def from_pem(cls, pem: bytes) -> FleetAuthority:
        """Raises `ConfigError` unless `pem` holds CA certificates and nothing else."""
        try:
            certificates = tuple(x509.load_pem_x509_certificates(pem))
            sound = all(_is_authority(c) for c in certificates)
        except _PARSE_ERRORS as error:
            raise ConfigError(f"fleet CA: not PEM certificates ({error})") from error
        if not sound:
            raise ConfigError("fleet CA: a certificate in the file is not a CA's")
        return cls(certificates)

    @property
    def der(self) -> bytes:
        """What `ssl.SSLContext.load_verify_locations(cadata=…)` takes."""
        return b"".join(c.public_bytes(serialization.Encoding.DER) for c in self.certificates)

    def identify(self, certificate: bytes, now: float) -> PeerIdentity:
        """Who the holder of this DER certificate is.

        `now` is trusted time (seconds since 1970). Raises `PeerError("not-of-fleet")` for whatever
        departs from the profile; the message says what.
        """
        try:
            leaf = x509.load_der_x509_certificate(certificate)
            self._check_issuer(leaf)
            identity = _identity(leaf, certificate)
            expired = leaf.not_valid_after_utc.timestamp() < now
        except ContentError as error:
            raise PeerError("not-of-fleet", error.message) from error
        except (*_PARSE_ERRORS, InvalidSignature) as error:
            raise PeerError("not-of-fleet", f"malformed certificate ({error})") from error
        if expired:
            raise PeerError("not-of-fleet", f"the certificate of {identity.device} has expired")
        return identity

    def _check_issuer(self, leaf: x509.Certificate) -> None:
        for authority in self.certificates:
            try:
                leaf.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return
        raise ContentError("the certificate was not issued by this fleet's CA")


@dataclass(frozen=True)
class Credentials:
    """What a device proves its identity with. The files are kept because TLS contexts read them."""

    key_file: Path
    certificate_file: Path
    key: ec.EllipticCurvePrivateKey
    authority: FleetAuthority
    identity: PeerIdentity
    not_before: float
    not_after: float

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make `context` present this device's certificate."""
        try:
            context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"device certificate {self.certificate_file}: {error}") from error

    @property
    def renew_at(self) -> float:
        """Trusted time from which the certificate should be renewed: half of its life."""
        return (self.not_before + self.not_after) / 2


def load_credentials(key_file: Path, certificate_file: Path, ca_file: Path) -> Credentials:
    """Read and cross-check key, certificate and CA; raises `ConfigError` saying which is wrong.

    An expired certificate is loaded all the same: peers refuse it, the coordinator may renew it.
    """
    key = load_key(key_file)
    authority = FleetAuthority.from_pem(_read(ca_file, "fleet CA"))
    certificate = _read(certificate_file, "device certificate")
    identity, leaf = check_certificate(certificate, key, authority)
    return Credentials(
        key_file=key_file,
        certificate_file=certificate_file,
        key=key,
        authority=authority,
        identity=identity,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def check_certificate(
    pem: bytes, key: ec.EllipticCurvePrivateKey, authority: FleetAuthority
) -> tuple[PeerIdentity, x509.Certificate]:
    """Check that `pem` is one certificate of this fleet for `key`; raises `ConfigError`."""
    try:
        (leaf,) = x509.load_pem_x509_certificates(pem)
        own = leaf.public_key() == key.public_key()
    except _PARSE_ERRORS as error:
        raise ConfigError(f"device certificate: not one PEM certificate ({error})") from error
    if not own:
        raise ConfigError(
            "device certificate: it is for another key",
            next_step="enrol this device again with a new voucher",
        )
    try:
        return authority.identify(leaf.public_bytes(serialization.Encoding.DER), now=0.0), leaf
    except PeerError as error:
        raise ConfigError(f"device certificate: {error.message}") from error


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key in a new file of mode 0600, durable before this returns.

    Raises `StoreError` if the file exists (a key is never overwritten), cannot be written, or cannot be kept
    from others, as the file system keeps no modes.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # No process id: after a power cut the next try may have the same one, and finds what this one left.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
                others = os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077
            if others:
                raise StoreError(
                    f"device key {path}: the file system lets others read it",
                    kept="nothing: no key was made",
                    next_step="mount it with umask=077, or set device.state_dir to where files have modes",
                )
            _name_key(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise StoreError(
            f"device key {path}: exists already",
            kept="the existing key",
            next_step="remove it to make a new one",
        ) from error
    except OSError as error:
        raise StoreError(f"device key {path}: {error.strerror or error}") from error
    return key


def _name_key(temporary: Path, path: Path) -> None:
    """Give a key that is whole its name, unless that is taken. Raises `FileExistsError`, `OSError`."""
    try:
        os.link(temporary, path)  # unlike a rename, never replaces a key
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    # As on vfat and exFAT. Whoever else makes a key here waits meanwhile; a cut leaves all of it or nothing.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.rename(path)
    finally:
        os.close(directory)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key in PEM; raises `ConfigError` (also when others may read the file)."""
    data = _read(path, "device key")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError(f"device key {path}: others can read it", next_step=_PRIVATE.format(path))
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except _PARSE_ERRORS as error:
        raise ConfigError(f"device key {path}: not a PEM private key ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"device key {path}: not an ECDSA key on P-256")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey, device: str) -> bytes:
    """A certificate request (PKCS #10, PEM) with the device id as common name and URI.

    Raises `ConfigError` if `device` cannot be a common name (X.520: at most 64 characters).
    """
    try:
        check_name(device, "device id")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    except (ContentError, ValueError) as error:
        raise ConfigError(f"device id {device[:80]!r} cannot stand in a certificate: {error}") from error
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE_URI + device)])
    builder = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _identity(leaf: x509.Certificate, der: bytes) -> PeerIdentity:
    """Names and usages of a certificate whose signature has been checked."""
    if leaf.version is not x509.Version.v3:
        raise ContentError("the certificate is not X.509 v3")
    if _is_authority(leaf):
        raise ContentError("a CA's certificate is not a device's")
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    for needed, name in (
        (ExtendedKeyUsageOID.CLIENT_AUTH, "client"),
        (ExtendedKeyUsageOID.SERVER_AUTH, "server"),
    ):
        if needed not in usages:
            raise ContentError(f"the certificate's extended key usage lacks {name} authentication")
    common_names = [str(a.value) for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )
    device = _only(uris, DEVICE_URI)
    if common_names != [device]:
        raise ContentError(f"the common name {common_names} is not the device id {device!r}")
    groups = _all(uris, GROUP_URI)
    if len(groups) > limits.LIST_LENGTH_MAX:
        raise ContentError("the certificate names too many groups")
    return PeerIdentity(device, _only(uris, SITE_URI), frozenset(groups), sha256(der))


def _all(uris: Sequence[str], prefix: str) -> list[str]:
    return [check_name(u.removeprefix(prefix), prefix.rstrip(":")) for u in uris if u.startswith(prefix)]


def _only(uris: Sequence[str], prefix: str) -> str:
    found = _all(uris, prefix)
    if len(found) != 1:
        raise ContentError(f"the certificate has {len(found)} names {prefix}… instead of one")
    return found[0]


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limits.MIB + 1)
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror or error}") from error
    if len(data) > limits.MIB:
        raise ConfigError(f"{what} {path}: over {limits.MIB} bytes")
    return data


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_pinned_root(path: Path) -> bytes:
    """The root metadata that the device was shipped with. Raises `ConfigError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(limits.ROOT_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the pinned root {path}: {error.strerror or error}",
            next_step="copy root.json of the repository there (trust.root)",
        ) from error
