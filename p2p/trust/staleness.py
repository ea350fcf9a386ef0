"""When expired metadata may still be gone by: where a signed order says so for this device, for a while.

A site without a WAN sees no new timestamp until somebody brings one. The people who may deploy can say
beforehand, in the order itself, which devices may install it from metadata that has expired, and until
when (`Order.allow_stale`). Only what the online key signs may have expired: timestamp, snapshot and phase
states. Roots and the roles of offline keys must be current, nothing goes back to an older version, and the
release-counter floor holds. What such an exception gives up is that the order can be stopped in time.
"""

from __future__ import annotations

from p2p.content.order import Member
from p2p.errors import TrustError
from p2p.trust.client import TrustClient
from p2p.trust.need import Steps
from p2p.trust.policy import Decision, Meant
from p2p.trust.release import Question, release_for


def release_despite_expiry(client: TrustClient, question: Question, now: float) -> Steps[Meant]:
    """As `release_for`, once that was refused as `expired`: what an excepted order means for this device.

    Raises `TrustError("expired")` when there is none, and then nothing is kept of what was seen but
    revocations, which are never too old to count; other errors as `release_for`. After it, the client holds
    expired metadata, so the next `release_for` is refused as `expired` again and leads here, until the
    exception ends or newer metadata comes.
    """
    copy = client.lenient_copy()
    decision = yield from release_for(copy, question, now)
    if not excused(decision, question.member, copy.time):
        raise TrustError(
            "expired",
            "the metadata has expired, and no order in it lets this device go by expired metadata now",
            kept="what is installed goes on running",
            next_step="bring newer metadata, or order the release with `--allow-stale` for this device",
        )
    assert isinstance(decision, Meant)
    client.adopt(copy)
    return decision


def excused(decision: Decision, member: Member, time: float) -> bool:
    """Whether the order that decided lets `member` go by expired metadata at trusted `time`."""
    return isinstance(decision, Meant) and decision.order.excuses_staleness(member.device, time)
