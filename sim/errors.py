"""The simulator's errors: what a run was held to and was not. Exit codes are in `docs/cli.md`."""

from __future__ import annotations

from p2p.errors import ContentError, SlipstreamError

__all__ = ["ExpectationMissed", "KeptRunDamaged", "ReplayDiffers", "RuleViolated"]


class ExpectationMissed(SlipstreamError):  # noqa: N818 (a verdict)
    """The run is sound, but the scenario asked for more than came of it."""

    exit_code = 11


class RuleViolated(SlipstreamError):  # noqa: N818 (a verdict)
    """Something happened in the run that must never happen."""

    exit_code = 12


class ReplayDiffers(SlipstreamError):  # noqa: N818 (a verdict)
    """The same scenario and seed gave another trace than the one that was kept."""

    exit_code = 13


class KeptRunDamaged(ContentError):  # noqa: N818 (a state)
    """A file is no kept run, or not whole, or of a later version."""
