"""The services behind one Envoy: which requests are whose, where their hosts are listed, their tables and logs."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError
from fingerpost.names import check_name
from fingerpost.routing.envoy.transport import HostSide
from fingerpost.routing.envoy.upstream import Upstream, parse_upstreams

_MAX_BYTES = 2**20
_KEYS = {
    "domains": list,
    "prefix": str,
    "hosts": str,
    "endpoints": str,
    "table": str,
    "access_log": str,
    "health_path": str,
    "timeout_s": float,
    "hosts_http": str,
    "hosts_ca": str,
    "hosts_name": str,
}
# Makes a label of the service's name in the picker's counters: `fingerpost_predicted{fingerpost_service="shop"}`.
SERVICE_TAG = {
    "tag_name": "fingerpost_service",
    "regex": r"^fingerpost\.((.+)\.)(?:predicted|explored|random|least_request|fallback|tables_loaded|tables_refused)$",
}


@dataclass(frozen=True)
class Routed:
    """A service as Envoy routes it.

    Attributes:
        name: empty: the only service, whose cluster is `hosts`.
        access_log: of its requests alone where it has a name.
        endpoints: file that keeps its endpoints current, in place of `upstreams`.
        table: file that the router keeps fresh; None: it is not routed by prediction.
        domains, prefix: the requests that are its own; the longest prefix goes first.
        timeout_s: of a request.
    """

    name: str
    access_log: Path
    upstreams: list[Upstream] = field(default_factory=list)
    endpoints: Path | None = None
    table: Path | None = None
    domains: tuple[str, ...] = ("*",)
    prefix: str = "/"
    health_path: str | None = None
    timeout_s: float = 30.0
    transport: HostSide = field(default_factory=HostSide)

    @property
    def cluster(self) -> str:
        """The name of its cluster in Envoy's configuration."""
        return self.name or "hosts"


def check_services(services: Sequence[Routed]) -> None:
    """Makes sure that services can be told apart.

    Raises:
        ValueError: there is none, one of several has no name, or two have one name or take the same requests.
    """
    if not services:
        raise ValueError("no service is named: name at least one")
    if len(services) > 1 and not all(each.name for each in services):
        raise ValueError("each of several services needs a name")
    # A name is part of a header's, which knows no upper case.
    names: dict[str, str] = {}
    taken: dict[tuple[str, str], str] = {}
    for each in services:
        if each.name:
            check_name(each.name, "service")
        other = names.setdefault(each.name.lower(), each.name)
        if sum(one.name.lower() == other.lower() for one in services) > 1:
            raise ValueError(f"two services are called {other!r}: name each one")
        if not each.prefix.startswith("/"):
            raise ValueError(f"service {each.name!r}: the prefix {each.prefix!r} does not begin with '/'")
        for domain in each.domains:
            owner = taken.setdefault((domain, each.prefix), each.name)
            if owner != each.name:
                raise ValueError(
                    f"{each.name!r} and {owner!r} both take {domain!r} {each.prefix!r}: give one another prefix"
                )


def read_services(path: Path, home: Path) -> list[Routed]:
    """Services out of a TOML file with a table for each; docs/routing.md lists the keys.

    Args:
        home: tables are in `routing/`, logs in `logs/` of it where the file says nothing else.

    Raises:
        FingerpostError: it cannot be read, or holds a key or a value that does not fit.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FingerpostError(f"{path} is larger than {_MAX_BYTES} bytes")
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FingerpostError(f"{path} cannot be read: {error}") from error
    found = []
    for name, told in content.items():
        if not isinstance(told, dict):
            raise FingerpostError(f"{path}: {name!r} is no table: write [SERVICE] and its keys below")
        found.append(_service(path, name, told, home))
    try:
        check_services(found)
    except ValueError as error:
        raise FingerpostError(f"{path}: {error}") from error
    return found


def _service(path: Path, name: str, told: dict[str, Any], home: Path) -> Routed:
    for key, value in told.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise FingerpostError(f"{path}: [{name}] has the unknown key {key!r}: use {', '.join(_KEYS)}")
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise FingerpostError(f"{path}: [{name}] {key} = {value!r} should be a {kind.__name__}")
    timeout_s, domains = float(told.get("timeout_s", 30.0)), told.get("domains", ["*"])
    if not 0 < timeout_s < 86_400 * 365:
        raise FingerpostError(f"{path}: [{name}] timeout_s = {timeout_s} should be above 0, in seconds")
    if not domains or not all(isinstance(domain, str) and domain for domain in domains):
        raise FingerpostError(f"{path}: [{name}] domains = {domains!r} should be a list of domains, or be left out")
    folder = path.absolute().parent

    def file(key: str, default: Path | None = None) -> Path | None:
        return folder / told[key] if told.get(key) else default

    hosts = file("hosts")
    try:
        upstreams = parse_upstreams(hosts.read_text().splitlines()) if hosts else []
    except (OSError, UnicodeDecodeError) as error:
        raise FingerpostError(f"{path}: [{name}] hosts cannot be read: {error}") from error
    return Routed(
        name,
        file("access_log") or home / "logs" / f"{name}.access.log",
        upstreams,
        file("endpoints"),
        file("table") or home / "routing" / f"{name}.table",
        tuple(domains),
        told.get("prefix", "/"),
        told.get("health_path"),
        timeout_s,
        HostSide(told.get("hosts_http", "http1"), file("hosts_ca"), told.get("hosts_name", "")),
    )
