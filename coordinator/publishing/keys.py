"""Key files and signers: where private keys are, and how they are opened.

A key file is PKCS#8 PEM, encrypted with a passphrase unless its maker insisted. Everything that signs
goes through securesystemslib's `Signer.from_priv_key_uri`, so that an HSM, a PKCS#11 token or a cloud
KMS is one other URI in `repo.toml`. This module knows nothing of TUF roles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    SecretsHandler,
    Signer,
    SSlibKey,
)

from coordinator.errors import KeyUnavailable
from coordinator.publishing.files import read_file, write_atomic
from p2p.errors import OperatorError, SlipstreamError

PASSPHRASE_VARIABLE = "SLIPSTREAM_PASSPHRASE"
SERVICE_PASSPHRASE_VARIABLE = "SLIPSTREAM_SERVICE_PASSPHRASE"
KEY_FILE_MAX = 64 * 1024


@dataclass
class Passphrases:
    """Where passphrases come from: a file, the environment, or a prompt on a terminal.

    `plain` makes new keys without encryption (development only). A service key (the online key and the
    CA's) has its own variable, so that a server need not know the passphrase of the release keys.
    """

    file: Path | None = None
    plain: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    prompt: bool = True
    _typed: dict[str, bytes] = field(default_factory=dict, repr=False)

    def new(self, service: bool = False) -> bytes | None:
        """The passphrase to encrypt new keys with; None only with `plain`."""
        if self.plain:
            return None
        found = self._given(service)
        if found is None and self._can_prompt():
            text = click.prompt(
                "Passphrase for the new keys", hide_input=True, confirmation_prompt=True, err=True
            )
            found = self._typed["*"] = str(text).encode()
        if not found:
            raise KeyUnavailable(
                "new keys need a passphrase",
                next_step=f"give --passphrase-file FILE or set {PASSPHRASE_VARIABLE}"
                " (or --insecure-plain-keys for development)",
            )
        return found

    def open(self, name: str, service: bool = False) -> bytes:
        """The passphrase of the existing, encrypted key `name`."""
        found = self._given(service) or self._typed.get("*")
        if found is None and self._can_prompt():
            found = str(click.prompt(f"Passphrase of {name}", hide_input=True, err=True)).encode()
            self._typed["*"] = found
        if not found:
            raise KeyUnavailable(
                f"{name} is encrypted and no passphrase was given",
                next_step=f"give --passphrase-file FILE or set {PASSPHRASE_VARIABLE}",
            )
        return found

    def _given(self, service: bool) -> bytes | None:
        if service and (text := self.environment.get(SERVICE_PASSPHRASE_VARIABLE)):
            return text.encode()
        if self.file is not None:
            return read_file(self.file, KEY_FILE_MAX).rstrip(b"\r\n")
        text = self.environment.get(PASSPHRASE_VARIABLE)
        return text.encode() if text else None

    def _can_prompt(self) -> bool:
        return self.prompt and sys.stdin is not None and sys.stdin.isatty()


class KeyFileSigner(CryptoSigner):
    """A securesystemslib signer for `slipstream-key:PATH`, a possibly encrypted PKCS#8 PEM file."""

    SCHEME = "slipstream-key"

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> CryptoSigner:
        path = Path(priv_key_uri.partition(":")[2])
        if not isinstance(public_key, SSlibKey):
            raise ValueError(f"{path}: not a key of a supported type")
        return CryptoSigner(_load_private(path, secrets_handler), public_key)


SIGNER_FOR_URI_SCHEME[KeyFileSigner.SCHEME] = KeyFileSigner


def create_signing_key(path: Path, passphrase: bytes | None) -> SSlibKey:
    """Make an Ed25519 key, write `path` (0600) and its public half beside it (`.pub`); never overwrites."""
    private = ed25519.Ed25519PrivateKey.generate()
    _write_private(path, private, passphrase)
    return write_public(path.with_suffix(".pub"), private.public_key())


def create_ca_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """Make the P-256 key of a fleet CA and write it to `path` (0600)."""
    private = ec.generate_private_key(ec.SECP256R1())
    _write_private(path, private, passphrase)
    return private


def write_public(path: Path, key: ed25519.Ed25519PublicKey) -> SSlibKey:
    """Write a public key as PEM and return it as TUF knows it."""
    write_atomic(
        path,
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    return SSlibKey.from_crypto(key)


def read_public(path: Path) -> SSlibKey:
    """A public key file (PEM, SubjectPublicKeyInfo) as TUF knows it."""
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(read_file(path, KEY_FILE_MAX)))
    except (ValueError, UnsupportedAlgorithm, SslibError) as error:
        raise OperatorError(
            f"{path}: not a public key in PEM form that can sign metadata",
            next_step="give the .pub file that `slipstream repo key create` wrote",
        ) from error


def read_private(path: Path, passphrases: Passphrases, *, service: bool = False) -> PrivateKeyTypes:
    """The private key in a key file; raises `KeyUnavailable`."""
    return _load_private(path, lambda name: passphrases.open(name, service).decode())


def open_signer(uri: str, key: Key, passphrases: Passphrases, *, service: bool = False) -> Signer:
    """The signer for `key` behind `uri`; raises `KeyUnavailable` whatever the signer's library raises."""
    try:
        return Signer.from_priv_key_uri(uri, key, lambda name: passphrases.open(name, service).decode())
    except SlipstreamError:
        raise
    except Exception as error:  # each HSM or KMS library has its own errors
        raise KeyUnavailable(
            f"key {key.keyid[:12]} cannot be opened at {uri}: {error}",
            next_step="check the key's URI, and that the key belongs to this role",
        ) from error


def open_key_file(path: Path, passphrases: Passphrases) -> Signer:
    """A signer for a key file alone; its public half is computed from it."""
    private = read_private(path, passphrases)
    try:
        return CryptoSigner(private)
    except (ValueError, SslibError) as error:
        raise KeyUnavailable(f"{path}: not a key that can sign metadata ({error})") from error


def _load_private(path: Path, secrets_handler: SecretsHandler | None) -> PrivateKeyTypes:
    try:
        pem = read_file(path, KEY_FILE_MAX)
    except OperatorError as error:
        raise KeyUnavailable(error.message, next_step="bring the key file, or give its path") from error
    passphrase: bytes | None = None
    if b"BEGIN ENCRYPTED PRIVATE KEY" in pem:
        if secrets_handler is None:
            raise KeyUnavailable(f"{path} is encrypted and nobody can be asked for its passphrase")
        passphrase = secrets_handler(path.name).encode()
    try:
        return serialization.load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "wrong passphrase, or a damaged file" if passphrase is not None else "not a PKCS#8 PEM key"
        raise KeyUnavailable(f"{path}: {what}", next_step="check the passphrase and the file") from error


def _write_private(path: Path, private: PrivateKeyTypes, passphrase: bytes | None) -> None:
    if path.exists():
        raise OperatorError(f"{path} exists", kept="the key that is there", next_step="choose another name")
    write_atomic(
        path,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()
            if passphrase is None
            else serialization.BestAvailableEncryption(passphrase),
        ),
        0o600,
    )
