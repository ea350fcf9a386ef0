"""The boot environment as two small files (`ports.Boot`): it decides which slot runs.

Each change is one in-place write of the older copy, with a sequence number and a checksum; the newer
valid copy counts. A torn write therefore spoils only the copy that did not count, on FAT too, where a
rename is not atomic. The text is `key=value` lines that a boot script can read:

    sequence=7
    active=a
    trial=b
    attempts_left=2
    tried=1
    failed=
    crc32=89abcdef

`crc32` is of all the bytes before its line. Not for U-Boot's or GRUB's own environments.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from p2p.adapters.files import SYSTEM_FILES, Files, parent_of, read_whole
from p2p.errors import SlotError
from p2p.ports import BootState

COPY_SIZE = 512
ATTEMPTS_MAX = 100


class FileBoot:
    """The boot environment at `path` and `path + ".2"`. Before the first change `default` is active."""

    def __init__(self, path: str, *, default: str = "a", files: Files = SYSTEM_FILES) -> None:
        self._paths = (path, path + ".2")
        self._default = BootState(default)
        self._files = files

    def read(self) -> BootState:
        """The state that counts; `SlotError` when both copies are damaged."""
        return self._load()[1]

    def arm(self, slot: str, attempts: int) -> None:
        """One atomic write: try `slot` next, at most `attempts` times, then fall back."""
        if not 1 <= attempts <= ATTEMPTS_MAX:
            raise SlotError(f"boot: {attempts} attempts are not within 1..{ATTEMPTS_MAX}")
        state = self.read()
        if slot == state.running or slot == state.active:
            raise SlotError(f"boot: slot {slot} is what the device runs from; it cannot be tried")
        self._store(BootState(state.active, slot, attempts))

    def started(self) -> None:
        """Count one attempt of an armed slot; with none left, fall back. Nothing to do if none is armed."""
        state = self.read()
        if state.trial is None:
            return
        if state.attempts_left == 0:
            self._store(BootState(state.active, failed=state.trial))
        else:
            self._store(replace(state, attempts_left=state.attempts_left - 1, tried=state.tried + 1))

    def commit(self) -> None:
        """The slot on trial becomes the active one; `SlotError` unless it was started."""
        state = self.read()
        if state.trial is None or state.tried == 0:
            raise SlotError("boot: no slot is on trial, so there is none to commit")
        self._store(BootState(state.trial))

    def rollback(self) -> None:
        """Drop the armed slot, and what is remembered of a failed one; the active one stays."""
        state = self.read()
        if state != BootState(state.active):
            self._store(BootState(state.active))

    def _load(self) -> tuple[int, BootState, int]:
        """Sequence, state and the number of the copy to write next."""
        found = []
        present = 0
        for number, path in enumerate(self._paths):
            try:
                data = read_whole(self._files, path, COPY_SIZE)
            except OSError as error:
                raise SlotError(f"boot: cannot read {path}: {error.strerror or error}") from error
            present += bool(data)
            decoded = decode(data or b"")
            if decoded is not None:
                found.append((*decoded, 1 - number))
        if found:
            return max(found, key=lambda item: item[0])
        if present == len(self._paths):
            raise SlotError(
                f"boot: both copies of the boot environment are damaged ({self._paths[0]})",
                kept="no slot is written while it is unknown which one runs",
                next_step=f"find out which slot runs; with both files removed it is {self._default.active}",
            )
        return 0, self._default, 0

    def _store(self, state: BootState) -> None:
        sequence, _, number = self._load()
        if sequence == 0:
            # The state before the first change is written too, so that from now on one damaged copy
            # is never taken for a device that was never armed.
            self._write(self._paths[0], encode(1, self._default))
            sequence, number = 1, 1
        self._write(self._paths[number], encode(sequence + 1, state))

    def _write(self, path: str, data: bytes) -> None:
        try:
            if not self._files.exists(path):
                self._files.make_directories(parent_of(path))
            file = self._files.open(path, write=True, create=True)
            try:
                file.write_at(0, data)
                file.sync()
            finally:
                file.close()
            self._files.sync_directory(parent_of(path))
        except OSError as error:
            raise SlotError(
                f"boot: cannot write {path}: {error.strerror or error}",
                kept="the other copy of the boot environment is untouched and counts",
            ) from error


def encode(sequence: int, state: BootState) -> bytes:
    """One copy of the environment, padded with newlines to `COPY_SIZE` so that writes never resize."""
    body = (
        f"sequence={sequence}\nactive={state.active}\ntrial={state.trial or ''}\n"
        f"attempts_left={state.attempts_left}\ntried={state.tried}\nfailed={state.failed or ''}\n"
    ).encode()
    text = body + f"crc32={zlib.crc32(body):08x}\n".encode()
    if len(text) > COPY_SIZE:
        raise SlotError(f"boot: the names of the slots are too long ({len(text)} bytes)")
    return text.ljust(COPY_SIZE, b"\n")


def decode(data: bytes) -> tuple[int, BootState] | None:
    """Sequence and state of one copy; None when it is damaged, torn or empty."""
    body, mark, rest = data.partition(b"crc32=")
    if not mark or rest[:8] != f"{zlib.crc32(body):08x}".encode() or rest[8:].strip(b"\n"):
        return None
    values = dict(line.split("=", 1) for line in body.decode().splitlines())
    state = BootState(
        values["active"],
        values["trial"] or None,
        int(values["attempts_left"]),
        int(values["tried"]),
        values["failed"] or None,
    )
    return int(values["sequence"]), state
