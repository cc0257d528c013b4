"""Which network addresses images may come from, decided at the moment of connecting.

The host is resolved once, the addresses are checked, and the connection goes to a checked address: neither a redirect
nor a name that changes its meaning in between leads anywhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

_UNICAST = ipaddress.ip_network("2000::/3")
_RELAYS = ipaddress.ip_network("192.88.99.0/24")
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class AddressRefusedError(ValueError):
    """The host is, or resolves to, an address that must not be reached; the message names the remedy."""


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, by the system's resolver. Raises ``OSError``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; looks through IPv4 carried inside IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.sixtofour is not None:
            return is_public(address.sixtofour)
        if address.teredo is not None or address in _TRANSLATED[1]:
            return False
        if address in _TRANSLATED[0]:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _UNICAST:  # also IPv4 in other clothes: ::a.b.c.d, ::ffff:0:a.b.c.d
            return False
    if address in _RELAYS:
        return False
    return address.is_global and not address.is_multicast and not address.is_unspecified


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What may be reached besides the public internet.

    Attributes:
        trusted: ``(host, port)`` of Label Studio.
        hosts: further host names, in lower case, at any port.
        networks: further networks.
    """

    trusted: frozenset[tuple[str, int]] = frozenset()
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[str], trusted: Iterable[tuple[str, int]] = ()) -> AddressPolicy:
        """From a list of host names, addresses and networks. Raises ``ValueError`` for a broken network."""
        hosts, networks = set(), []
        for entry in allowed:
            text = entry.strip().lower()
            try:
                networks.append(ipaddress.ip_network(text.strip("[]"), strict=False))
            except ValueError:
                if "/" in text or not text:
                    raise ValueError(f"'{entry}' is neither a host name nor a network like 10.0.0.0/8") from None
                hosts.add(text)
        return cls(frozenset((host.lower(), port) for host, port in trusted), frozenset(hosts), tuple(networks))

    def allows(self, host: str, port: int, address: str) -> bool:
        """Whether that address of the host may be connected to."""
        name = host.lower().strip("[]")
        if (name, port) in self.trusted or name in self.hosts:
            return True
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return is_public(parsed) or any(parsed in network for network in self.networks)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Network backend of httpcore that connects to allowed addresses only."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver = resolve) -> None:
        self._policy = policy
        self._resolver = resolver
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first allowed address that answers. Raises ``AddressRefusedError`` if none is allowed."""
        try:
            addresses = await asyncio.wait_for(self._resolver(host, port), timeout)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the host {host} is not known") from error
        allowed = [address for address in addresses if self._policy.allows(host, port, address)]
        if not allowed:
            raise AddressRefusedError(
                f"images may not come from {host}, which is at {', '.join(addresses) or 'no address'}: it is not on "
                "the public internet; if it is yours, add it to INT_ALLOWED_HOSTS"
            )
        for index, address in enumerate(allowed):
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if index == len(allowed) - 1:
                    raise
        raise AssertionError("the loop returns or raises")

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Never: images do not come from sockets in the file system."""
        del path, timeout, socket_options
        raise AddressRefusedError("images may not come from a local socket")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
