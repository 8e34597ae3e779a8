"""The hosts as the engine knows them: endpoints that agents announced, hosts that drain, names that do not agree."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fingerpost.announcement import DRAINING, split_address
from fingerpost.engine_api import EngineClient, ListedHost
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.hosts import HostSource, host_source

_LOG = logging.getLogger("fingerpost.hosts")
# Agents and endpoints of one host do not come in the same second: names must disagree for so many looks.
_LOOKS = 15
_MAX_NAMED = 5
ENGINE = "engine:"


class EngineHosts:
    """Asks the engine for the hosts of a service; they come whole only where they have changed."""

    def __init__(self, client: EngineClient, service: str) -> None:
        self._client, self._service, self._etag = client, service, ""
        self.known: tuple[ListedHost, ...] = ()

    def look(self) -> tuple[ListedHost, ...]:
        """The hosts now.

        Raises:
            EngineError: the engine does not answer; `known` has the hosts as they were.
        """
        etag, hosts = self._client.listed(self._service, self._etag)
        if hosts is not None:
            self._etag, self.known = etag, tuple(hosts)
        return self.known


def host_sources(hosts: str, client: EngineClient, service: str) -> tuple[HostSource, EngineHosts]:
    """The source of endpoints that `--hosts` names, and the engine's view of the hosts.

    Args:
        hosts: `engine:`, those that agents announce; else as of `host_source`, whose hosts drain where the engine says.

    Raises:
        FingerpostError: it names no source.
    """
    engine = EngineHosts(client, service)
    return (announced(engine) if hosts == ENGINE else with_drains(host_source(hosts), engine)), engine


def announced(engine: EngineHosts) -> HostSource:
    """Hosts that announced an address, as a source of endpoints."""

    def read() -> list[Upstream]:
        found = upstreams(engine.look())
        if not found:
            raise FingerpostError("no host has announced its address: start agents with --address")
        return found

    return read


def upstreams(hosts: Iterable[ListedHost]) -> list[Upstream]:
    """Endpoints of the hosts that announced an address; where two have one, of the one that was heard of last."""
    at: dict[str, ListedHost] = {}
    for each in hosts:
        address = each.about.address
        if address and (address not in at or at[address].heard_s < each.heard_s):
            at[address] = each
    return [_upstream(each) for each in at.values()]


def _upstream(host: ListedHost) -> Upstream:
    address, port = split_address(host.about.address)
    plain = address.removeprefix("[").removesuffix("]")
    return Upstream(host.host, plain, port, host.about.zone, host.state == DRAINING)


def with_drains(source: HostSource, engine: EngineHosts) -> HostSource:
    """A source whose hosts drain also where the engine says so; while it does not answer, as it said last."""

    def read() -> list[Upstream]:
        found = source()
        try:
            engine.look()
        except FingerpostError as error:
            _LOG.debug("the engine does not say which hosts drain: %s", error)
        drains = {each.host for each in engine.known if each.state == DRAINING}
        return [replace(each, draining=True) if each.name in drains else each for each in found]

    return read


@dataclass(frozen=True)
class Unmatched:
    """Names that only one side has, in order.

    Attributes:
        endpoints: of endpoints, for which no agent has reported.
        agents: of hosts whose agents report, which are no endpoint.
    """

    endpoints: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """What to do, where both sides have such names: then one host has probably two; empty otherwise."""
        if not (self.endpoints and self.agents):
            return ""
        return (
            f"names of hosts do not agree: {_some(self.endpoints)} among Envoy's endpoints have no agent, "
            f"{_some(self.agents)} among the agents have no endpoint; give agents the endpoints' names (--host), "
            "or endpoints the agents'"
        )


def unmatched(endpoints: Iterable[str], known: Sequence[ListedHost]) -> Unmatched:
    """Compares the names of endpoints with those of the hosts whose agents report."""
    names, listed = set(endpoints), {each.host for each in known}
    reporting = {each.host for each in known if each.reports and each.state != DRAINING}
    return Unmatched(tuple(sorted(names - listed)), tuple(sorted(reporting - names)))


class NameWatch:
    """Logs names that do not agree, once they have not for a while.

    Attributes:
        found: at the last look.
    """

    def __init__(self) -> None:
        self.found, self._same, self._told = Unmatched(), 0, ""

    def look(self, endpoints: Iterable[str], known: Sequence[ListedHost]) -> None:
        """Compares, and logs what is new."""
        before, self.found = self.found, unmatched(endpoints, known)
        self._same = self._same + 1 if self.found == before else 0
        if self._same < _LOOKS or self.found.problem == self._told:
            return
        if self.found.problem:
            _LOG.warning("%s", self.found.problem)
        else:
            _LOG.info("names of hosts agree again")
        self._told = self.found.problem


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")
