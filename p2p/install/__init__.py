"""Installing a release: states and transitions, the plan, and what to make of a crash. Pure."""

from __future__ import annotations

from p2p.install.machine import TRANSITIONS, Effect, Event, Transition, step
from p2p.install.plan import PAYLOAD_TYPES, SlotFacts, make_plan
from p2p.install.reconcile import BootFacts, Finding, reconcile
from p2p.install.record import (
    Installed,
    InstallPlan,
    InstallRecord,
    PlannedPayload,
    Release,
    State,
    decode_record,
    encode_record,
)

__all__ = [
    "PAYLOAD_TYPES",
    "TRANSITIONS",
    "BootFacts",
    "Effect",
    "Event",
    "Finding",
    "InstallPlan",
    "InstallRecord",
    "Installed",
    "PlannedPayload",
    "Release",
    "SlotFacts",
    "State",
    "Transition",
    "decode_record",
    "encode_record",
    "make_plan",
    "reconcile",
    "step",
]
