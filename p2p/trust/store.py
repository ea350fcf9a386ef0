"""What the trust client keeps, and under which names.

Every write is atomic and durable (see `p2p.ports.BlobStore`); the order of writes is the client's
concern. What is read back is believed no more than what arrives: signatures and digests are checked
again at every start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from p2p.content.digests import Digest
from p2p.errors import StoreError
from p2p.trust.documents import encode_name


class TrustStore(Protocol):
    """A `p2p.ports.BlobStore` that can also list its names."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, value: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def names(self) -> Iterable[str]:
        """The names that hold a value."""


class EmptyStore:
    """A `TrustStore` that holds nothing and keeps nothing: below an `Overlay`, state in memory alone."""

    def read(self, name: str) -> bytes | None:
        return None

    def write(self, name: str, value: bytes) -> None:
        raise StoreError(f"{name}: nothing is kept here")

    def delete(self, name: str) -> None:
        pass

    def names(self) -> Iterable[str]:
        """None."""
        return ()


class Overlay:
    """A `TrustStore` over another that is only read; what is written stays in memory until `commit`."""

    def __init__(self, below: TrustStore) -> None:
        self._below = below
        self._changed: dict[str, bytes | None] = {}
        self._log: list[tuple[str, bytes | None]] = []

    def read(self, name: str) -> bytes | None:
        return self._changed[name] if name in self._changed else self._below.read(name)

    def write(self, name: str, value: bytes) -> None:
        self._change(name, value)

    def delete(self, name: str) -> None:
        self._change(name, None)

    def names(self) -> Iterable[str]:
        """The names that hold a value, as seen from here."""
        kept = {name for name in self._below.names() if name not in self._changed}
        return sorted(kept | {name for name, value in self._changed.items() if value is not None})

    def commit(self) -> None:
        """Make all changes below, one by one and in their order. Raises `StoreError`.

        A cut leaves what a cut would have left if each had been made at once.
        """
        for name, value in self._log:
            if value is None:
                self._below.delete(name)
            elif read_or_none(self._below, name) != value:
                self._below.write(name, value)
        self._log.clear()
        self._changed.clear()

    def _change(self, name: str, value: bytes | None) -> None:
        self._changed[name] = value
        self._log.append((name, value))


ROOT = "root.json"
TIMESTAMP = "timestamp.json"
SNAPSHOT = "snapshot.json"
ROTATION = "rotation"
"""Present while a root that withdraws an online key is being put into effect."""

_OBJECT_PREFIX = "object-"


def root_name(version: int) -> str:
    """Name of one root of the chain, kept so that peers can be shown the way."""
    return f"root-{version}"


def root_names(stored: Iterable[str]) -> list[str]:
    """Those of `stored` that are roots of the chain, the newest first."""
    versions = [name[5:] for name in stored if name.startswith("root-")]
    return [root_name(v) for v in sorted((int(v) for v in versions if v.isdecimal()), reverse=True)]


def role_name(role: str) -> str:
    """Name under which the metadata of targets role `role` is kept; never hidden, never a path."""
    encoded = encode_name(role)
    return ("%2E" + encoded[1:] if encoded.startswith(".") else encoded) + ".json"


def object_name(digest: Digest) -> str:
    """Name of a cached target file."""
    return _OBJECT_PREFIX + digest.hex()


def is_object_name(name: str) -> bool:
    return name.startswith(_OBJECT_PREFIX) and len(name) == len(_OBJECT_PREFIX) + 64


def read_or_none(store: TrustStore, name: str) -> bytes | None:
    """The value, or None if it is absent or cannot be read: it will be fetched and written anew."""
    try:
        return store.read(name)
    except StoreError:
        return None
