"""The status file: what a running agent tells whoever asks on the same machine.

Written whole under another name and renamed, so that a reader never sees half of it; not fsynced,
since after a crash it would be stale anyway. Not a log, and not what the coordinator is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2p.errors import StoreError

STATUS_SIZE_MAX = 4 << 20


def write_status(path: Path, facts: Mapping[str, object]) -> None:
    """Replace the status; `facts` must be JSON values. Raises `StoreError`."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(json.dumps(facts, sort_keys=True) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write the status {path}: {error.strerror or error}") from error


def read_status(path: Path) -> dict[str, Any] | None:
    """The last status written; None when there is none or it cannot be read as one."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(STATUS_SIZE_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
