"""HTTP to places that people name: only where a stranger's server may be, and never along a detour.

Whoever may set a URL must not reach through this server what they could not reach themselves: its own machine, the
network behind it, a cloud's metadata. So every connection is checked at the address that it is made to, whatever the
name said when it was asked for (DNS rebinding), however the address is written, and over IPv6 as well. Redirects are
not followed; proxies and cookies are not used.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from firmware_store.errors import ConfigurationError, InvalidInputError

Network: TypeAlias = IPv4Network | IPv6Network
_Address: TypeAlias = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Addresses that a translator turns into IPv4 (RFC 6052)."""


class RefusedAddressError(OSError):
    """An address that webhooks may not reach."""


class Guard:
    """``allowed``: networks that may be reached beside the public Internet."""

    def __init__(self, allowed: Sequence[Network] = (), *, resolver: AbstractResolver | None = None) -> None:
        self._allowed = tuple(allowed)
        self._resolver = resolver

    def check(self, address: str) -> None:
        """Return if a connection to this address may be made. Raises: RefusedAddressError."""
        meant = _meant(ip_address(address.partition("%")[0]))
        if any(meant in network for network in self._allowed if network.version == meant.version):
            return
        if not meant.is_global or meant.is_multicast:
            raise RefusedAddressError(f"{meant} is not on the public Internet (TIDEGATE_WEBHOOK_NETWORKS)")

    def check_url(self, url: str) -> None:
        """Return if somebody may name this URL; the addresses of its name are looked at when it is called.

        Raises:
            InvalidInputError: it may not.
        """
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as exc:
            raise InvalidInputError("This is no URL.", pointer="/url") from exc
        if parts.scheme not in {"https", "http"} or not host:
            raise InvalidInputError("A webhook's URL begins with https:// or http:// and names a host.", pointer="/url")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise InvalidInputError("A webhook's URL has no user, password or fragment.", pointer="/url")
        try:
            self.check(host)
        except RefusedAddressError as exc:
            raise InvalidInputError(f"This address may not be reached: {exc}.", pointer="/url") from exc
        except ValueError:
            return  # a name

    def session(self, *, timeout_s: float) -> aiohttp.ClientSession:
        """Return a session for one request; each of its connections is checked."""
        connector = aiohttp.TCPConnector(
            resolver=_Checked(self, self._resolver or aiohttp.ThreadedResolver()),
            use_dns_cache=False,
            force_close=True,
            socket_factory=self._open,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    def _open(self, info: Any) -> socket.socket:
        """Make the socket for a connection to just this address: the last word, after all resolving."""
        family, kind, protocol, _, address = info
        self.check(address[0])
        made = socket.socket(family=family, type=kind, proto=protocol)
        made.setblocking(False)
        return made


class _Checked(AbstractResolver):
    """Leaves out of a name's addresses those that may not be reached."""

    def __init__(self, guard: Guard, resolver: AbstractResolver) -> None:
        self._guard = guard
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises: RefusedAddressError: none is left."""
        found, refused = [], None
        for one in await self._resolver.resolve(host, port, family):
            try:
                self._guard.check(one["host"])
            except RefusedAddressError as exc:
                refused = exc
            else:
                found.append(one)
        if refused is not None and not found:
            raise refused
        return found

    async def close(self) -> None:
        await self._resolver.close()


def read_networks(text: str) -> tuple[Network, ...]:
    """Read a list such as ``10.0.0.0/8,127.0.0.1/32``. Raises: ConfigurationError."""
    try:
        return tuple(ip_network(one.strip()) for one in text.split(",") if one.strip())
    except ValueError as exc:
        raise ConfigurationError(f"TIDEGATE_WEBHOOK_NETWORKS has networks such as 10.0.0.0/8: {exc}.") from exc


def _meant(address: _Address) -> _Address:
    """Return the IPv4 address inside of an IPv6 address that leads to one."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
