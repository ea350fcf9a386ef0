"""The error tree, grouped by whose fault it is.

Every error that Slipstream raises on purpose is below `SlipstreamError`; foreign exceptions are
translated at the seam where they appear. An error meant for a person carries three things: what
happened (the message), what was kept (`kept`) and what to do next (`next_step`).

This module is the lowest layer: it imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "EXIT_INTERRUPTED",
    "ConfigError",
    "ContentError",
    "LimitExceeded",
    "LocalError",
    "NothingMeantError",
    "OperatorError",
    "OriginError",
    "PeerError",
    "RevokedError",
    "SlipstreamError",
    "SlotError",
    "SlotFull",
    "StoreError",
    "TrustError",
    "known_errors",
    "leaves",
]

EXIT_INTERRUPTED = 130


class SlipstreamError(Exception):
    """Base of all errors raised on purpose.

    `exit_code` is what a command ends with when the error reaches it (documented in `docs/cli.md`).
    """

    exit_code = 1

    def __init__(self, message: str, *, kept: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.kept = kept
        self.next_step = next_step

    def diagnostics(self) -> str:
        """What happened, what was kept and what to do next, for a person to read."""
        lines = [self.message]
        if self.kept:
            lines.append(f"kept: {self.kept}")
        if self.next_step:
            lines.append(f"next: {self.next_step}")
        return "\n".join(lines)


class ContentError(SlipstreamError):
    """Bytes are not what they claim to be: a bad index, manifest, frame or message.

    The seam that received the bytes knows who sent them and blames them (`PeerError`,
    `OriginError`) or, for a file that a person named, passes this on.
    """

    exit_code = 3


class LimitExceeded(ContentError):  # noqa: N818 (a state, as in trio.Cancelled)
    """A declared or found size is over a constant of `p2p.content.limits`."""


class TrustError(SlipstreamError):
    """A signed document is refused. `reason` is a stable word for logs and tests."""

    exit_code = 4

    def __init__(self, reason: str, message: str, *, kept: str = "", next_step: str = "") -> None:
        super().__init__(message, kept=kept, next_step=next_step)
        self.reason = reason


class LocalError(SlipstreamError):
    """This machine's fault: its disk, its configuration, its slots."""

    exit_code = 5


class ConfigError(LocalError):
    """A configuration file or option is wrong; the message names the key."""

    exit_code = 2


class RevokedError(LocalError):
    """This device's certificate is revoked: it is no longer one of its fleet."""

    exit_code = 14


class StoreError(LocalError):
    """The device's own store failed (ENOSPC, EIO, a damaged journal)."""


class SlotError(LocalError):
    """A slot cannot be read, written, verified or switched."""


class SlotFull(SlotError):  # noqa: N818 (a state, as in trio.Cancelled)
    """There is no room for an image where its slot lies."""


class PeerError(SlipstreamError):
    """A peer broke the protocol, lied or sent bad bytes. `reason` is a stable word."""

    exit_code = 6

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class OriginError(SlipstreamError):
    """The origin is down, slow, truncates, ignores Range or sends wrong bytes. `reason` is a stable word."""

    exit_code = 7

    def __init__(self, reason: str, message: str = "", *, retry: bool = True) -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.retry = retry


class OperatorError(SlipstreamError):
    """A person asked for something that cannot be done as asked."""

    exit_code = 2


class NothingMeantError(SlipstreamError):
    """No release is meant for this device (the message says why)."""

    exit_code = 8


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """What several tasks raised at once, without the groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def known_errors(group: BaseExceptionGroup[BaseException]) -> list[SlipstreamError] | None:
    """Ours among them, beside which there may be an interruption; None if anything deserves its traceback."""
    found = list(leaves(group))
    if not all(isinstance(leaf, SlipstreamError | KeyboardInterrupt | BrokenPipeError) for leaf in found):
        return None
    return [leaf for leaf in found if isinstance(leaf, SlipstreamError)]
