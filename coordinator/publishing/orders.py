"""Orders: propose one, publish what was signed, and open, pause or abort its phases.

Creating and publishing an order takes the signatures of the people who may deploy. Phases take only the
online key, so they can be opened by the coordinator, and can never reach beyond the signed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuf.api.metadata import Metadata, TargetFile, Targets

from coordinator.domain.rollout import first_state, outdated
from coordinator.errors import RepositoryDamaged
from coordinator.publishing.proposal import Proposal, merge, propose, review
from coordinator.publishing.releases import check_current, check_signatures
from coordinator.publishing.repository import Repository
from coordinator.publishing.state import PHASES_ROLE, State, orders_role, product_role
from p2p.content import limits
from p2p.content.digests import sha256
from p2p.content.fields import check_name
from p2p.content.manifest import Manifest, decode_manifest, manifest_path
from p2p.content.order import (
    Audience,
    Order,
    Phase,
    PhaseState,
    StaleException,
    decode_order,
    decode_phase_state,
    encode_order,
    encode_phase_state,
    order_path,
    phases_path,
)
from p2p.errors import OperatorError


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What `order create` was asked for. No phases means one phase for the whole audience."""

    product: str
    version: str
    audience: Audience
    phases: tuple[Phase, ...] = ()
    allow_downgrade: tuple[str, ...] = ()
    note: str = ""
    allow_stale: StaleException | None = None


def create_order(repository: Repository, state: State, request: OrderRequest) -> Proposal:
    """Propose an order for a published release; outdated orders leave the role in the same step."""
    role = orders_role(request.product)
    delegation = state.delegation(role)
    ref = state.target(product_role(request.product), manifest_path(request.product, request.version))
    if ref is None:
        known = ", ".join(_versions(state, request.product)) or "none"
        raise OperatorError(
            f"{request.product} {request.version} is not published (published: {known})",
            next_step="publish the release first: slipstream release publish FILE --repo DIR",
        )
    data = repository.get(ref)
    manifest = decode_manifest(data)
    _check_audience(request)
    orders = list_orders(repository, state, request.product)
    sequence = max((order.sequence for order, _ in orders), default=0) + 1
    order = Order(
        id=f"{sequence}-{request.version}",
        product=request.product,
        version=request.version,
        counter=manifest.counter,
        manifest=sha256(data),
        sequence=sequence,
        audience=request.audience,
        phases=request.phases or (Phase("all", Audience(all=True)),),
        allow_downgrade=request.allow_downgrade,
        note=request.note,
        allow_stale=request.allow_stale,
    )
    encoded = encode_order(order)
    decode_order(encoded)  # what devices would refuse is not proposed
    states = {o.id: s for o, s in orders if s is not None}
    gone = outdated([o for o, _ in orders], states)
    if len(orders) - len(gone) >= limits.ORDERS_PER_PRODUCT_MAX:
        raise OperatorError(
            f"{request.product} has {len(orders)} orders in force, and devices read no more than that",
            kept="what is published",
            next_step="abort orders that are over: slipstream order phase ORDER --abort --reason TEXT",
        )
    return propose(
        role,
        delegation,
        state.role(role),
        repository.expiry("order"),
        add={order.target_path: (encoded, {"sequence": sequence})},
        remove=[order_path(request.product, order_id) for order_id in sorted(gone)],
        context={manifest.target_path: data},
    )


def publish_order(
    repository: Repository, proposals: Sequence[Proposal], *, sign_here: bool, opened: int = 1
) -> Order:
    """Publish a signed order and open its first `opened` phases, in one step.

    Raises `DocumentRefused`, `ObsoleteDocument`, or `OperatorError` when the release that the signers
    saw is not (or no longer) the published one.
    """
    proposal = merge(proposals)
    order = _only_order(proposal)
    with repository.locked() as state:
        check_current(proposal, state, "order")
        ref = state.target(product_role(order.product), manifest_path(order.product, order.version))
        if ref is None or ref.sha256 != order.manifest:
            raise OperatorError(
                f"order {order.id} is for a release {order.version} that is not published",
                kept="what is published",
                next_step="create the order again for the published release",
            )
        threshold, keys = state.delegation(proposal.role)
        if sign_here:
            repository.sign_with_local_keys(proposal.metadata, keys, threshold, proposal.role)
        check_signatures(proposal, state)
        repository.put(proposal.documents[order.target_path])
        left = set(proposal.metadata.signed.targets)
        phases = _phases_with(repository, state, first_state(order, opened), left)
        repository.commit(state, {proposal.role: proposal.metadata, PHASES_ROLE: phases})
    return order


def rebase_order(repository: Repository, state: State, proposal: Proposal) -> Proposal:
    """The same order, unsigned, on top of what is published now."""
    order = _only_order(proposal)
    return create_order(
        repository,
        state,
        OrderRequest(
            order.product,
            order.version,
            order.audience,
            order.phases,
            order.allow_downgrade,
            order.note,
            order.allow_stale,
        ),
    )


def change_phases(
    repository: Repository,
    order_id: str,
    change: Callable[[Order, PhaseState], PhaseState],
    product: str | None = None,
) -> PhaseState:
    """Apply `change` to an order's phase state and publish it with the online key."""
    with repository.locked() as state:
        order, current = find_order(repository, state, order_id, product)
        changed = change(order, current or first_state(order, 0))
        if changed == current:
            return changed
        left = {path for path, _ in state.targets_of(orders_role(order.product))}
        phases = _phases_with(repository, state, changed, left)
        repository.commit(state, {PHASES_ROLE: phases})
    return changed


def find_order(
    repository: Repository, state: State, order_id: str, product: str | None = None
) -> tuple[Order, PhaseState | None]:
    """An order by id; `product` is needed only where two products have an order of that id."""
    names = [product] if product else state.products()
    found = [
        (order, phases)
        for name in names
        for order, phases in list_orders(repository, state, name)
        if order.id == order_id
    ]
    if not found:
        raise OperatorError(f"there is no order {order_id!r}", next_step="slipstream order list --repo DIR")
    if len(found) > 1:
        raise OperatorError(
            f"several products have an order {order_id!r}: {', '.join(o.product for o, _ in found)}",
            next_step="add --product NAME",
        )
    return found[0]


def list_orders(
    repository: Repository, state: State, product: str | None = None
) -> list[tuple[Order, PhaseState | None]]:
    """Every order that is in force, by product and sequence, with how far it is open."""
    found = []
    for name in [product] if product else state.products():
        orders = [decode_order(repository.get(ref)) for _, ref in state.targets_of(orders_role(name))]
        for order in sorted(orders, key=lambda o: o.sequence):
            ref = state.target(PHASES_ROLE, phases_path(name, order.id))
            found.append((order, None if ref is None else decode_phase_state(repository.get(ref))))
    return found


def release_of(repository: Repository, state: State, order: Order) -> Manifest:
    """The published release that an order names."""
    ref = state.target(product_role(order.product), manifest_path(order.product, order.version))
    if ref is None or ref.sha256 != order.manifest:
        raise RepositoryDamaged(f"the release of order {order.id} is not published")
    return decode_manifest(repository.get(ref))


def _phases_with(
    repository: Repository, state: State, changed: PhaseState, orders_left: set[str]
) -> Metadata[Targets]:
    """The phases role with one state changed, and without those of the product's orders that are gone."""
    following = repository.next_version(state.roles[PHASES_ROLE], "phases")
    targets = following.signed.targets
    for path in list(targets):
        _, product, name = path.split("/")
        if product == changed.product and f"orders/{product}/{name}" not in orders_left:
            del targets[path]
    ref = repository.put(encode_phase_state(changed))
    targets[changed.target_path] = TargetFile(ref.size, {"sha256": ref.sha256.hex()}, changed.target_path)
    repository.sign_online(following, state, PHASES_ROLE)
    return following


def _check_audience(request: OrderRequest) -> None:
    audience = request.audience
    if not (audience.all or audience.groups or audience.sites or audience.devices):
        raise OperatorError(
            "an order needs an audience", next_step="add --all, --group G, --site S or --device D"
        )
    if audience.all and (audience.groups or audience.sites or audience.devices):
        raise OperatorError("--all already means every group, site and device", next_step="leave out one")
    stale = request.allow_stale.devices if request.allow_stale else ()
    for name in (*audience.groups, *audience.sites, *audience.devices, *request.allow_downgrade, *stale):
        check_name(name, "audience")
    if len({phase.name for phase in request.phases}) != len(request.phases):
        raise OperatorError("two phases have the same name")


def _only_order(proposal: Proposal) -> Order:
    found = review(proposal).orders
    if proposal.is_release or len(found) != 1:
        raise OperatorError(
            "the file does not hold one order", next_step="for a release use `slipstream release`"
        )
    return found[0]


def _versions(state: State, product: str) -> list[str]:
    paths = (path for path, _ in state.targets_of(product_role(product)))
    return [path.rpartition("/")[2].removesuffix(".json") for path in paths]
