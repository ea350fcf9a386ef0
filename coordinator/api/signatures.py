"""Who signed a device's request: HTTP message signatures (RFC 9421) by the device key.

The signature covers method, path and the body's digest (RFC 9530), so identity survives proxies that end
TLS, and a request means the same wherever it is relayed. Clocks of devices are often wrong: a signature
that only its time speaks against is answered with `clock` and the server's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)

from coordinator.api.errors import ApiError, clock_error
from coordinator.api.limits import NonceMemory

WINDOW_S = 300.0
COMPONENTS = ("@method", "@path", "content-digest")
PARAMETERS = frozenset({"created", "nonce", "keyid", "alg"})
NONCE_LENGTH = range(16, 129)

KeyLookup = Callable[[str], bytes | None]
"""A device id to its public key in PEM form, None if it is not enrolled."""


@dataclass(frozen=True)
class SignedRequest:
    """The parts of a request that a signature can speak of."""

    method: str
    path: str
    headers: Iterable[tuple[str, str]]
    body: bytes


def authenticate(request: SignedRequest, key_of: KeyLookup, nonces: NonceMemory, now: float) -> str:
    """The id of the device that signed; raises `ApiError` 401 `signature`, `clock`, `replay`."""
    verifier = _Verifier(key_of, nonces.since, now)
    try:
        results = verifier.verify(
            _Message(request),
            max_age=None,
            require_components=COMPONENTS,
            body=request.body,
        )
    except InvalidSignature as error:
        raise ApiError(401, "signature", f"the request's signature is refused: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ApiError(401, "signature", "the request's signature cannot be read") from error
    parameters = results[0].parameters
    if len(results) != 1 or not parameters.keys() >= PARAMETERS:
        raise ApiError(401, "signature", f"the signature must say {', '.join(sorted(PARAMETERS))}")
    nonce, device, created = str(parameters["nonce"]), str(parameters["keyid"]), int(parameters["created"])
    if len(nonce) not in NONCE_LENGTH:
        raise ApiError(401, "signature", "the nonce must have 16 to 128 characters")
    nonces.add(device, nonce, created, now)
    return device


class _Headers:
    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._fields = list(fields)

    def items(self) -> list[tuple[str, str]]:
        return self._fields


class _Message:
    def __init__(self, request: SignedRequest) -> None:
        self.method = request.method
        self.url = f"http://coordinator{request.path}"
        self.headers = _Headers(request.headers)


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, key_of: KeyLookup) -> None:
        self._key_of = key_of

    def resolve_public_key(self, key_id: str) -> bytes | None:
        return self._key_of(key_id)


class _Verifier(HTTPMessageVerifier):
    """The library's verifier with our clock and our window in place of its own."""

    def __init__(self, key_of: KeyLookup, since: int, now: float) -> None:
        super().__init__(signature_algorithm=algorithms.ECDSA_P256_SHA256, key_resolver=_Keys(key_of))
        self._since = since
        self._now = now

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        created = sig_input.params.get("created")
        if type(created) is not int:
            raise InvalidSignature('"created" is missing')
        if not max(self._since, self._now - WINDOW_S) <= created <= self._now + WINDOW_S:
            raise clock_error("the signature was not made now by the server's clock", self._now)
