"""Reading a JSON document that a stranger may have written, key by key.

`Fields` wraps one object; each getter checks type and bounds and raises `ContentError` naming the
key by its path. `finish` refuses keys that were never read: documents are closed-world.
"""

from __future__ import annotations

import json
import re
from typing import Any

from p2p.content import limits
from p2p.content.digests import Buffer, Digest, parse_digest
from p2p.errors import ContentError, LimitExceeded

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
"""Names of products, sites, devices, roles: safe as a path element, never `.` or `..`."""


def load_object(data: Buffer, what: str, size_max: int) -> Fields:
    """Parse `data` as one JSON object of at most `size_max` bytes."""
    if len(data) > size_max:
        raise LimitExceeded(f"{what}: {len(data)} bytes are over {size_max}")
    raw = bytes(data)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
        if b"\\u" in raw:  # half of a surrogate pair is no text, and nothing could write it again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{what}: not valid JSON ({error})") from error
    return Fields(value, what)


def dump_object(value: dict[str, Any]) -> bytes:
    """The one encoding that Slipstream writes: sorted keys, no spaces, UTF-8, a final newline."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def check_name(value: str, what: str) -> str:
    """Return `value` if it is a name (see `NAME`), else raise `ContentError`."""
    if len(value) > limits.NAME_LENGTH_MAX or not NAME.fullmatch(value):
        raise ContentError(f"{what}: {value[:40]!r} is not a name (letters, digits, '._+~-')")
    return value


class Fields:
    """One JSON object under the path `what`."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise ContentError(f"{what}: not an object")
        self.what = what
        self._value: dict[str, Any] = dict(value)

    def _take(self, key: str, kind: type, *, optional: bool = False) -> Any:
        value = self._value.pop(key, None)
        if value is None:
            if optional:
                return None
            raise ContentError(f"{self.what}.{key}: missing")
        if type(value) is not kind:
            raise ContentError(f"{self.what}.{key}: not of type {kind.__name__}")
        return value

    def constant(self, key: str, expected: object) -> None:
        """The key must hold exactly `expected`."""
        value = self._take(key, type(expected))
        if value != expected:
            raise ContentError(f"{self.what}.{key}: {value!r} is not supported (expected {expected!r})")

    def text(self, key: str, *, length_max: int = 4096) -> str:
        value: str = self._take(key, str)
        if len(value) > length_max:
            raise LimitExceeded(f"{self.what}.{key}: longer than {length_max} characters")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self._value.get(key) is None else self.text(key)

    def name(self, key: str) -> str:
        return check_name(self.text(key), f"{self.what}.{key}")

    def integer(self, key: str, low: int, high: int) -> int:
        value: int = self._take(key, int)
        if not low <= value <= high:
            raise LimitExceeded(f"{self.what}.{key}: {value} is not within {low}..{high}")
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self._take(key, bool, optional=True)
        return default if value is None else bool(value)

    def digest(self, key: str) -> Digest:
        return parse_digest(self._take(key, str), f"{self.what}.{key}")

    def optional_digest(self, key: str) -> Digest | None:
        value = self._take(key, str, optional=True)
        return None if value is None else parse_digest(value, f"{self.what}.{key}")

    def names(self, key: str, *, length_max: int = limits.LIST_LENGTH_MAX) -> tuple[str, ...]:
        """A list of names (absent: empty)."""
        items = self._list(key, length_max)
        found = []
        for n, item in enumerate(items):
            if not isinstance(item, str):
                raise ContentError(f"{self.what}.{key}[{n}]: not text")
            found.append(check_name(item, f"{self.what}.{key}[{n}]"))
        return tuple(found)

    def objects(self, key: str, *, length_max: int) -> list[Fields]:
        """A list of objects (absent: empty)."""
        return [Fields(item, f"{self.what}.{key}[{n}]") for n, item in enumerate(self._list(key, length_max))]

    def object(self, key: str) -> Fields:
        return Fields(self._take(key, dict), f"{self.what}.{key}")

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def holds(self, key: str, kind: type) -> bool:
        """Whether the key's value is of this type."""
        return type(self._value.get(key)) is kind

    def raw_object(self, key: str) -> dict[str, Any]:
        """An object whose inside another decoder checks."""
        return dict(self._take(key, dict))

    def optional_object(self, key: str) -> Fields | None:
        return None if self._value.get(key) is None else self.object(key)

    def text_map(self, key: str) -> dict[str, str]:
        """An object of text values (absent: empty)."""
        value = self._take(key, dict, optional=True) or {}
        if len(value) > limits.LIST_LENGTH_MAX or not all(isinstance(v, str) for v in value.values()):
            raise ContentError(f"{self.what}.{key}: not an object of text values")
        return dict(value)

    def finish(self) -> None:
        """Refuse keys that nobody read."""
        left = [k for k, v in self._value.items() if v is not None]
        if left:
            raise ContentError(f"{self.what}.{sorted(left)[0]}: unknown key")

    def _list(self, key: str, length_max: int) -> list[Any]:
        value: list[Any] = self._take(key, list, optional=True) or []
        if len(value) > length_max:
            raise LimitExceeded(f"{self.what}.{key}: more than {length_max} items")
        return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value
