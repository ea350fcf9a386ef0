"""Fixtures of the agent's tests."""

from tests.support.fleet import fleet, fleet_template, quick

__all__ = ["fleet", "fleet_template", "quick"]
