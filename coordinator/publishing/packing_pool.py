"""A pool of packing children that survives the death of any of them.

Each worker thread owns one child process. A child that crashes or does not answer in time is replaced,
and its job is answered with None: that codec is passed over for that frame.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgpack

from coordinator.publishing.packing_child import HEAD
from p2p.content import limits
from p2p.content.digests import DIGEST_SIZE, Digest
from p2p.content.index import Chunk, Codec, Compression, Data, Patch
from p2p.delta.packing import DataJob, PatchJob
from p2p.errors import LocalError

JOB_TIMEOUT_S = 180.0
_META_MAX = 64 * limits.KIB
_T = TypeVar("_T")
_U = TypeVar("_U")


class PackingChild:
    """One child process over one pair of images; used by one thread at a time."""

    def __init__(
        self, target: Path, base: Path | None, *, timeout_s: float = JOB_TIMEOUT_S, module: str = ""
    ) -> None:
        module = module or "coordinator.publishing.packing_child"
        self._command = [sys.executable, "-m", module, str(target), *([] if base is None else [str(base)])]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def patch(self, codec: Codec, job: PatchJob) -> tuple[Patch, bytes] | None:
        """The frame of a patch job, or None where the codec made none, crashed or took too long."""
        view = [[r.offset, r.length] for r in job.view]
        match self._ask(["patch", int(codec), job.offset, job.length, view]):
            case ["patch", int(compression), int(delta_size), bytes(delta), bytes(output)], stored:
                return Patch(
                    codec, job.length, job.view, len(stored), Compression(compression), delta_size,
                    Digest(delta), Digest(output),
                ), stored  # fmt: skip
            case _:
                return None

    def data(self, job: DataJob) -> tuple[Data, bytes]:
        """The frame of a data job. Raises `LocalError` when no child can make it."""
        for _ in range(3):
            match self._ask(["data", job.offset, list(job.chunks)]):
                case ["data", int(compression), bytes(digests)], stored:
                    chunks = tuple(
                        Chunk(length, Digest(digests[i * DIGEST_SIZE : (i + 1) * DIGEST_SIZE]))
                        for i, length in enumerate(job.chunks)
                    )
                    return Data(len(stored), Compression(compression), chunks), stored
        raise LocalError(
            "the child processes that compress frames keep dying",
            kept="nothing was published",
            next_step="check free memory; run with fewer --workers",
        )

    def close(self) -> None:
        """End the child."""
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._process = None

    def _ask(self, request: list[object]) -> tuple[list[object], bytes] | None:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + self._timeout_s
        packed = msgpack.packb(request)
        try:
            process.stdin.write(HEAD.pack(len(packed), 0) + packed)
            size, stored_size = HEAD.unpack(_read(process.stdout.fileno(), HEAD.size, deadline))
            if size > _META_MAX or stored_size > limits.STORED_FRAME_MAX:
                raise EOFError
            result = msgpack.unpackb(_read(process.stdout.fileno(), size, deadline))
            stored = _read(process.stdout.fileno(), stored_size, deadline)
        except (OSError, EOFError, TimeoutError, ValueError):
            self.deaths += 1
            self.close()
            return None
        return result, stored


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while size:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError
        part = os.read(descriptor, min(size, limits.MIB))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class PackingPool:
    """Runs jobs on `workers` children and yields their results in order, a bounded number ahead."""

    def __init__(
        self,
        target: Path,
        base: Path | None,
        workers: int,
        *,
        timeout_s: float = JOB_TIMEOUT_S,
        module: str = "",
    ) -> None:
        self._new: Callable[[], PackingChild] = partial(
            PackingChild, target, base, timeout_s=timeout_s, module=module
        )
        self._ahead = workers * 3
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="packing")
        self._local = threading.local()
        self._children: list[PackingChild] = []
        self._lock = threading.Lock()

    @property
    def deaths(self) -> int:
        """Children that crashed or were killed for taking too long."""
        return sum(c.deaths for c in self._children)

    def map(self, work: Callable[[PackingChild, _T], _U], items: Iterable[_T]) -> Iterator[_U]:
        """`work(child, item)` for each item, results in the order of the items."""
        waiting: list[Future[_U]] = []
        for item in items:
            waiting.append(self._threads.submit(self._run, work, item))
            if len(waiting) >= self._ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    def _run(self, work: Callable[[PackingChild, _T], _U], item: _T) -> _U:
        child: PackingChild | None = getattr(self._local, "child", None)
        if child is None:
            child = self._local.child = self._new()
            with self._lock:
                self._children.append(child)
        return work(child, item)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=error is None, cancel_futures=True)
        with self._lock:
            for child in self._children:
                child.close()
