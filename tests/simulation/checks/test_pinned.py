"""What the soak found, mended: each scenario with the seed that showed it, and what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.checks.checked import Checks, run_checked
from sim.scenario.reading import parse_scenario

HERE = Path(__file__).parent / "pinned"

FOUND = (
    # An idle complete node never planned anew, so it never had the full pack's index and gave no chunk: the
    # others fetched the full pack.
    ("complete-without-full-index", 8, 1.06),
    # A vehicle that started anew had the index on its disk, but its node did not: no chunks without a WAN.
    ("carrier-with-its-own-index", 85, 1.06),
    # An index out of the node's own cache was only looked at with the next event, which an idle node has not.
    ("own-index-not-delivered", 58, 1.06),
    # A device that had fetched for its site rebooted, and nobody knew that it would be back with the image;
    # back, it is connected before it has tried what it runs and offers it. (A 2.0)
    ("comes-while-it-reboots", 19, 1.001),
    # All that were done left at once, although a peer was connected that was about to begin. (A 3.0)
    ("comes-while-they-leave", 44, 1.001),
    # Those of the next phase saw who was complete, but forgot it, not being at the image. (A 28)
    ("phase-opens-while-they-reboot", 113, 1.001),
    # A device with a smaller delta came while another fetched its own pack, and that went on. (A 1.44)
    ("cheaper-base-comes-later", 157, 1.001),
    # A smaller pack than the rest of the one under way was fetched beside it. (A 1.38)
    ("packs-of-nearly-the-same-cost", 425, 1.001),
    # Who could not know how large the frames of others are gave them 30 s, then fetched alone. (A 1.61)
    ("patience-with-unknown-packs", 42, 1.001),
    # When the index of one pack came, leases on another were cut by its frames. (A 1.33)
    ("lease-cut-by-another-pack", 289, 1.001),
    # On a slow radio a gateway's signs of life came behind pieces, and it was taken for stalled. (A 1.5)
    ("renewals-behind-pieces", 335, 1.001),
    # A newcomer that knew all by the roster began with what another fetched, before it heard so. (A 2.0)
    ("fetches-before-it-heard", 100045003, 1.001),
    # On a slow radio a request waited behind a large piece to the same peer, who was taken for late. (A 1.25)
    ("request-behind-own-piece", 5076, 1.001),
    # Nothing had come while there was no link: back at a station, each fetched alone. (A 1.47)
    ("link-for-seconds-at-a-time", 0, 1.001),
    # A device without a pack's index was not told of how many pieces it is, took it for not begun, and
    # fetched the last of the full pack, which was less. (A 1.6)
    ("share-of-a-pack-without-its-index", 3, 1.001),
    # Not the swarm's: an origin said to be down at one site is down for all, which the rule did not know.
    ("origin-down-is-felt-everywhere", 149470507, 1.11),
    # A peer that claims news and gives an old timestamp kept one without a WAN from asking others, for ever.
    ("stale-peer-of-one-without-wan", 149470770, 1.001),
    # Not the swarm's: two faults put clocks ahead by 23 days, by which all timestamps have expired.
    ("clocks-ahead-of-all-expiry", 149470829, 1.001),
    # Liars that came back were judged anew over each connection: they were waited for again, for ever.
    ("liars-that-come-back", 35, 1.001),
    # Counting on nobody, a device took the full pack, as no peer that it believed had patches. (A 7.6)
    ("alone-with-its-delta", 10, 1.001),
    # Two lost patience at once, when leases of others were given up, and fetched the same. (A 1.45)
    ("alone-at-the-same-moment", 1162, 1.001),
    # On its own in an outage, a device took no more chunks of peers, its own pack being another. (A 1.41)
    ("alone-beside-another-pack", 5, 1.001),
    # After an outage whoever's turn it was fetched anew what another had kept most of, and who had lost
    # patience meanwhile fetched its own pack beside that. What comes before one hears is lost. (A 1.25)
    ("alone-beside-another-pack", 2, 1.006),
    ("alone-beside-another-pack", 10, 1.006),
    # Whose lease had ended began the next, but said so behind a large piece: another did the same. (A 1.5)
    ("next-lease-behind-a-piece", 996, 1.001),
    # Not the swarm's: those with a WAN filled their connections with each other, by the roster, and machines
    # of a VLAN that have none were left without a way out. In the graph that they keep since, two begin the
    # same frame at one moment, and 16 kB have come before one of them hears it.
    ("neighbours-without-room", 18, 1.006),
    # A first patch came as one message over a saturated radio, was taken for lost, and fetched again. (A 2.1)
    ("first-patch-on-a-slow-radio", 81200678, 1.25),
)


@pytest.mark.parametrize(("name", "seed", "amplification_max"), FOUND)
def test_what_was_found_stays_mended(name: str, seed: int, amplification_max: float) -> None:
    path = HERE / f"{name}.toml"
    scenario = parse_scenario(path.read_bytes(), source=path.name, directory=HERE)
    checks = Checks()
    outcome = run_checked(scenario, seed, checks=checks)
    assert outcome.violations == ()
    assert checks.amplification is not None
    assert checks.amplification <= amplification_max
