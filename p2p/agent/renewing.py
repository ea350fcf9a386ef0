"""The device's certificate is renewed: what the coordinator sends is checked, kept, and presented from then.

It comes in the answer to a check-in, or with a peer's word of a report (`coordinator.api.renewing`), so it
costs no request. Whoever brought it, it must be the fleet CA's, for this very key, device and site, and end
later than what is held; anything else changes nothing. Nor is it put beside another key or CA than the agent
runs with: an operator may have enrolled the device anew meanwhile. The file is replaced whole: after a cut
the old one or the new one is there, and both are good. Connections that are open stay open.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio
from cryptography.hazmat.primitives import serialization

from p2p.adapters.files import SYSTEM_FILES, Files, replace_durably
from p2p.adapters.identity import Credentials, check_certificate, load_credentials
from p2p.adapters.tls import TlsTransport
from p2p.agent.revoking import Revoking
from p2p.config import AgentConfig
from p2p.errors import ConfigError

log = logging.getLogger(__name__)


class Renewing:
    """`credentials` are those that the transport presents now; `now` is trusted time."""

    def __init__(
        self,
        config: AgentConfig,
        credentials: Credentials,
        transport: TlsTransport,
        revoking: Revoking,
        now: Callable[[], float],
        *,
        files: Files = SYSTEM_FILES,
    ) -> None:
        self.credentials = credentials
        self._config = config
        self._transport = transport
        self._revoking = revoking
        self._now = now
        self._files = files
        self._one = trio.Lock()

    def asked_for(self) -> dict[str, object]:
        """What a status says to get the next one: when this one ends, once half of its life is over."""
        held = self.credentials
        return {"certificate_until": int(held.not_after)} if self._now() >= held.renew_at else {}

    async def take(self, pem: bytes) -> None:
        """A certificate that is said to be this device's next one; whatever it is, this raises nothing."""
        held = self.credentials
        try:
            async with self._one:
                held = self.credentials
                renewed = await trio.to_thread.run_sync(self._kept, pem)
                if renewed is None:
                    return
                self._transport.use(renewed)
                self.credentials = renewed
        except (ConfigError, OSError) as error:
            reason = error.message if isinstance(error, ConfigError) else error.strerror or error
            log.warning("a new certificate was not taken: %s (kept: the one until %s)", reason, self._day())
            return
        self._revoking.presents(renewed.identity.certificate)
        log.info("the certificate of this device was renewed, until %s", self._day())
        if renewed.identity.groups != held.identity.groups:
            log.info("its groups are others now (%s): that takes effect with the next start",
                     ", ".join(sorted(renewed.identity.groups)) or "none")  # fmt: skip

    def _kept(self, pem: bytes) -> Credentials | None:
        """Check it and make it durable; None if it is no newer. Raises `ConfigError`, `OSError`. Blocks."""
        held, config = self.credentials, self._config
        identity, leaf = check_certificate(pem, held.key, held.authority)
        if (identity.device, identity.site) != (held.identity.device, held.identity.site):
            raise ConfigError(f"it is for {identity.device} at site {identity.site}")
        if leaf.not_valid_after_utc.timestamp() <= held.not_after:
            return None  # the same one again, or an old one that somebody kept
        self._check_disk()
        # Without what a messenger may have put around it, which others read as part of the chain.
        alone = leaf.public_bytes(serialization.Encoding.PEM)
        replace_durably(self._files, str(config.certificate_path), alone)
        return load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)

    def _check_disk(self) -> None:
        """Raises `ConfigError` unless key and CA lie there as this agent read them, with a certificate."""
        config, held = self._config, self.credentials
        there = load_credentials(config.key_path, config.certificate_path, config.fleet_ca_path)
        if there.key.public_key() != held.key.public_key() or there.authority != held.authority:
            raise ConfigError("this device was enrolled anew; restart the agent to use that")

    def _day(self) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self.credentials.not_after))
