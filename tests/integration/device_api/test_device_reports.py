"""Reports that one device hands in for many: what is taken, what is refused, and what that costs others."""

from __future__ import annotations

import asyncio
import gzip
import uuid
from datetime import timedelta
from typing import Any

import pytest

from coordinator.api.device import DeviceApi
from coordinator.api.operator import device_facts, site_facts
from coordinator.api.reports import REPORT_AGE_MAX_S, Reports
from p2p.content import limits
from tests.support.fleet_repository import FakeDevice, Fleet, Running

DAY_S = 86_400


@pytest.fixture
def site(server: Running) -> list[FakeDevice]:
    """Three devices of a site of their own; the first hands in."""
    name = f"site-{uuid.uuid4().hex[:12]}"
    devices = [FakeDevice(f"{name}-{n}") for n in range(3)]
    for device in devices:
        assert server.enroll(device, server.voucher(site=name)).status == 201
    return devices


def facts(server: Running, device: FakeDevice) -> dict[str, Any]:
    return device_facts(server.coordinator.database, device.name, server.clock.seconds(), 300.0)


def results(server: Running, by: FakeDevice, *reports: bytes) -> list[str]:
    answer = server.hand_in(by, *reports)
    assert answer.status == 200, answer.body
    words: list[str] = answer.json["results"]
    return words


def test_a_batch_is_taken_and_says_who_wrote_and_who_brought_it(
    server: Running, fleet: Fleet, site: list[FakeDevice]
) -> None:
    lookout, one, two = site
    written = server.clock.seconds()
    batch = [d.report(1, written, state="committed", release="2.0") for d in (one, two, lookout)]
    fleet.clock.now += timedelta(minutes=30)
    assert results(server, lookout, *batch) == ["ok", "ok", "ok"]
    found = facts(server, one)
    assert (found["status"]["state"], found["status"]["release"]) == ("committed", "2.0")
    assert (found["seen_s_ago"], found["received_s_ago"]) == (1800, 0), "seen when it was written"
    assert found["via"] == lookout.name
    assert found["online"] is False, "half an hour is longer than five minutes, however it came"
    assert facts(server, lookout)["via"] is None, "its own"


def test_who_announces_to_be_quiet_is_not_offline_before_that_is_over(
    server: Running, fleet: Fleet, site: list[FakeDevice]
) -> None:
    lookout, one, two = site
    now = server.clock.seconds()
    reports = one.report(1, now, quiet_s=DAY_S), two.report(1, now)
    assert results(server, lookout, *reports) == ["ok", "ok"]
    fleet.clock.now += timedelta(seconds=DAY_S)
    (roster,) = [r for r in server.checkin(lookout).json["roster"] if r["device"] == one.name]
    assert roster["age_s"] == 0
    assert facts(server, one)["online"] is True
    assert facts(server, two)["online"] is False
    fleet.clock.now += timedelta(seconds=301)
    assert facts(server, one)["online"] is False
    found = site_facts(server.coordinator.database, facts(server, one)["site"], server.clock.seconds(), 300.0)
    assert found["devices_online"] == 0


def test_sums_of_peers_bytes_are_counted(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, two = site
    now = server.clock.seconds()
    short = one.report(1, now, ledger={"wan": 1, "peers": 70, "sent": 5})
    long = two.report(1, now, ledger={"wan": 2, "peers": {"a": 3, "b": 4}})
    assert results(server, lookout, short, long) == ["ok", "ok"]
    found = site_facts(server.coordinator.database, facts(server, one)["site"], now, 300.0)
    assert (found["wan_bytes"], found["peer_bytes"]) == (3, 77)


def test_a_report_that_was_handed_in_is_known_and_an_older_one_is_stale(
    server: Running, site: list[FakeDevice]
) -> None:
    lookout, one, two = site
    now = server.clock.seconds()
    old, new = one.report(4, now, release="1.0"), one.report(5, now, release="2.0")
    assert results(server, lookout, new) == ["ok"]
    assert results(server, two, new, old) == ["known", "stale"], "whoever replays them"
    assert facts(server, one)["status"]["release"] == "2.0"
    assert facts(server, one)["via"] == lookout.name
    assert results(server, two, one.report(6, now, release="2.1")) == ["ok"]


def test_a_check_in_makes_reports_before_it_stale(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, _ = site
    now = server.clock.seconds()
    held_back = one.report(7, now, release="1.0")
    assert server.checkin(one, release="2.0", sequence=8).json["sequence"] == 0, "what it had before"
    assert results(server, lookout, held_back) == ["stale"]
    assert facts(server, one)["status"]["release"] == "2.0"
    assert results(server, lookout, one.report(9, now, release="3.0")) == ["ok"]


def test_a_device_that_lost_its_count_is_told_it(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, _ = site
    assert results(server, lookout, one.report(40, server.clock.seconds())) == ["ok"]
    assert server.checkin(one, sequence=1).json["sequence"] == 40
    assert server.checkin(one, sequence=41).json["sequence"] == 40
    assert server.checkin(one, sequence=42).json["sequence"] == 41
    assert "sequence" not in server.checkin(one).json, "an older agent does not count"


def test_a_forged_report_is_refused_alone(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, two = site
    now = server.clock.seconds()
    true, other = one.report(1, now), two.report(1, now)
    forged = lookout.report(2, now, device=one.name, release="9.9")
    changed = one.report(3, now).replace(b'"release": "1.0"', b'"release": "9.9"')
    unknown = FakeDevice("nobody").report(1, now)
    assert results(server, lookout, forged, true, changed, unknown, other) == [
        "signature",
        "ok",
        "signature",
        "unknown-device",
        "ok",
    ]
    assert facts(server, one)["status"]["release"] == "1.0"


def test_a_signed_request_is_no_report(server: Running, site: list[FakeDevice]) -> None:
    """What the key signs elsewhere has not the prefix of reports before it."""
    lookout, one, _ = site
    line = one.report(1, server.clock.seconds())
    plain = FakeDevice.report(one, 1, server.clock.seconds(), key=_Unprefixed(one.key))
    assert results(server, lookout, plain, line) == ["signature", "ok"]


class _Unprefixed:
    """A key that leaves the prefix out."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def sign(self, data: bytes, algorithm: Any) -> bytes:
        signed: bytes = self._key.sign(data.removeprefix(b"slipstream-report-1\0"), algorithm)
        return signed


@pytest.mark.parametrize(
    "broken",
    [
        b"\n",
        b"no signature\n",
        b"AAAA {}\n",
        b"!" * 88 + b" {}\n",
        b"A" * 86 + b"== {}\n",
        b"A" * 86 + b"== [1]\n",
        b"A" * limits.REPORT_SIZE_MAX + b"\n",
    ],
)
def test_what_is_no_report_loses_nobody_elses(server: Running, site: list[FakeDevice], broken: bytes) -> None:
    lookout, one, _ = site
    good = one.report(1, server.clock.seconds())
    assert results(server, lookout, broken, good) == ["bad-report", "ok"]


def test_a_status_that_says_nonsense_is_refused(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, _ = site
    now = server.clock.seconds()
    assert results(server, lookout, one.report(1, now, listen_port=65_536)) == ["bad-report"]
    assert results(server, lookout, one.report(1, now, quiet_s=8 * DAY_S)) == ["bad-report"]
    assert results(server, lookout, one.report(0, now)) == ["bad-report"]
    assert results(server, lookout, one.report(1, now, quiet_s=7 * DAY_S)) == ["ok"]


@pytest.mark.parametrize(
    ("off", "word"),
    [(-REPORT_AGE_MAX_S - 1, "clock"), (-REPORT_AGE_MAX_S, "ok"), (301, "clock"), (300, "ok")],
)
def test_the_time_of_a_report_is_held_to_bounds(
    server: Running, site: list[FakeDevice], off: int, word: str
) -> None:
    lookout, one, _ = site
    assert results(server, lookout, one.report(1, server.clock.seconds() + off)) == [word]


def test_one_device_cannot_report_without_end(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, two = site
    now = server.clock.seconds()
    batch = [one.report(n, now) for n in range(1, 23)]
    assert results(server, lookout, *batch, two.report(1, now)) == ["ok"] * 20 + ["rate"] * 2 + ["ok"]


def test_who_hands_in_signs_for_it(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, _ = site
    report = one.report(1, server.clock.seconds())
    body = gzip.compress(report, mtime=0)
    stranger = FakeDevice("stranger")
    headers = stranger.sign(body, server.clock.seconds(), path="/api/v1/reports")
    refused = server.ask("POST", "/api/v1/reports", body, Content_Encoding="gzip", **headers)
    assert (refused.status, refused.error) == (401, "signature")
    checked_in = lookout.sign(body, server.clock.seconds())
    refused = server.ask("POST", "/api/v1/reports", body, Content_Encoding="gzip", **checked_in)
    assert (refused.status, refused.error) == (401, "signature"), "a signature for another path"
    assert results(server, lookout, report) == ["ok"]


def test_a_batch_is_bounded(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, _ = site
    report = one.report(1, server.clock.seconds())
    most = limits.REPORTS_PER_BATCH_MAX
    refused = server.hand_in(lookout, *[b"\n"] * (most + 1))
    assert (refused.status, refused.error) == (413, "too-large")
    bomb = gzip.compress(b"\n" * (limits.REPORT_BATCH_MAX + 1))
    refused = server.hand_in(lookout, body=bomb)
    assert (refused.status, refused.error) == (413, "too-large")
    cut = gzip.compress(report)[:-4]
    for body, status, error in [
        (cut, 400, "bad-request"),
        (gzip.compress(report) + b"more", 400, "bad-request"),
        (b"not gzip", 400, "bad-request"),
        (gzip.compress(report[:-1]), 400, "bad-request"),
        (gzip.compress(b""), 400, "bad-request"),
    ]:
        refused = server.hand_in(lookout, body=body)
        assert (refused.status, refused.error) == (status, error)
    refused = server.hand_in(lookout, body=report, coding="br")
    assert (refused.status, refused.error) == (415, "coding")
    assert (
        server.hand_in(lookout, report, *[b"\n"] * (most - 1), coding="identity").json["results"][0] == "ok"
    )


def test_a_new_key_begins_its_own_count(server: Running, site: list[FakeDevice]) -> None:
    lookout, one, _ = site
    now = server.clock.seconds()
    assert results(server, lookout, one.report(500, now)) == ["ok"]
    again = FakeDevice(one.name)
    assert (
        server.enroll(again, server.voucher(site=facts(server, one)["site"], device=one.name)).status == 201
    )
    assert results(server, lookout, one.report(501, now), again.report(1, now)) == ["signature", "ok"]


def test_a_new_certificate_for_the_same_key_does_not_make_old_reports_new(
    server: Running, site: list[FakeDevice]
) -> None:
    lookout, one, _ = site
    now = server.clock.seconds()
    kept = [one.report(1, now, release="1.0"), one.report(2, now, release="2.0")]
    assert results(server, lookout, *kept) == ["ok", "ok"]
    assert server.enroll(one, server.voucher(site=facts(server, one)["site"])).status == 201
    assert results(server, lookout, *kept) == ["stale", "known"], "somebody kept them"
    assert facts(server, one)["status"]["release"] == "2.0"
    assert results(server, lookout, one.report(3, now, release="3.0")) == ["ok"]


@pytest.mark.parametrize(
    "said",
    [
        {"release": "\ud800"},
        {"images": {"\udfff": "ab" * 32}},
        {"ledger": {"peers": {"\ud800": 1}}},
    ],
)
def test_a_report_of_what_is_no_text_loses_nobody_elses(
    server: Running, site: list[FakeDevice], said: dict[str, Any]
) -> None:
    """Half of a surrogate pair can be read out of JSON, but neither stored nor shown."""
    lookout, one, two = site
    now = server.clock.seconds()
    assert results(server, lookout, one.report(1, now, **said), two.report(1, now)) == ["bad-report", "ok"]
    refused = server.checkin(one, **said)
    assert (refused.status, refused.error) == (400, "bad-request")
    assert facts(server, two)["status"]["release"] == "1.0"


def test_a_full_batch_lets_other_requests_have_their_turn_between_its_reports(server: Running) -> None:
    coordinator = server.coordinator
    api = DeviceApi(
        coordinator.database, coordinator.authority, coordinator.repository.settings, server.clock.seconds
    )
    desk = Reports(api.database, api._key_of, api.reported, api.renewing)

    async def turns() -> int:
        """How often others had one while a batch was taken."""
        count, taking = 0, asyncio.create_task(desk.take(b"x\n" * limits.REPORTS_PER_BATCH_MAX, "d1", 0.0))
        while not taking.done():
            await asyncio.sleep(0)
            count += 1
        assert (await taking).results == ["bad-report"] * limits.REPORTS_PER_BATCH_MAX
        return count

    assert asyncio.run(turns()) >= limits.REPORTS_PER_BATCH_MAX
