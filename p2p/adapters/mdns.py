"""Peers on the same link by multicast DNS service discovery (RFC 6762, RFC 6763).

A node announces one service of type `_slipstream._tcp`, named by a hash of its device id, with the TXT
keys `site`, `port` and `protocol` and nothing that changes: progress in TXT records is what made
others' multicast traffic grow with the fleet. What is heard is only a hint where to connect; the
handshake decides who it is.

python-zeroconf runs its own thread; it is imported only when this source is used. Not for networks
without multicast: there this source says so and stops, and the roster does the work.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from p2p.content import limits
from p2p.ports import PeerAddress

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = logging.getLogger(__name__)

SERVICE_TYPE = "_slipstream._tcp.local."
PROTOCOL = "1"
RESOLVE_MS = 2000
LOOKUPS = 4  # names looked up at once: one that never answers must not hold up the others
ADDRESSES_PER_PEER_MAX = 4


class MdnsDiscovery:
    """Announces `port` and reports the nodes of the same `site` (`ports.Discovery`), or of `any_site`.

    `interfaces`: numeric addresses of the interfaces to use, empty for all. `peers_max` bounds how many
    names are ever looked into; beyond it new ones are ignored until old ones leave.
    """

    def __init__(
        self,
        device: str,
        site: str,
        port: int,
        *,
        interfaces: Sequence[str] = (),
        peers_max: int = limits.DISCOVERED_MAX,
        any_site: bool = False,
    ) -> None:
        self._site = site
        self._any_site = any_site
        self._port = port
        self._interfaces = tuple(interfaces)
        self._peers_max = peers_max
        self._name = service_name(device)
        self._known: set[str] = set()
        self.stopped_because: str | None = None
        """Why this source is silent, once it has stopped by itself."""

    async def run(self, found: Callable[[PeerAddress], None]) -> None:
        """Announce and report until cancelled; without multicast, say so and return."""
        try:
            zeroconf = await trio.to_thread.run_sync(self._join)
        except Exception as error:  # whatever a foreign library makes of a machine without multicast
            self._stop(error)
            return
        try:
            await self._browse(zeroconf, found)
        except OSError as error:
            self._stop(error)
        finally:
            with trio.CancelScope(shield=True):  # says goodbye on the link; bounded by zeroconf itself
                await trio.to_thread.run_sync(zeroconf.close)

    def _stop(self, error: Exception) -> None:
        self.stopped_because = str(error) or type(error).__name__
        log.warning("no discovery by multicast: %s", self.stopped_because)

    def _join(self) -> Zeroconf:
        from zeroconf import InterfaceChoice, Zeroconf

        return Zeroconf(interfaces=list(self._interfaces) or InterfaceChoice.All)

    async def _browse(self, zeroconf: Zeroconf, found: Callable[[PeerAddress], None]) -> None:
        from zeroconf import Error, ServiceBrowser, ServiceStateChange

        token = trio.lowlevel.current_trio_token()
        names, heard = trio.open_memory_channel[str](self._peers_max)

        def changed(*, name: str, state_change: Any, **_: object) -> None:
            """Runs in zeroconf's thread."""
            left = state_change is ServiceStateChange.Removed
            try:
                token.run_sync_soon(self._heard, names, name, left)
            except trio.RunFinishedError:
                return

        try:
            await trio.to_thread.run_sync(self._announce, zeroconf, abandon_on_cancel=True)
            browser = ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[changed])
        except Error as error:
            raise OSError(str(error) or type(error).__name__) from error
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(LOOKUPS):
                    nursery.start_soon(self._look_up, zeroconf, heard, found)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(browser.cancel)

    async def _look_up(
        self, zeroconf: Zeroconf, heard: trio.MemoryReceiveChannel[str], found: Callable[[PeerAddress], None]
    ) -> None:
        async for name in heard:
            info = await trio.to_thread.run_sync(
                zeroconf.get_service_info, SERVICE_TYPE, name, RESOLVE_MS, abandon_on_cancel=True
            )
            for address in peer_addresses(info, None if self._any_site else self._site):
                found(address)

    def _announce(self, zeroconf: Zeroconf) -> None:
        from zeroconf import ServiceInfo

        addresses = self._interfaces or _own_addresses()
        zeroconf.register_service(
            ServiceInfo(
                SERVICE_TYPE,
                f"{self._name}.{SERVICE_TYPE}",
                port=self._port,
                properties={"site": self._site, "port": str(self._port), "protocol": PROTOCOL},
                server=f"{self._name}.local.",
                parsed_addresses=list(addresses),
            )
        )

    def _heard(self, names: trio.MemorySendChannel[str], name: str, left: bool) -> None:
        """Runs in trio's thread, once per change that zeroconf saw."""
        if left:
            self._known.discard(name)
        elif not name.startswith(f"{self._name}.") and len(self._known) < self._peers_max:
            try:
                names.send_nowait(name)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                return
            self._known.add(name)


def service_name(device: str) -> str:
    """The instance name: 80 bits of a hash, so that a link's listeners do not read device ids."""
    return f"slipstream-{hashlib.sha256(device.encode()).hexdigest()[:20]}"


def peer_addresses(info: ServiceInfo | None, site: str | None) -> list[PeerAddress]:
    """Where a service says that a node of `site` (None: of any) listens; empty for all else, or malformed."""
    if info is None:
        return []
    properties = info.decoded_properties
    port = properties.get("port") or ""
    if site not in (None, properties.get("site")) or properties.get("protocol") != PROTOCOL:
        return []
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65_536):
        return []
    hosts = [h for h in info.parsed_scoped_addresses() if _is_usable(h)]
    return [PeerAddress(h, int(port), "mdns") for h in hosts[:ADDRESSES_PER_PEER_MAX]]


def _is_usable(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified)


def _own_addresses() -> list[str]:
    """Addresses of this machine that a peer can reach; loopback only if there is nothing else."""
    import ifaddr

    found = [
        str(ip.ip) if isinstance(ip.ip, str) else ip.ip[0]
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if isinstance(ip.ip, str) or not ipaddress.ip_address(ip.ip[0]).is_link_local
    ]
    outward = [a for a in found if not ipaddress.ip_address(a).is_loopback]
    return outward or found
