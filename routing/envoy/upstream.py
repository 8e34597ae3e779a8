"""A host behind the proxy."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fingerpost.errors import FingerpostError
from fingerpost.names import check_name, is_name

_FORM = "name=address:port, such as web-1=10.0.0.1:8000, then `zone=NAME` or `draining` where that is so"
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True)
class Upstream:
    """A host behind Envoy; the name is what the access log calls it.

    Attributes:
        zone: where it is, for proxies that route by locality; empty: not known.
        draining: it ends what it has and gets nothing new.
    """

    name: str
    address: str
    port: int
    zone: str = ""
    draining: bool = False


def parse_upstream(text: str) -> Upstream:
    """An upstream out of `name=address:port`, an IPv6 address in brackets; words after it say more.

    Raises:
        FingerpostError: it does not fit.
    """
    line, *words = text.split() or [""]
    name, found, rest = line.partition("=")
    address, colon, port = rest.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        check_name(name, "name")
    except ValueError as error:
        raise FingerpostError(f"host {text.strip()!r}: {error}; write {_FORM}") from error
    if not found or not colon or not address:
        raise FingerpostError(f"host {text.strip()!r} has no address and port: write {_FORM}")
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise FingerpostError(f"host {text.strip()!r}: {port!r} is no port from 1 to 65535: write {_FORM}")
    zone, draining = "", False
    for word in words:
        if word.startswith("zone=") and is_name(word.removeprefix("zone=")):
            zone = word.removeprefix("zone=")
        elif word == "draining":
            draining = True
        else:
            raise FingerpostError(f"host {text.strip()!r}: {word!r} means nothing here: write {_FORM}")
    return Upstream(name, plain_address(address), int(port), zone, draining)


def plain_address(address: str) -> str:
    """An IP address as it is commonly spelled, `::1` for `0:0:0:0:0:0:0:1`; anything else as it is."""
    try:
        return ipaddress.ip_address(address).compressed
    except ValueError:
        return address


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
