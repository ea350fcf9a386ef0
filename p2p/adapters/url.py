"""HTTP and HTTPS addresses, parsed once and strictly.

Not for other schemes, user names, passwords or fragments: an address that has them is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from p2p.errors import ConfigError

URL_LENGTH_MAX = 4096

_SAFE = re.compile(r"[!-~]+")  # visible ASCII: nothing that could split a request line
_HOST = re.compile(r"[A-Za-z0-9_.-]+")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Url:
    """`target` is path and query as they stand in the request line; `host` has no brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def server(self) -> tuple[str, str, int]:
        """What a connection can be reused for."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """The Host field (RFC 9110 section 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def below(self, path: str) -> Url:
        """The address of relative `path` below this one, taken as a directory."""
        base = self.target.partition("?")[0].rstrip("/")
        return Url(self.scheme, self.host, self.port, f"{base}/{path}")

    def join(self, reference: str) -> str:
        """Resolve a reference against this address (RFC 3986 section 5); raises `ConfigError`."""
        try:
            return urljoin(str(self), reference)
        except ValueError as error:
            raise ConfigError(f"{reference[:200]!r}: not a URL ({error})") from error

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Raises `ConfigError` saying what is wrong with the address."""
    shown = repr(text[:200])
    if len(text) > URL_LENGTH_MAX or not _SAFE.fullmatch(text):
        raise ConfigError(f"{shown}: not a URL (too long, empty or with spaces or non-ASCII characters)")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError as error:
        raise ConfigError(f"{shown}: not a URL ({error})") from error
    if parts.scheme not in _PORTS:
        raise ConfigError(f"{shown}: the scheme is neither http nor https")
    if "@" in parts.netloc or parts.fragment:
        raise ConfigError(f"{shown}: user names, passwords and fragments are not supported")
    if ":" not in host and not _HOST.fullmatch(host):
        raise ConfigError(f"{shown}: {host!r} is not a host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme, host, port or _PORTS[parts.scheme], target)
