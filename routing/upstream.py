"""A host behind the proxy."""

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
    try:
        check_name(name, "host")
        if not found or not colon or not address or not 0 < int(port) < 65536:
            raise ValueError("use name=address:port")
    except ValueError as error:
        raise FingerpostError(f"host {text!r}: {error}") from error
    return Upstream(name, address.removeprefix("[").removesuffix("]"), int(port))


def parse_upstreams(lines: Iterable[str]) -> list[Upstream]:
    """Upstreams out of lines; empty ones and comments (`#`) are skipped.

    Raises:
        FingerpostError: a line does not fit.
    """
    return [parse_upstream(line) for line in lines if line.strip() and not line.startswith("#")]
