"""The file in which an integrator says what a device's link and power are like just now.

A modem manager, a dispatcher script or a power daemon writes it whenever something changes (to a new file,
renamed over the old one); the agent looks at it now and then. TOML, of at most `SIZE_MAX` bytes:

    metered = true
    roaming = false
    battery = false

What is left out is false; a file that is not there says nothing.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from p2p.errors import ContentError, StoreError
from p2p.swarm.conditions import Conditions

SIZE_MAX = 4096


def read_conditions(path: Path) -> Conditions | None:
    """What the file says; None where there is none.

    Raises `StoreError` if it cannot be read, and `ContentError` naming the fault of its content.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    return parse_conditions(data, str(path))


def parse_conditions(data: bytes, source: str) -> Conditions:
    """Raises `ContentError`."""
    if len(data) > SIZE_MAX:
        raise ContentError(f"{source}: over {SIZE_MAX} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ContentError(f"{source}: not valid TOML: {error}") from error
    for key, value in document.items():
        if key not in Conditions._fields:
            raise ContentError(f"{source}: {key[:40]!r} is unknown (known: {', '.join(Conditions._fields)})")
        if not isinstance(value, bool):
            raise ContentError(f"{source}: {key} must be true or false")
    return Conditions(**document)
