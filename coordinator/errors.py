"""Errors of the coordinator, below the project's tree in `p2p.errors`.

Only kinds that a caller treats differently have a class of their own; everything else is one of the
tree's. All of them are for operators, so all of them say what was kept and what to do next.
"""

from __future__ import annotations

from p2p.errors import LocalError, OperatorError, TrustError

__all__ = ["DocumentRefused", "KeyUnavailable", "ObsoleteDocument", "RepositoryDamaged", "RepositoryInUse"]


class RepositoryDamaged(LocalError):  # noqa: N818 (a state)
    """The repository on disk does not verify; nothing was written."""


class RepositoryInUse(LocalError):  # noqa: N818 (a state)
    """Another operator's command holds the repository's lock."""


class KeyUnavailable(OperatorError):  # noqa: N818 (a state)
    """A private key that is needed is not here or cannot be opened."""


class ObsoleteDocument(OperatorError):  # noqa: N818 (a state)
    """A document was prepared for a role version that has been published in the meantime."""


class DocumentRefused(TrustError):  # noqa: N818 (a verdict)
    """A document to sign or publish is not what it says. `reason` is a stable word."""
