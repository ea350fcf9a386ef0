"""Origins that fail, lie and dawdle: nothing wrong is kept, and the update ends when the fault does.

Each test says what the fault was, that it was met, and that the old slot is as it was; the twin is the
same device with the same origin once the fault is over.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import pytest
import trio

from p2p.errors import OriginError
from tests.support.fleet import DIGESTS, IMAGES, Device, FleetRig, flip
from tests.support.hostile_origin import Answer, Fault, HostileOrigin, Request

pytestmark = pytest.mark.usefixtures("quick")


def changed(answer: Answer, **changes: object) -> Answer:
    return dataclasses.replace(answer, **changes)


def with_header(answer: Answer, **headers: str) -> Answer:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return changed(answer, headers={**answer.headers, **named})


def flipped(_: Request, answer: Answer) -> Answer:
    return changed(answer, body=flip(answer.body))


def truncated(_: Request, answer: Answer) -> Answer:
    return changed(answer, send_max=len(answer.body) // 2)


def dripping(_: Request, answer: Answer) -> Answer:
    return changed(answer, block=1, pause_s=0.05)


def silent(_: Request, answer: Answer) -> Answer:
    return changed(answer, hold=trio.Event())


def range_ignored(_: Request, answer: Answer) -> Answer:
    return Answer("200 OK", {"Content-Length": str(8_000_000)}, answer.body)


def wrong_content_range(request: Request, answer: Answer) -> Answer:
    start, stop = request.start or 0, request.stop or 0
    return with_header(answer, Content_Range=f"bytes {start + 1}-{stop}/{8_000_000}")


def absurd_length(_: Request, answer: Answer) -> Answer:
    return with_header(answer, Content_Length=str(10**30))


def endless(_: Request, answer: Answer) -> Answer:
    headers = {k: v for k, v in answer.headers.items() if k != "Content-Length"}
    return changed(answer, headers=headers, body=answer.body + bytes(1 << 20))


def not_there(_: Request, answer: Answer) -> Answer:
    return Answer("404 Not Found", {"Content-Length": "0"}, b"")


def server_error(_: Request, answer: Answer) -> Answer:
    return Answer("500 Internal Server Error", {"Content-Length": "0"}, b"")


def no_http(_: Request, answer: Answer) -> Answer:
    return Answer("\x00\xff nonsense\r\n\r\n", {}, b"\x00" * 100, send_max=100)


def only(digest: bytes, fault: Callable[[Request, Answer], Answer], times: int = 1) -> Fault:
    """The fault for the first `times` answers of one object."""

    def apply(request: Request, answer: Answer) -> Answer | None:
        return fault(request, answer) if request.is_for(digest) and request.count < times else None

    return apply


def assert_updated(device: Device, version: str = "2.0") -> None:
    assert device.running_version() == version
    assert device.slot("a").read_bytes() == IMAGES["1.0"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (flipped, "bad-bytes"),
        (truncated, "truncated"),
        (dripping, "too-slow"),
        (silent, "too-slow"),
        (range_ignored, "range-ignored"),
        (wrong_content_range, "wrong-range"),
        (absurd_length, "protocol"),
        (endless, "too-long"),
        (not_there, "not-found"),
        (server_error, "status"),
        (no_http, "protocol"),
    ],
)
async def test_frames_that_come_wrong_are_fetched_again(
    fleet: FleetRig,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[Request, Answer], Answer],
    reason: str,
) -> None:
    caplog.set_level(logging.INFO)
    fleet.order("2.0")
    frames = fleet.pack("2.0", "1.0").frames
    async with HostileOrigin(fleet.repository.directory, only(frames.sha256, fault)).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        assert await device.once() is None
    assert origin.faults == 1
    assert f": {reason}: " in caplog.text
    assert_updated(device)


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        *((what, flipped) for what in ("index", "manifest", "order", "phase")),
        ("index", not_there),
        ("manifest", truncated),
        ("order", endless),
        ("phase", absurd_length),
    ],
)
async def test_a_small_object_that_comes_wrong_installs_nothing(
    fleet: FleetRig, what: str, fault: Callable[[Request, Answer], Answer]
) -> None:
    order = fleet.order("2.0")
    state = fleet.repository.state()
    digest = {
        "index": fleet.pack("2.0", "1.0").index.sha256,
        "manifest": order.manifest,
        "order": state.target("orders-engine", order.target_path).sha256,
        "phase": state.target("phases", f"phases/engine/{order.id}.json").sha256,
    }[what]
    async with HostileOrigin(fleet.repository.directory, only(digest, fault, times=99)).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        failure = await device.once()
        assert isinstance(failure, OriginError), failure
        assert origin.faults > 0
        assert device.running_slot == "a"
        assert device.slot("a").read_bytes() == IMAGES["1.0"]
        assert device.valid_slots() == {"a": DIGESTS["1.0"].hex()}
        assert not any(digest.hex() in p.name for p in device.directory.rglob("*"))
        origin.fault = None
        assert await device.once() is None
    assert_updated(device)


@pytest.mark.parametrize(
    "name", ["timestamp", "snapshot", "targets", "product-engine", "orders-engine", "phases"]
)
async def test_metadata_with_a_flipped_bit_installs_nothing(fleet: FleetRig, name: str) -> None:
    fleet.order("2.0")

    def fault(request: Request, answer: Answer) -> Answer | None:
        hit = request.path.startswith("metadata/") and request.path.endswith(f"{name}.json")
        return flipped(request, answer) if hit else None

    async with HostileOrigin(fleet.repository.directory, fault).serving() as origin:
        device = fleet.device("d1", origin=origin.url)
        failure = await device.once()
        assert failure is not None
        assert origin.faults > 0
        assert failure.exit_code == (4 if name == "timestamp" else 7)  # what has a digest is looked for on
        assert device.valid_slots() == {"a": DIGESTS["1.0"].hex()}
        origin.fault = None
        assert await device.once() is None
    assert_updated(device)
