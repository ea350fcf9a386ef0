"""Reading one TOML table key by key, noting every fault with its key, its line and what is allowed.

Not for documents that strangers write (`p2p.content.fields`): those end at the first fault.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from p2p.config.model import Endpoint
from p2p.content.fields import check_name
from p2p.errors import ContentError
from p2p.swarm.allowance import DailyWindow

_T = TypeVar("_T")
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_WINDOW = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*[-–]\s*([01]?\d|2[0-3]):([0-5]\d)")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class Problems:
    """Faults found so far, with the line of each key as far as a plain scan finds it."""

    def __init__(self, text: str) -> None:
        self.found: list[tuple[str, str]] = []
        self._lines = _key_lines(text)

    def add(self, path: tuple[str, ...], message: str) -> None:
        self.found.append((".".join(path), message))

    def lines(self) -> list[str]:
        """One line per fault, in the order of the file. What is missing has the line of its table;
        where that is missing, too, it has none and comes first."""
        placed = [(self._line(path), path, message) for path, message in self.found]
        return [
            f"line {line}: {path} {message}" if line else f"{path} {message}"
            for line, path, message in sorted(placed, key=lambda item: item[0])
        ]

    def _line(self, path: str) -> int:
        """Of the key, or of the nearest table or array around it that is written plainly; 0: of none."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path.removesuffix("]").rpartition("[" if path.endswith("]") else ".")[0]
        return 0


class Table:
    """One table of the document. A getter that finds a fault notes it and returns a stand-in."""

    def __init__(
        self, value: dict[str, Any], path: tuple[str, ...], problems: Problems, directory: Path
    ) -> None:
        self._value = value
        self._path = path
        self._problems = problems
        self._directory = directory
        self._known: set[str] = set()

    def fault(self, key: str, message: str) -> None:
        self._problems.add((*self._path, key), message)

    def has(self, key: str) -> bool:
        return key in self._value

    def keys(self) -> list[str]:
        """The keys that are written, in the order of the file."""
        return list(self._value)

    def value(self, key: str) -> object:
        """What is written, unchecked, for keys that may be one of several things; None: nothing."""
        self._known.add(key)
        return self._value.get(key)

    def table(self, key: str, *, required: bool = False) -> Table:
        self._known.add(key)
        value = self._value.get(key, {})
        if not isinstance(value, dict):
            self.fault(key, f"must be a table: [{self._header(key)}]")
            value = {}
        elif required and key not in self._value:
            self.fault(key, f"is missing: the table [{key}] is needed")
        return Table(value, (*self._path, key), self._problems, self._directory)

    def tables(self, key: str, *, required: bool = False) -> list[Table]:
        """The tables of an array, each under a path such as `site[0]`; a table alone is an array of one."""
        self._known.add(key)
        value = self._value.get(key, [])
        if isinstance(value, dict):
            return [self.table(key)]
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fault(key, f"must be tables: [[{self._header(key)}]]")
            return []
        if required and not value:
            self.fault(key, f"is missing: at least one table [[{key}]] is needed")
        return [
            Table(item, (*self._path, f"{key}[{n}]"), self._problems, self._directory)
            for n, item in enumerate(value)
        ]

    def _header(self, key: str) -> str:
        """What stands between the brackets above such a table."""
        return ".".join((*(part.partition("[")[0] for part in self._path), key))

    def finish(self) -> None:
        """Note the keys that nobody asked for."""
        for key in self._value:
            if key not in self._known:
                self.fault(key, f"is unknown (allowed: {', '.join(sorted(self._known))})")

    def optional(self, key: str, getter: Callable[[str], _T]) -> _T | None:
        self._known.add(key)
        return getter(key) if self.has(key) else None

    def payload_names(self) -> list[str]:
        names = []
        for key in self._value:
            try:
                names.append(check_name(key, "payload"))
            except ContentError:
                self.fault(key, "is no payload name (letters, digits, '._+~-')")
        if not self._value:
            self._problems.add(self._path, "needs a table per payload, such as [slots.rootfs]")
        return names

    def text(self, key: str, *, what: str = "text", default: str | None = None) -> str | None:
        self._known.add(key)
        if key not in self._value:
            if default is None:
                self.fault(key, f"is missing: {what}")
            return default
        value = self._value[key]
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return None
        return value

    def name(self, key: str) -> str:
        what = "a name (letters, digits, '._+~-'; at most 128)"
        value = self.text(key, what=what)
        if value is None:
            return ""
        try:
            return check_name(value, key)
        except ContentError:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return ""

    def path(self, key: str, default: Path | None = None) -> Path:
        if default is not None and not self.has(key):
            self._known.add(key)
            return default
        value = self.text(key, what="a path")
        return self._directory / (value or "")

    def url(self, key: str) -> str:
        what = "a URL such as https://updates.example.org"
        value = self.text(key, what=what)
        if value is None:
            return ""
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or parts.query or parts.fragment or parts.username or any(c.isspace() for c in value):
            self.fault(
                key, f"must be {what} (http or https; no user, query or fragment), not {_shown(value)}"
            )
        return value.rstrip("/")

    def host(self, key: str) -> str:
        what = "a host name or an IP address"
        value = self.text(key, what=what)
        if value is not None and not _is_host(value):
            self.fault(key, f"must be {what}, not {_shown(value)}")
        return value or ""

    def endpoint(self, key: str, *, port_min: int, default: str) -> Endpoint:
        what = f"HOST:PORT with a port of {port_min}..65535, as in '0.0.0.0:7470' or '[::]:7470'"
        value = self.text(key, what=what, default=default)
        endpoint = _endpoint(value, port_min) if value is not None else None
        if value is not None and endpoint is None:
            self.fault(key, f"must be {what}, not {_shown(value)}")
        return endpoint or Endpoint("", 0)

    def endpoints(self, key: str) -> tuple[Endpoint, ...]:
        what = "a list of 'HOST:PORT' texts"
        return self._each(key, what, lambda item: _endpoint(item, 1))

    def addresses(self, key: str) -> tuple[str, ...]:
        return self._each(key, "a list of IP addresses", lambda item: item if _is_address(item) else None)

    def names(self, key: str, count_max: int) -> tuple[str, ...]:
        """Names, each once; empty where there is no such key."""
        what = f"a list of at most {count_max} names (letters, digits, '._+~-'), each once"

        def parse(item: str) -> str | None:
            try:
                return check_name(item, key)
            except ContentError:
                return None

        found = self._each(key, what, parse)
        if len(found) > count_max or len(set(found)) != len(found):
            self.fault(key, f"must be {what}")
        return found

    def boolean(self, key: str, *, default: bool) -> bool:
        self._known.add(key)
        value = self._value.get(key, default)
        if not isinstance(value, bool):
            self.fault(key, f"must be true or false, not {_shown(value)}")
            return default
        return value

    def integer(self, key: str, low: int, high: int, *, default: int) -> int:
        self._known.add(key)
        value = self._value.get(key, default)
        if type(value) is not int or not low <= value <= high:
            self.fault(key, f"must be a whole number of {low}..{high}, not {_shown(value)}")
            return default
        return value

    def number(self, key: str, low: float, high: float, *, default: float, what: str = "seconds") -> float:
        self._known.add(key)
        value = self._value.get(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            self.fault(key, f"must be a number of {low:g}..{high:g} ({what}), not {_shown(value)}")
            return default
        return float(value)

    def rate(self, key: str) -> int:
        what = (
            "bytes per second: a number or text such as '250kB/s', '2MB/s', '16Mbit/s'; absent for no limit"
        )
        return self._amount(key, what, _rate, 1, 1 << 50)

    def size(self, key: str, low: int = 1, absent: str = "no limit") -> int:
        least = f" (at least {low})" if low > 1 else ""
        what = f"bytes{least}: a number or text such as '500MB', '2GB', '64MiB'; absent for {absent}"
        return self._amount(key, what, size_of_text, low, 1 << 60)

    def windows(self, key: str) -> tuple[DailyWindow, ...]:
        return self._each(key, "a list of daily windows such as '22:00-05:00'", _window)

    def zone(self, key: str, *, default: str) -> tzinfo:
        what = "the name of a time zone such as 'Europe/Berlin' or 'UTC'"
        name = self.text(key, what=what, default=default) or default
        if name == "UTC":
            return UTC
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # half a MiB that most agents do not need

        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.fault(key, f"must be {what}; this device knows no {_shown(name)} (is tzdata installed?)")
            return UTC

    def quantity(
        self,
        key: str,
        what: str,
        parse: Callable[[object], float | None],
        *,
        default: float | None = None,
        stand_in: float = 1.0,
    ) -> float:
        """What `parse` makes of the value; None, or no value and no default, is a fault; `what` is right."""
        self._known.add(key)
        if key not in self._value:
            if default is None:
                self.fault(key, f"is missing: {what}")
            return stand_in if default is None else default
        found = parse(self._value[key])
        if found is None:
            self.fault(key, f"must be {what}, not {_shown(self._value[key])}")
            return stand_in
        return found

    def moment(self, key: str) -> float:
        what = "a date and time such as 2025-01-31T12:00:00Z"
        self._known.add(key)
        value = self._value.get(key)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
        if type(value) is int and value >= 0:
            return float(value)
        self.fault(key, f"must be {what}, not {_shown(value)}")
        return 0.0

    def choice(self, key: str, allowed: tuple[str, ...], *, default: str) -> str:
        what = " or ".join(repr(item) for item in allowed)
        value = self.text(key, what=what, default=default)
        if value is not None and value not in allowed:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return default
        return value or default

    def command(self, key: str) -> tuple[str, ...]:
        what = "a program and its arguments: ['/usr/bin/check', '--quick']"
        self._known.add(key)
        value = self._value.get(key)
        if not isinstance(value, list) or not value or not value[0]:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return ()
        return self._each(key, what, lambda item: item if "\0" not in item else None)

    def _each(self, key: str, what: str, parse: Callable[[str], _T | None]) -> tuple[_T, ...]:
        self._known.add(key)
        value = self._value.get(key, [])
        if not isinstance(value, list):
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return ()
        found = []
        for item in value:
            parsed = parse(item) if isinstance(item, str) else None
            if parsed is None:
                self.fault(key, f"must be {what}; {_shown(item)} is not")
            else:
                found.append(parsed)
        return tuple(found)

    def _amount(self, key: str, what: str, parse: Callable[[str], float | None], low: int, high: int) -> int:
        self._known.add(key)
        value = self._value[key]
        amount: float | None = None
        if isinstance(value, str):
            amount = parse(value)
        elif type(value) is int:
            amount = value
        if amount is None or not low <= amount <= high:
            self.fault(key, f"must be {what}, not {_shown(value)}")
            return low
        return int(amount)


def _endpoint(value: str, port_min: int) -> Endpoint | None:
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            return None
    elif ":" in host:
        return None
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or not _is_host(host):
        return None
    return Endpoint(host, int(port)) if port_min <= int(port) <= 65535 else None


def _is_host(value: str) -> bool:
    return _is_address(value) or (len(value) <= 253 and bool(_HOST.fullmatch(value)))


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def size_of_text(value: str) -> float | None:
    """Bytes, of text such as `2GB`; None if it is none."""
    match = _AMOUNT.fullmatch(value.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    return float(match[1]) * unit if match and unit else None


def _rate(value: str) -> float | None:
    amount, slash, per = value.strip().partition("/")
    if not slash or per.strip() != "s":
        return None
    bits = re.fullmatch(r"(.*?)(k|M|G)?bit", amount.strip())
    if bits:
        size = size_of_text(f"{bits[1]}{bits[2] or ''}B")
        return None if size is None else size / 8
    return size_of_text(amount)


def _window(value: str) -> DailyWindow | None:
    match = _WINDOW.fullmatch(value.strip())
    if match is None:
        return None
    start, stop = (3600 * int(h) + 60 * int(m) for h, m in (match.group(1, 2), match.group(3, 4)))
    return DailyWindow(start, stop) if start != stop else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _key_lines(text: str) -> dict[str, int]:
    """Dotted key to line number, for keys written plainly; a table counts from its header.

    The tables of an array are `array[0]`, `array[1]`…; `array` itself is the line of the first. A header
    below an array (`[site.lan]`) belongs to the array's last table so far, as in TOML.
    """
    found: dict[str, int] = {}
    last: dict[str, int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", line)
        key = re.match(r"\s*([A-Za-z0-9_.\"'-]+(?:\s*\.\s*[A-Za-z0-9_\"'-]+)*)\s*=", line)
        if header:
            *above, name = _split_key(header[2])
            table = ()
            for part in above:
                table = (*table, part)
                if ".".join(table) in last:
                    table = (*table[:-1], f"{part}[{last['.'.join(table)]}]")
            table = (*table, name)
            found.setdefault(".".join(table), number)
            if header[1] == "[[":
                n = last[".".join(table)] = last.get(".".join(table), -1) + 1
                table = (*table[:-1], f"{name}[{n}]")
                found.setdefault(".".join(table), number)
        elif key:
            found.setdefault(".".join((*table, *_split_key(key[1]))), number)
    return found


def _split_key(text: str) -> tuple[str, ...]:
    """The parts of a dotted key; a dot within quotes divides nothing."""
    parts = re.findall(r"\s*(\"[^\"]*\"|'[^']*'|[^.\s]+)\s*", text)
    return tuple(part.strip("\"'") for part in parts)
