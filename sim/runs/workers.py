"""Where the runs of a sweep happen: processes of this machine, or the workers of a Dask cluster.

Both take (scenario as TOML, seed) and give back a `KeptRun` or a `Failure`, in the order in which they end.
A worker that dies takes only its own run with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from p2p.errors import OperatorError, SlipstreamError
from sim.runs.keep import KeptRun

__all__ = ["DaskWorkers", "Done", "Failure", "LocalWorkers", "Workers", "end_pool", "start_pool"]

CONNECT_S = 15


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has no outcome. `traceback` is empty for errors that explain themselves."""

    error: str
    traceback: str = ""


Job: TypeAlias = tuple[str, int]
Done: TypeAlias = KeptRun | Failure


class Workers(Protocol):
    """Whatever runs jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Done]]:
        """The number of each job and what became of it, as soon as it is known."""


def run_job(text: str, seed: int) -> Done:
    """One run, in whatever process this is called; never raises an `Exception`."""
    from sim.runs.one import run_one
    from sim.scenario.reading import parse_scenario

    try:
        scenario = parse_scenario(text.encode(), source="swept scenario", directory=Path("/"))
        return run_one(scenario, seed)
    except SlipstreamError as error:
        return Failure(error.diagnostics())
    except Exception as error:  # a defect of one run must not end the others
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


class LocalWorkers:
    """`count` processes of this machine (default: one per core). When one dies, what ran beside it is
    run again, one at a time, so that the culprit is known."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or _cores()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Done]]:
        waiting = list(range(len(jobs)))[::-1]
        suspects: list[int] = []
        while waiting or suspects:
            alone = bool(suspects)
            queue, width = (suspects, 1) if alone else (waiting, min(self.count, len(waiting)))
            running: dict[Future[Done], int] = {}
            pool = start_pool(width)
            broken = False
            try:
                while (queue and not broken) or running:
                    while queue and len(running) < width and not broken:
                        number = queue.pop()
                        running[pool.submit(run_job, *jobs[number])] = number
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        number = running.pop(future)
                        try:
                            yield number, future.result()
                        except BrokenProcessPool:
                            broken = True
                            if alone:
                                yield number, Failure("its process died (out of memory, or killed)")
                            else:
                                suspects.append(number)
            finally:
                end_pool(pool)


class DaskWorkers:
    """The cluster whose scheduler is at `address`, such as `tcp://10.0.0.5:8786`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Done]]:
        try:
            from distributed import Client, as_completed
        except ModuleNotFoundError as error:
            raise OperatorError(
                "a sweep on a cluster needs slipstream[cluster]",
                next_step="pip install 'slipstream[cluster]', here and on the workers, or leave --dask out",
            ) from error
        try:
            connect: Any = Client
            client = connect(self.address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"no Dask scheduler answers at {self.address}: {error}",
                kept="every run that was finished before",
                next_step="give the address that `dask scheduler` prints",
            ) from error
        with client:
            futures: dict[Any, int] = {
                client.submit(run_job, text, seed, pure=False, key=f"slipstream-{number}-{seed}"): number
                for number, (text, seed) in enumerate(jobs)
            }
            ended: Any = as_completed
            for future in ended(list(futures), loop=client.loop):
                try:
                    result: Done = future.result()
                except Exception as error:  # the cluster's own: a lost worker, another version
                    result = Failure(f"{type(error).__name__}: {error}")
                number = futures.pop(future)
                future.release()
                yield number, result


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_pool(width: int) -> ProcessPoolExecutor:
    """So many processes; to be ended by `end_pool`."""
    return ProcessPoolExecutor(width, multiprocessing.get_context("spawn"), initializer=_quiet)


def end_pool(pool: ProcessPoolExecutor) -> None:
    """End a pool, whatever it is at; its own thread too, which the end of Python would find half gone."""
    for process in multiprocessing.active_children():
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


def _quiet() -> None:
    """An interrupt of the terminal is for the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
