"""Which addresses are public, what a policy adds, and to which address of several a connection goes."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import httpcore
import pytest

from ml_backend.fetching.addresses import AddressPolicy, AddressRefusedError, GuardedBackend, is_public, resolve

PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "192.88.98.255",
    "192.88.100.0",
    "100.128.0.1",
    "2606:4700::1111",
    "2000:1::1",
    "3fff:ffff::1",
    "::ffff:8.8.8.8",  # IPv4 mapped
    "64:ff9b::808:808",  # NAT64
    "2002:808:808::1",  # 6to4
]
NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - refused
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.31.255.255",
    "192.88.99.0",
    "192.88.99.255",
    "192.168.0.1",
    "224.0.1.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::808:808",  # NAT64 of a network's own: whose addresses they are is not known
    "64:ff9b:0:1::808:808",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "1fff::1",
    "4000::1",
    "fc00::1",
    "fe80::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert AddressPolicy().allows("images.example", 443, address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_nothing_else_is(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not AddressPolicy().allows("images.example", 443, address)


@pytest.mark.parametrize(
    ("host", "port", "address", "allowed"),
    [
        ("studio.example", 8080, "10.0.0.1", True),
        ("STUDIO.example", 8080, "10.0.0.1", True),
        ("studio.example", 8081, "10.0.0.1", False),
        ("minio.example", 9000, "10.0.0.1", True),
        ("Minio.Example", 1, "10.0.0.1", True),
        ("sub.minio.example", 9000, "10.0.0.1", False),
        ("other.example", 80, "192.168.7.255", True),
        ("other.example", 80, "192.168.8.0", False),
        ("other.example", 80, "10.1.2.3", True),
        ("other.example", 80, "10.1.2.4", False),
        ("[fd00::7]", 80, "fd00::7", True),
        ("other.example", 80, "fd00::8", False),
        ("other.example", 80, "fe80::1%eth0", False),
        ("other.example", 80, "2606:4700::1111%eth0", True),
        ("other.example", 80, "not an address", False),
    ],
)
def test_a_policy_adds_hosts_networks_and_label_studio(host: str, port: int, address: str, allowed: bool) -> None:
    listed = [" Minio.EXAMPLE ", "192.168.7.9/24", "10.1.2.3", "[fd00::7]"]
    policy = AddressPolicy.of(listed, [("Studio.Example", 8080)])
    assert policy.allows(host, port, address) is allowed


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "host/path", "", "  "])
def test_an_entry_that_is_neither_name_nor_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=f"'{entry}' is neither a host name nor a network"):
        AddressPolicy.of(["good.example", entry])


class Plain:
    """Stands for httpcore's own connections; the addresses of ``dead`` do not answer."""

    def __init__(self, *dead: str) -> None:
        self.dead = dead
        self.tried: list[tuple[Any, ...]] = []

    async def connect_tcp(self, *given: Any) -> str:
        self.tried.append(given)
        if given[0] in self.dead:
            raise httpcore.ConnectTimeout if given[0].endswith("5") else httpcore.ConnectError
        return f"connected to {given[0]}"


def connect(plain: Plain, found: list[str] | Exception, timeout: float = 3.0) -> Any:
    async def resolver(_host: str, _port: int) -> list[str]:
        if isinstance(found, Exception):
            raise found
        return found

    backend = GuardedBackend(AddressPolicy.of(["10.0.0.0/24"]), resolver)
    backend._plain = plain  # type: ignore[assignment]
    return asyncio.run(backend.connect_tcp("many.example", 443, timeout, "local", [(1, 2, 3)]))


def test_the_first_allowed_address_that_answers_is_taken() -> None:
    plain = Plain("10.0.0.5", "10.0.0.6")
    assert connect(plain, ["127.0.0.1", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"]) == "connected to 10.0.0.7"
    assert plain.tried == [(f"10.0.0.{n}", 443, 3.0, "local", [(1, 2, 3)]) for n in (5, 6, 7)]


@pytest.mark.parametrize(
    ("last", "error"), [("10.0.0.5", httpcore.ConnectTimeout), ("10.0.0.6", httpcore.ConnectError)]
)
def test_if_none_answers_the_last_error_is_told(last: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        connect(Plain("10.0.0.4", last), ["10.0.0.4", last])


@pytest.mark.parametrize(("found", "said"), [(["127.0.0.1", "::1"], "127.0.0.1, ::1"), ([], "no address")])
def test_a_host_without_an_allowed_address_is_refused_before_connecting(found: list[str], said: str) -> None:
    plain = Plain()
    with pytest.raises(AddressRefusedError, match=f"many.example, which is at {said}: .* INT_ALLOWED_HOSTS"):
        connect(plain, found)
    assert plain.tried == []


@pytest.mark.parametrize("error", [OSError("no such host"), UnicodeError("label too long"), TimeoutError()])
def test_a_host_that_cannot_be_looked_up_is_not_known(error: Exception) -> None:
    with pytest.raises(httpcore.ConnectError, match=r"the host many\.example is not known"):
        connect(Plain(), error)


def test_sockets_in_the_file_system_are_refused() -> None:
    backend = GuardedBackend(AddressPolicy())
    with pytest.raises(AddressRefusedError, match="local socket"):
        asyncio.run(backend.connect_unix_socket("/var/run/docker.sock"))


def test_the_systems_resolver_gives_each_address_once() -> None:
    found = asyncio.run(resolve("127.0.0.1", 80))
    assert found == ["127.0.0.1"]
