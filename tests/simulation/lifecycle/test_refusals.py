"""What is expired, old, forged or judged by a wrong clock: refused with the device's own error, or not."""

from __future__ import annotations

import json

import pytest

from p2p.errors import TrustError
from p2p.trust import Meant
from sim.world.trust import EPOCH, RememberingReader, VirtualRepository
from tests.simulation.lifecycle.solo import Solo, manifest

DAY = 86_400.0


def lived(solo: Solo, seconds: float = 120.0) -> Solo:
    solo.life.power_on()
    solo.run(seconds)
    return solo


def test_a_replayed_timestamp_changes_nothing_and_newer_news_does() -> None:
    solo = Solo()
    old = solo.repository.files["metadata/timestamp.json"]
    solo.publish()
    lived(solo)
    assert solo.log.floor == 2
    solo.publish(3)
    solo.origin.stale["metadata/timestamp.json"] = old
    solo.run(200)
    assert "rollback" in solo.log.refusals
    assert solo.log.floor == 2
    solo.origin.stale.clear()
    solo.run(200)
    assert solo.log.floor == 3


def test_an_origin_that_lags_is_overtaken_by_a_peer() -> None:
    solo = Solo()
    stale = solo.repository.files["metadata/timestamp.json"]
    solo.publish()
    solo.origin.stale["metadata/timestamp.json"] = stale
    solo.swarm.claims["peer"] = (1, solo.repository.timestamp_version)
    solo.swarm.peers["peer"] = {"timestamp.json": solo.repository.files["metadata/timestamp.json"]}
    lived(solo)
    assert solo.log.floor == 2


def test_a_peer_leads_where_the_origin_is_down_but_never_back() -> None:
    solo = Solo()
    old = solo.repository.files["metadata/timestamp.json"]
    solo.publish()
    lived(solo)
    solo.origin.down = True
    solo.swarm.claims["peer"] = (1, 99)
    solo.swarm.peers["peer"] = {"timestamp.json": old}
    before = solo.life.timestamp()
    solo.run(200)
    assert solo.life.timestamp() == before
    assert solo.life.state == "committed"


def test_metadata_that_nobody_signs_again_expires() -> None:
    solo = Solo()
    solo.publish()
    solo.kernel.run(15 * DAY)
    lived(solo)
    assert solo.log.refusals[0] == "expired"
    assert solo.log.floor == 0
    assert solo.repository.sign_again(solo.kernel.now)
    solo.run(200)
    assert solo.log.floor == 2


@pytest.mark.parametrize("name", ["metadata/timestamp.json", "metadata/2.root.json"])
def test_a_forged_file_is_refused(name: str) -> None:
    solo = Solo()
    solo.publish()
    forger = VirtualRepository(99, ["gw"])
    forger.publish_release(manifest(7), 0.0)
    forger.publish_order(manifest(7), 0.0)
    forger.rotate_online(0.0)
    solo.origin.stale[name] = forger.files[name]
    lived(solo)
    assert "signature" in solo.log.refusals
    assert solo.log.floor == 0
    solo.origin.stale.clear()
    solo.run(200)
    assert solo.log.floor == 2


def test_a_new_online_key_is_followed() -> None:
    solo = Solo()
    solo.publish()
    lived(solo)
    solo.repository.rotate_online(solo.kernel.now)
    solo.publish(3)
    solo.run(200)
    assert solo.log.floor == 3
    assert solo.swarm.held["2.root.json"] == 2


@pytest.mark.parametrize(
    ("error_s", "reason"),
    [
        (-60 * 365 * DAY, None),  # 1970: the image's build time and the timestamp's own are floors
        (-3600.0, None),
        (10 * DAY, None),
        (20 * DAY, "expired"),  # plausible, so it is believed
        (40 * 365 * DAY, None),  # so far ahead that it is taken for broken
    ],
)
def test_clocks_that_are_wrong(error_s: float, reason: str | None) -> None:
    solo = Solo(clock_error_s=error_s)
    solo.publish()
    lived(solo)
    assert (reason in solo.log.refusals) if reason else (solo.log.refusals == [])
    assert solo.log.floor == (0 if reason else 2)
    solo.clock.error_s = 0.0
    solo.run(300)
    assert solo.log.floor == 2


def test_an_order_for_a_manifest_that_was_not_signed_installs_nothing() -> None:
    solo = Solo()
    solo.repository.publish_order(manifest(2), 0.0)
    lived(solo)
    assert solo.life.reason == "no-manifest"
    solo.repository.publish_release(manifest(2), solo.kernel.now)
    solo.run(200)
    assert solo.log.floor == 2


def test_thresholds_hold() -> None:
    repository = VirtualRepository(1, ["gw"], thresholds={"orders": 2})
    document = json.loads(repository.files["metadata/1.orders-gw.json"])
    assert len(document["signatures"]) == 2


def test_the_remembering_reader_says_what_the_plain_one_says() -> None:
    repository, other = VirtualRepository(1, ["gw"]), VirtualRepository(2, ["gw"])
    reader = RememberingReader()
    first = reader.read_root(repository.root, None)
    assert reader.read_root(repository.root, None) is first
    for _ in range(2):
        with pytest.raises(TrustError) as refused:
            reader.read_root(other.files["metadata/1.root.json"], first)
        assert refused.value.reason == "signature"


def test_the_same_seed_signs_the_same_bytes() -> None:
    def files(seed: int) -> dict[str, bytes]:
        repository = VirtualRepository(seed, ["gw"])
        repository.publish_release(manifest(), 5.0)
        repository.publish_order(manifest(), 6.0)
        return repository.files

    assert files(1) == files(1)
    assert files(1) != files(2)


def test_release_for_gives_what_the_repository_means() -> None:
    solo = Solo()
    order = solo.publish()
    lived(solo, 5.0)
    decision = solo.log.decisions[-1]
    assert isinstance(decision, Meant)
    assert decision.order == order
    assert solo.clock.read(0.0) == EPOCH


def test_an_origin_without_its_timestamp_is_not_said_to_have_nothing_newer() -> None:
    solo = lived(Solo())
    told = solo.swarm.told
    assert told > 0
    solo.origin.out.add("timestamp.json")
    solo.run(600)
    assert solo.swarm.told == told
    solo.origin.out.clear()
    solo.run(120)
    assert solo.swarm.told > told


def test_who_claims_what_nobody_gives_makes_a_device_ask_seldom() -> None:
    solo = lived(Solo(poll_s=3600.0), 4000.0)
    asked = solo.origin.asked.count("timestamp.json")
    solo.swarm.peers["liar"] = {}
    for n in range(240):
        solo.swarm.claims["liar"] = (1, 1000 + n)
        solo.life.ask_now(claimed="liar")
        solo.run(30.0)
    assert solo.origin.asked.count("timestamp.json") - asked <= 6, "two hours"
