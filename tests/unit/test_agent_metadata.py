"""`MetadataSource`: the origin first, peers only where it is of no use, and whose bad bytes stop what."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.agent.imported import ImportedBundle
from p2p.agent.metadata import MetadataSource
from p2p.content.digests import Digest, sha256
from p2p.errors import OriginError, TrustError
from p2p.trust import Need, NeedKind


class Asked:
    """Stands for the driver and the origin; logs who was asked for what."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.news_from: dict[str, tuple[int, int]] = {}
        self.paths: dict[Digest, str] = {}
        self.origin: dict[str, bytes | OriginError] = {}
        self.peers: dict[tuple[str, str], bytes] = {}
        self.held: dict[Digest, bytes] = {}

    # The driver, and its small objects

    @property
    def objects(self) -> Asked:
        return self

    async def object(self, digest: Digest, size: int) -> bytes:
        self.log.append(("exchange", self.paths[digest]))
        if digest not in self.held:
            raise OriginError("not-found")
        return self.held[digest]

    # Both: a peer is asked with two names, the origin with a name and a size

    async def metadata(self, who: str, what: str | int) -> bytes | None:
        if isinstance(what, str):
            self.log.append((who, what))
            return self.peers.get((who, what))
        self.log.append(("origin", who))
        found = self.origin.get(who, OriginError("not-found"))
        if isinstance(found, OriginError):
            raise found
        return found


def need(name: str, role: str, *, version: int | None = None, error: TrustError | None = None) -> Need:
    return Need(
        NeedKind.METADATA,
        name,
        role,
        version,
        None,
        None,
        1000,
        mutable=True,
        may_be_absent=True,
        error=error,
    )


TIMESTAMP = need("timestamp.json", "timestamp")
ROOT = need("3.root.json", "root", version=3)


def source(asked: Asked, *, wan: bool = True) -> MetadataSource:
    return MetadataSource(asked, asked, ImportedBundle(Path("nowhere")), wan=wan, known=0)


async def test_the_origin_is_asked_first_and_alone() -> None:
    asked = Asked()
    asked.origin["timestamp.json"] = b"t"
    asked.news_from["d2"] = (2, 99)
    found = source(asked)
    assert await found.answer(TIMESTAMP) == b"t"
    assert asked.log == [("origin", "timestamp.json")]
    assert found.origin_reached


@pytest.mark.parametrize("why", ["unreachable", "not-found", "too-slow"])
async def test_peers_are_asked_where_the_origin_does_not_give_it(why: str) -> None:
    asked = Asked()
    asked.origin["timestamp.json"] = OriginError(why)
    asked.news_from.update({"old": (1, 4), "new": (1, 7), "none": (0, 0)})
    asked.peers["new", "timestamp.json"] = b"t"
    assert await source(asked).answer(TIMESTAMP) == b"t"
    assert asked.log == [("origin", "timestamp.json"), ("new", "timestamp.json")]


async def test_no_root_at_the_origin_means_that_there_is_none() -> None:
    asked = Asked()
    asked.news_from["d2"] = (9, 9)
    found = source(asked)
    assert await found.answer(ROOT) is None
    assert asked.log == [("origin", "3.root.json")]
    assert found.origin_reached


async def test_without_wan_only_peers_are_asked_and_only_for_what_they_may_have() -> None:
    asked = Asked()
    asked.news_from.update({"behind": (2, 9), "ahead": (3, 1)})
    asked.peers["ahead", "3.root.json"] = b"r"
    assert await source(asked, wan=False).answer(ROOT) == b"r"
    assert asked.log == [("ahead", "3.root.json")]


async def test_nobody_at_all_is_said_by_none() -> None:
    assert await source(Asked(), wan=False).answer(TIMESTAMP) is None


async def test_bad_bytes_of_a_peer_do_not_stop_the_next_one_nor_what_is_held() -> None:
    asked = Asked()
    asked.news_from.update({"bad": (1, 9), "good": (1, 8)})
    asked.peers.update({("bad", "timestamp.json"): b"bad", ("good", "timestamp.json"): b"t"})
    found = source(asked, wan=False)
    assert await found.answer(TIMESTAMP) == b"bad"
    again = need("timestamp.json", "timestamp", error=TrustError("signature", "a test"))
    assert await found.answer(again) == b"t"
    assert await found.answer(again) is None


@pytest.mark.parametrize(("given", "taken"), [(4, "honest"), (9, "first")])
async def test_a_peer_that_gives_an_older_timestamp_than_it_claims_is_passed_over(
    given: int, taken: str
) -> None:
    """What it gives may be just what is held, which the trust client takes, and asks nobody else."""
    asked = Asked()
    asked.news_from.update({"first": (1, 9), "honest": (1, 8)})
    for device, version in (("first", given), ("honest", 8)):
        asked.peers[device, "timestamp.json"] = b'{"signed": {"version": %d}}' % version
    found = await source(asked, wan=False).answer(TIMESTAMP)
    assert found == asked.peers[taken, "timestamp.json"]


async def test_bad_bytes_of_the_origin_are_an_error_unless_a_peer_has_better_ones() -> None:
    asked = Asked()
    asked.origin["timestamp.json"] = b"bad"
    again = need("timestamp.json", "timestamp", error=TrustError("signature", "a test"))
    found = source(asked)
    assert await found.answer(TIMESTAMP) == b"bad"
    with pytest.raises(OriginError):
        await found.answer(again)
    asked.news_from["good"] = (1, 8)
    asked.peers["good", "timestamp.json"] = b"t"
    found = source(asked)
    assert await found.answer(TIMESTAMP) == b"bad"
    assert await found.answer(again) == b"t"


async def test_what_has_a_digest_goes_through_the_exchange_once() -> None:
    asked = Asked()
    data = b"snapshot"
    asked.held[sha256(data)] = data
    wanted = Need(NeedKind.METADATA, "5.snapshot.json", "snapshot", 5, sha256(data), len(data), 1000)
    found = source(asked)
    assert await found.answer(wanted) == data
    assert asked.log == [("exchange", "metadata/5.snapshot.json")]
    refused = Need(
        NeedKind.METADATA, "5.snapshot.json", "snapshot", 5, sha256(data), len(data), 1000,
        error=TrustError("expired", "a test"),
    )  # fmt: skip
    with pytest.raises(OriginError, match="a test"):
        await found.answer(refused)


@pytest.mark.parametrize(
    ("gives", "refused", "told"),
    [
        ({}, False, False),
        ({"timestamp.json": OriginError("too-slow")}, False, False),
        ({"3.root.json": b"r"}, False, False),
        ({"timestamp.json": b"t"}, True, False),
        ({"timestamp.json": b"t"}, False, True),
    ],
)
async def test_only_a_timestamp_of_the_origin_that_is_accepted_says_that_it_has_nothing_newer(
    gives: dict[str, bytes | OriginError], refused: bool, told: bool
) -> None:
    asked = Asked()
    asked.origin.update(gives)
    asked.news_from["peer"] = (1, 8)
    asked.peers["peer", "timestamp.json"] = b"t"
    found = source(asked)
    await found.answer(ROOT)
    assert await found.answer(TIMESTAMP) == b"t"
    if refused:
        again = need("timestamp.json", "timestamp", error=TrustError("rollback", "a test"))
        assert await found.answer(again) == b"t"
    assert (found.origin_reached, found.origin_told) == (True, told)
