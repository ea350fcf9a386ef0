"""The chain of roots from the pinned one to the newest (TUF 5.3).

Each root is signed by its predecessor and by itself. All that were walked are kept, so that peers
without a way to the origin can be led along. Whether the newest has expired is judged by the client,
which knows the time.
"""

from __future__ import annotations

from tuf.api.metadata import Root

from p2p.content import limits
from p2p.errors import TrustError
from p2p.trust import store as names
from p2p.trust.documents import READER, Reader, Verified
from p2p.trust.need import Need, NeedKind, Steps, obtain
from p2p.trust.rules import check_same_fleet, withdraws_online_key
from p2p.trust.store import TrustStore, read_or_none


class RootChain:
    """`pinned`: the root that the device was shipped with (None: one is in the store already)."""

    def __init__(self, store: TrustStore, pinned: bytes | None, reader: Reader = READER) -> None:
        self._store = store
        self._reader = reader
        self._pinned = pinned
        self.found: Verified[Root] | None = None

    @property
    def root(self) -> Verified[Root]:
        """The newest trusted root; `load` must have succeeded."""
        assert self.found is not None
        return self.found

    def load(self) -> None:
        """Start from the stored root or the pinned one, whichever is newer.

        Damaged stored roots are as good as none: the way from the newest whole one is walked again.
        Raises `TrustError` (`no-root`, `other-fleet`, or what is wrong with the pinned root).
        """
        if self.found is not None:
            return
        newest = self._stored()
        if self._pinned is not None:
            pinned = self._reader.read_root(self._pinned, None)
            walked = read_or_none(self._store, names.root_name(pinned.version))
            check_same_fleet(pinned, walked, self._reader)
            if newest is None or pinned.version > newest.version:
                self._keep(pinned, self._pinned, newest)
                newest = pinned
        if newest is None:
            raise TrustError(
                "no-root",
                "there is no valid trusted root",
                next_step="give the device the fleet's root.json again",
            )
        self.found = newest

    def refresh(self) -> Steps[None]:
        """Ask for the next root until nobody has one, at most `limits.ROOT_ROTATIONS_MAX` times."""
        for _ in range(limits.ROOT_ROTATIONS_MAX):
            current = self.root

            def judge(data: bytes, current: Verified[Root] = current) -> tuple[Verified[Root], bytes]:
                return self._reader.read_root(data, current), data

            need = Need(
                NeedKind.METADATA,
                f"{current.version + 1}.root.json",
                "root",
                current.version + 1,
                None,
                None,
                limits.ROOT_SIZE_MAX,
                mutable=True,
                may_be_absent=True,
            )
            answer = yield from obtain(need, judge)
            if answer is None:
                return
            root, data = answer
            self._keep(root, data, current)
            self.found = root

    def finish_rotation(self) -> None:
        """TUF 5.3.11: once an online key is withdrawn, nothing that it signed bounds what follows."""
        marker = read_or_none(self._store, names.ROTATION)
        if marker is None:
            return
        if marker.isdigit() and int(marker) <= self.root.version:
            self._store.delete(names.TIMESTAMP)
            self._store.delete(names.SNAPSHOT)
        self._store.delete(names.ROTATION)

    def _stored(self) -> Verified[Root] | None:
        """The newest root in the store that is whole: the current one, or one of the chain."""
        found: Verified[Root] | None = None
        error: TrustError | None = None
        for name in (names.ROOT, *names.root_names(self._store.names())):
            data = read_or_none(self._store, name)
            if data is None:
                continue
            try:
                found = self._reader.read_root(data, None)
                break
            except TrustError as damaged:
                error = error or damaged
        if found is None and error is not None and self._pinned is None:
            raise error
        return found

    def _keep(self, root: Verified[Root], data: bytes, previous: Verified[Root] | None) -> None:
        # The marker goes first and is acted on by finish_rotation, after a cut too: without it, a
        # fast-forwarded timestamp could outlive the root that withdrew its key.
        if previous is not None and withdraws_online_key(previous.signed, root.signed):
            self._store.write(names.ROTATION, str(root.version).encode())
        self._store.write(names.root_name(root.version), data)
        self._store.write(names.ROOT, data)
