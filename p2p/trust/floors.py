"""The release-counter floor: the highest counter that a device has committed, per product.

It stops a downgrade even where TUF's own state was lost, so it is kept apart from that: two copies,
each in a store of its own, each atomic and durable. The highest valid copy counts and mends the
other. A floor only rises; a device may go below it where a signed order names that device.

Two damaged copies are not "no floor": updates are refused (`floor-damaged`) until `restore` is
called with the counter of the release that runs, which only somebody who knows it can do. Two absent
copies are a device that has never committed a release; whoever can delete files of both stores can
also replace the software, so that is not defended against here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from p2p.content.digests import Digest, sha256
from p2p.content.fields import check_name, dump_object, load_object
from p2p.content.manifest import COUNTER_MAX
from p2p.errors import ContentError, StoreError, TrustError

DOCUMENT = "slipstream-floor"
VERSION = 1
_SIZE_MAX = 4096


class FloorStore(Protocol):
    """The part of a `p2p.ports.BlobStore` that floors need."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, value: bytes) -> None: ...


class ReleaseFloors:
    """The floors of one device. `first` and `second` should be different directories."""

    def __init__(self, first: FloorStore, second: FloorStore) -> None:
        self._stores = (first, second)

    def get(self, product: str) -> int:
        """The floor: releases with a lower counter are refused. 0 if nothing was ever committed.

        Mends a copy that is behind or damaged. Raises `TrustError("floor-damaged")` when no valid
        copy is left of one that was written, `StoreError` when mending fails.
        """
        copies = list(self._copies(product))
        valid = [counter for counter in copies if counter is not None]
        if None in copies and not any(valid):
            raise TrustError(
                "floor-damaged",
                f"{product}: the downgrade floor is damaged in every copy",
                kept="what is installed goes on running",
                next_step="check the disk; then stop the agent and run `slipstream agent restore-floor`",
            )
        floor = max(valid)
        self._write(product, floor, copies)
        return floor

    def raise_to(self, product: str, counter: int) -> None:
        """The release with `counter` is committed. Durable in both copies when this returns."""
        if counter > self.get(product):
            self._write(product, counter, [None, None])

    def restore(self, product: str, counter: int) -> None:
        """Set damaged copies to `counter`, never below a copy that is still valid."""
        copies = list(self._copies(product))
        self._write(product, max([counter, *(c for c in copies if c is not None)]), copies)

    def _copies(self, product: str) -> Iterator[int | None]:
        """Each copy's counter: 0 where absent, None where damaged."""
        name = _name(product)
        for store in self._stores:
            try:
                data = store.read(name)
                yield 0 if data is None else _decode(data, product)
            except (StoreError, ContentError):
                yield None

    def _write(self, product: str, counter: int, copies: list[int | None]) -> None:
        value = _encode(product, counter)
        for store, found in zip(self._stores, copies, strict=True):
            if found != counter:
                store.write(_name(product), value)


def _name(product: str) -> str:
    return f"floor-{check_name(product, 'product')}"


def _check(product: str, counter: int) -> Digest:
    return sha256(f"{DOCUMENT}\0{product}\0{counter}".encode())


def _encode(product: str, counter: int) -> bytes:
    return dump_object(
        {
            "_type": DOCUMENT,
            "spec": VERSION,
            "product": product,
            "counter": counter,
            "check": _check(product, counter).hex(),
        }
    )


def _decode(data: bytes, product: str) -> int:
    fields = load_object(data, "floor", _SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    fields.constant("spec", VERSION)
    fields.constant("product", product)
    counter = fields.integer("counter", 0, COUNTER_MAX)
    if fields.digest("check") != _check(product, counter):
        raise ContentError("floor.check: wrong")
    fields.finish()
    return counter
