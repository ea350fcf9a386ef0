"""Delegations of TUF targets: which role may say what of a target, and what it says (TUF 5.6.7).

How a role's metadata is had and verified is the client's: `read` gives that of a role, verified against the
delegator that is named, whatever was cached before. Not for what the targets mean (`p2p.trust.release`).
"""

from __future__ import annotations

from collections.abc import Callable

from tuf.api.metadata import DelegatedRole, SuccinctRoles, TargetFile, Targets

from p2p.content import limits
from p2p.errors import TrustError
from p2p.trust.documents import Delegator, Verified
from p2p.trust.need import Steps

ReadRole = Callable[[str, Delegator], Steps[Verified[Targets]]]


def find_target(path: str, root: Delegator, read: ReadRole) -> Steps[TargetFile | None]:
    """What the signers say of target `path`, or None.

    Preorder, depth first, in the order of trust; at most `limits.DELEGATIONS_MAX` delegations, else
    `TrustError("delegations")`. Each role is verified against the delegator that this walk came from.
    """
    visited: set[str] = set()
    stack: list[tuple[str, Delegator]] = [("targets", root)]
    while stack:
        name, delegator = stack.pop()
        if name in visited:
            continue
        if len(visited) > limits.DELEGATIONS_MAX:
            raise TrustError("delegations", f"{path}: more than {limits.DELEGATIONS_MAX} delegations")
        role = yield from read(name, delegator)
        found = role.signed.targets.get(path)
        if found is not None:
            return found
        visited.add(name)
        if role.signed.delegations is None:
            continue
        children: list[tuple[str, Delegator]] = []
        for child, terminating in role.signed.delegations.get_roles_for_target(path):
            children.append((child, role))
            if terminating:
                stack.clear()
                break
        stack.extend(reversed(children))
    return None


def listing(role: str, targets: Verified[Targets], read: ReadRole) -> Steps[dict[str, TargetFile]]:
    """All targets of a `role` that the top-level `targets` delegate to, but for paths that they do not.

    Raises `TrustError("not-delegated")`.
    """
    try:
        delegated = targets.signed.get_delegated_role(role)
    except ValueError as error:
        raise TrustError("not-delegated", f"{role}: {error}") from error
    verified = yield from read(role, targets)
    return {
        path: target
        for path, target in verified.signed.targets.items()
        if (isinstance(delegated, DelegatedRole) and delegated.is_delegated_path(path))
        or (isinstance(delegated, SuccinctRoles) and delegated.get_role_for_target(path) == role)
    }


def keys_of_roles(targets: Verified[Targets]) -> dict[str, frozenset[str]]:
    """The roles that the top-level `targets` delegate to, with the ids of their keys."""
    delegations = targets.signed.delegations
    roles = (delegations.roles or {}) if delegations is not None else {}
    return {name: frozenset(roles[name].keyids) for name in sorted(roles)}
