"""Who comes in: by key where there are keys, else from this machine alone.

Decides on the head of a request, before its body is read.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from api.call import PROXIED
from api.problems import Forbidden, Unauthenticated
from core.access import LOOPBACK, Caller

if TYPE_CHECKING:
    from core.keyring import Keyring

HOSTS_MAX: Final = 64  # of the spellings of this machine's name that were seen
ONLY_HERE: Final = "While there is no API key only this machine is served; make one with"
BY_PROXY: Final = f"This came through a proxy. {ONLY_HERE} stockade keys create"
BY_NAME: Final = f"Host is no name of this machine. {ONLY_HERE} stockade keys create"


class Gate:
    """Lets callers in, or says why not."""

    def __init__(self, host: str) -> None:
        """``host``: where the service listens."""
        self._is_local = is_local(host)
        self._hosts: set[bytes] = set()

    def caller(self, headers: Mapping[bytes, bytes], keyring: Keyring) -> Caller:
        """Who sent these. Raises Unauthenticated, Forbidden, LedgerUnavailable."""
        if not keyring.needed:
            return self._local(headers)
        sent = headers.get(b"authorization", b"")
        caller = keyring.caller(sent)
        if caller is None:
            raise Unauthenticated("This API key is not known, or no longer" if sent else None)
        return caller

    def _local(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Who comes from this machine, and not from elsewhere by way of it."""
        if not self._is_local:
            raise Unauthenticated
        if not PROXIED.isdisjoint(headers):
            raise Forbidden(BY_PROXY)
        host = headers.get(b"host")
        if host is not None and host not in self._hosts:
            # A page elsewhere may have a name of its own lead here; its browser says that name.
            if not _is_loopback(_name(host.decode("latin-1"))):
                raise Forbidden(BY_NAME)
            if len(self._hosts) < HOSTS_MAX:
                self._hosts.add(host)
        return LOOPBACK


def _name(host: str) -> str:
    """A ``Host`` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_local(host: str) -> bool:
    """True for an address, or a name of one, where nobody but this machine can reach us."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(_is_loopback(str(address[0]).partition("%")[0]) for *_, address in found)


def _is_loopback(host: str) -> bool:
    """True for this machine's own name, and its addresses for itself."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
