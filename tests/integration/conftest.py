"""Fixtures of the agent's tests."""

from tests.support.fleet import fleet, fleet_template, quick
from tests.support.stalls import stalls

__all__ = ["fleet", "fleet_template", "quick", "stalls"]
