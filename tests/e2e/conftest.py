"""Fixtures of the end-to-end tests."""

from tests.support.fleet import fleet, fleet_template, forks, quick

__all__ = ["fleet", "fleet_template", "forks", "quick"]
