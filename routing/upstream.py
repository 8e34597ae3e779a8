"""A host behind the proxy."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from fingerpost.errors import FingerpostError
from fingerpost.names import check_name


@dataclass(frozen=True)
class Upstream:
    """A host behind Envoy; the name is what the access log calls it."""

    name: str
    address: str
    port: int


def parse_upstream(text: str) -> Upstream:
    """An upstream out of `name=address:port`, an IPv6 address in brackets.

    Raises:
        FingerpostError: it does not fit.
    """
    name, found, rest = text.strip().partition("=")
    address, colon, port = rest.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        check_name(name, "host")
        if not found or not colon or not address or not port.isascii() or not port.isdigit():
            raise ValueError("use name=address:port")
        if not 0 < int(port) < 65536:
            raise ValueError(f"port {port} is not one of 1..65535")
    except ValueError as error:
        raise FingerpostError(f"host {text!r}: {error}") from error
    return Upstream(name, address, int(port))


def parse_upstreams(lines: Iterable[str]) -> list[Upstream]:
    """The hosts out of lines; empty ones and comments (`#`) are skipped.

    Raises:
        FingerpostError: a line does not fit, or has a name for an address: proxies and pickers know hosts by IP
            addresses alone.
    """
    found = [parse_upstream(line) for line in lines if line.strip() and not line.startswith("#")]
    for each in found:
        _check_address(each)
    return found


def _check_address(upstream: Upstream) -> None:
    try:
        ipaddress.ip_address(upstream.address)
    except ValueError:
        raise FingerpostError(
            f"host {upstream.name!r}: {upstream.address!r} is not an IP address: write the address it has "
            f"(`getent ahosts {upstream.address}` tells), a line for each where it has several"
        ) from None
