"""The hosts there are, from whoever knows: a file, a name in DNS, an orchestrator. They become Envoy's endpoints."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError
from fingerpost.lake import write_text_atomically
from fingerpost.names import is_name
from fingerpost.routing.envoy.clusters import discovery_response
from fingerpost.routing.envoy.upstream import Upstream, parse_upstreams

_LOG = logging.getLogger("fingerpost.hosts")
_LOOK_EVERY_S = 1.0
# A problem with the list is logged when it begins, and so often as long as it lasts.
_SAY_AGAIN_S = 60.0
_MAX_BYTES = 64 * 2**20
# More than any table has room for.
MAX_HOSTS = 16384

HostSource = Callable[[], list[Upstream]]


def host_source(text: str) -> HostSource:
    """Where hosts are listed.

    Args:
        text: path of a file with a host a line; `dns:NAME:PORT`, every address of the name, which is called by its
            address; or `endpointslices:FILE:PORT`, Kubernetes EndpointSlices as JSON or YAML (a slice, a list of them,
            or several documents), whose endpoints are called as their pods; without `:PORT` their first port; or
            `kubernetes:SERVICE:PORT` or `kubernetes:NAMESPACE/SERVICE:PORT`, the same from the cluster's API server.

    Returns:
        Reads them now; raises FingerpostError where they cannot be read, as a file that is not there yet.

    Raises:
        FingerpostError: the text says nothing of the kind.
    """
    kind, colon, rest = text.partition(":")
    if (kind, rest) == ("engine", "") and colon:
        raise FingerpostError(f"{text!r} needs the engine's URL: give --engine-url")
    if kind == "dns" and colon:
        name, _, port = rest.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 65536:
            raise FingerpostError(f"{text!r}: write dns:NAME:PORT, such as dns:web.internal:8000")
        return lambda: _of_dns(name, int(port))
    if kind == "endpointslices" and colon:
        path, _, port = rest.rpartition(":")
        number = int(port) if path and port.isdecimal() else 0
        file = Path(path if number else rest)
        return lambda: _of_slices(_text(file), str(file), number)
    if kind == "kubernetes" and colon:
        from fingerpost.routing.kubernetes import ClusterSlices

        service, _, port = rest.rpartition(":")
        number = int(port) if service and port.isdecimal() else 0
        slices = ClusterSlices(service if number else rest)
        return lambda: _of_slices(slices.text(), text, number)
    if colon and kind.isalnum() and not Path(text).exists():
        raise FingerpostError(
            f"{text!r} names no source of hosts, and no file: write engine:, dns:NAME:PORT, endpointslices:FILE, "
            "kubernetes:SERVICE:PORT, or a file's path"
        )
    return lambda: _of_lines(Path(text))


class EndpointsKeeper:
    """Keeps the file that Envoy reads a cluster's endpoints from.

    What cannot be read, and a list without any host, changes nothing: a fleet is not lost because its list is. Where
    all hosts drain, none does: requests have nowhere else to go.

    Args:
        source: of `host_source`.
        path: the file; renamed into place.
        cluster: its name in Envoy's configuration.
        after: gets the hosts after each look of `follow`.
        clock: seconds that never jump.
    """

    def __init__(
        self,
        source: HostSource,
        path: Path,
        cluster: str = "hosts",
        after: Callable[[list[Upstream]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self.path, self._cluster, self._after = source, path.absolute(), cluster, after
        self._known: list[Upstream] | None = None
        self._problem, self._said_s, self._clock = "", 0.0, clock
        self._written = 0

    @property
    def hosts(self) -> list[Upstream]:
        """Those that were written last."""
        return list(self._known or ())

    @property
    def problem(self) -> str:
        """Why the hosts that are known may be old; empty if they are not."""
        return self._problem

    def prepare(self) -> None:
        """Writes a list without hosts where there is no file yet: Envoy does not start without one."""
        if not self.path.exists():
            self._write([])

    def update(self) -> bool:
        """Looks once; True if the file was written."""
        try:
            found = self._source()
            if not found:
                raise FingerpostError("no host is listed")
            _check(found)
        except FingerpostError as error:
            self._tell(str(error))
            return False
        if self._problem:
            _LOG.info("the hosts can be read again; before: %s", self._problem)
        self._problem = ""
        if all(each.draining for each in found):
            found = [replace(each, draining=False) for each in found]
        found = sorted(found, key=lambda each: (each.name, each.address, each.port))
        if found == self._known:
            return False
        self._write(found)
        before = {each.name for each in self._known or ()}
        now = {each.name for each in found if not each.draining}
        _LOG.info("%d hosts; new: %s; gone: %s", len(found), _listed(now - before), _listed(before - now))
        self._known = found
        return True

    def _tell(self, problem: str) -> None:
        now_s = self._clock()
        if problem != self._problem or now_s - self._said_s >= _SAY_AGAIN_S:
            kept = "the hosts known before stay" if self._known else f"no host is known yet, {self.path} stays as it is"
            _LOG.warning("%s; %s", problem, kept)
            self._said_s = now_s
        self._problem = problem

    def _write(self, hosts: list[Upstream]) -> None:
        self._written += 1
        response = discovery_response(hosts, self._cluster, str(self._written))
        write_text_atomically(self.path, json.dumps(response))
        # The proxy may run as another user.
        self.path.chmod(0o644)

    def follow(self, stop: threading.Event) -> None:
        """Looks about once a second until stopped."""
        while not stop.is_set():
            try:
                self.update()
                self._after(self.hosts)
            except OSError as error:
                _LOG.warning("the endpoints cannot be written: %s", error)
            stop.wait(_LOOK_EVERY_S)


def _check(hosts: list[Upstream]) -> None:
    places: dict[tuple[str, int], str] = {}
    if len(hosts) > MAX_HOSTS:
        raise FingerpostError(f"{len(hosts)} hosts are listed: at most {MAX_HOSTS} have room")
    for each in hosts:
        other = places.setdefault((each.address, each.port), each.name)
        if other != each.name:
            raise FingerpostError(f"{each.address}:{each.port} is listed as {other!r} and as {each.name!r}")


def _of_lines(path: Path) -> list[Upstream]:
    return parse_upstreams(_text(path).splitlines())


def _of_dns(name: str, port: int) -> list[Upstream]:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise FingerpostError(f"{name!r} has no address: {error}") from error
    addresses = sorted({str(entry[4][0]) for entry in found})
    # A name holds no colons.
    return [Upstream(address.replace(":", "-").strip("-"), address, port) for address in addresses]


def _of_slices(text: str, origin: str, port: int) -> list[Upstream]:
    import yaml

    try:
        # JSON is YAML too, but the parser of YAML takes far longer for it.
        documents = [json.loads(text)] if text.lstrip().startswith("{") else list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FingerpostError(f"{origin} cannot be read: {error}") from error
    slices = [
        each
        for document in documents
        if isinstance(document, dict)
        for each in (document["items"] if isinstance(document.get("items"), list) else [document])
        if isinstance(each, dict) and each.get("kind", "EndpointSlice") == "EndpointSlice"
    ]
    try:
        found = [host for each in slices for host in _of_slice(each, port)]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise FingerpostError(f"{origin} holds no EndpointSlices: {error!r}") from error
    return [*{(each.name, each.address): each for each in found}.values()]


def _of_slice(entry: dict[str, Any], port: int) -> list[Upstream]:
    """Endpoints that serve; those that are about to end are draining. Unknown conditions count as true."""
    found = []
    if entry.get("addressType", "IPv4") == "FQDN":
        return []
    number = port or int(entry["ports"][0]["port"])
    for each in entry.get("endpoints") or ():
        conditions = each.get("conditions") or {}
        ready, terminating = conditions.get("ready"), conditions.get("terminating") is True
        serving = conditions.get("serving", ready)
        if serving is False or (ready is False and not terminating):
            continue
        address = str(each["addresses"][0])
        name = str((each.get("targetRef") or {}).get("name") or address.replace(":", "-").strip("-"))
        if not is_name(name):
            raise ValueError(f"{name!r} cannot be a host's name")
        found.append(Upstream(name, address, number, str(each.get("zone") or ""), terminating))
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FingerpostError(f"{path} is larger than {_MAX_BYTES} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FingerpostError(f"{path} cannot be read: {error}") from error


def _listed(names: set[str]) -> str:
    few = sorted(names)[:10]
    return ", ".join(few) + (" ..." if len(names) > len(few) else "") if few else "none"
