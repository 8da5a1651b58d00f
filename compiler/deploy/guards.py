"""Where a server's keys and certificate lie when it is started, and the flags that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facts import Server


@dataclass(frozen=True)
class Guards:
    """Paths as the server sees them."""

    keys: str
    tls_cert: str
    tls_key: str
    proxy: str | None
    """Who is believed when it tells whose a request is; None: nobody."""

    def flags(self, server: Server, *, probe_port: int | None) -> tuple[str, ...]:
        """Of serve.py and of router.py, as far as the spec asks for any of it."""
        found: tuple[str, ...] = ()
        if server.asks_keys:
            found += ("--keys", self.keys, "--probe-port", str(probe_port))
        if server.has_tls:
            found += ("--tls-cert", self.tls_cert, "--tls-key", self.tls_key)
        if server.has_rates and self.proxy is not None:
            found += ("--proxy", self.proxy)
        return found


MOUNTED = Guards("/secrets/keys/keys", "/secrets/tls/tls.crt", "/secrets/tls/tls.key", proxy=None)
"""Kubernetes: a Secret with the key file, and one of type kubernetes.io/tls."""

COMPOSED = Guards("/run/secrets/keys", "/run/secrets/tls.crt", "/run/secrets/tls.key", proxy="*")
"""Docker: secrets of the compose file. Only nginx and the router reach the servers, and nginx says whose a request is."""

LOADED = Guards("%d/keys", "%d/tls.crt", "%d/tls.key", proxy="127.0.0.1")
"""systemd: credentials of the unit; `%d` is their folder, and must not be escaped as values of a spec are."""
