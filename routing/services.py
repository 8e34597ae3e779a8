"""Routes several services in one process: each has its own table, guard and endpoints, and fails alone."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from fingerpost.engine_api import EngineClient
from fingerpost.errors import FingerpostError
from fingerpost.names import check_name
from fingerpost.routing.engine_hosts import ENGINE, NameWatch, host_sources
from fingerpost.routing.hosts import EndpointsKeeper
from fingerpost.routing.router import Router
from fingerpost.settings import Settings

_LOG = logging.getLogger("fingerpost.router")
_SERVICE = "{service}"
_HOSTS_TIMEOUT_S = 3.0
# A service whose router failed in a way that nobody foresaw is tried again after this time.
_AGAIN_S = 10.0


@dataclass(frozen=True)
class Places:
    """Where a service's files are, and how its hosts are listed; in each text `{service}` is its name.

    Attributes:
        table, endpoints: empty: in `routing/` of the home.
        access_log: empty: its guard is off.
        hosts: see `fingerpost.routing.engine_hosts.host_sources`; empty: its endpoints are others' to keep.
        cluster: in Envoy's configuration.
    """

    table: str = ""
    access_log: str = ""
    hosts: str = ""
    endpoints: str = ""
    cluster: str = "hosts"

    def of(self, service: str) -> "Places":
        """The places of one service."""
        return Places(*(getattr(self, each.name).replace(_SERVICE, service) for each in fields(self)))


def check_places(places: Places, services: Sequence[str]) -> None:
    """Makes sure that several services do not write one file, or follow one log.

    Raises:
        FingerpostError: they do, one is named twice, or a name does not fit.
    """
    for service in services:
        try:
            check_name(service, "service")
        except ValueError as error:
            raise FingerpostError(f"--service: {error}") from error
    if len(set(services)) < len(services):
        raise FingerpostError(f"--service: one of {', '.join(services)} is named twice")
    for name in ("table", "access_log", "endpoints", "cluster"):
        text = getattr(places, name)
        if len(services) > 1 and text and _SERVICE not in text:
            option = f"--{name.replace('_', '-')}"
            raise FingerpostError(f"{option} {text} is one for {len(services)} services: write {_SERVICE} in it")


class ServiceRouter:
    """Keeps one service's table, and its endpoints where its hosts are listed.

    Args:
        url: of the engine.
        settings: of the service.
        places: of `Places.of`.

    Raises:
        FingerpostError: `places.hosts` names no source.
    """

    def __init__(self, url: str, settings: Settings, places: Places) -> None:
        folder = settings.home / "routing"
        self.table = Path(places.table) if places.table else folder / f"{settings.service}.table"
        self.table.parent.mkdir(parents=True, exist_ok=True)
        self.service, self._hosts = settings.service, places.hosts
        log = Path(places.access_log) if places.access_log else None
        if log is None:
            _LOG.warning(
                "the guard is off: predictions that prove worse than none keep their weight; give --access-log"
            )
        elif not log.exists():
            _LOG.warning("there is no access log at %s yet: until then the guard is off", log)
        self.names, self.keeper = NameWatch(), None
        if places.hosts:
            path = Path(places.endpoints) if places.endpoints else folder / f"{settings.service}.endpoints.json"
            client = EngineClient(url, settings.token_to_send, _HOSTS_TIMEOUT_S, settings.engine_tls)
            source, known = host_sources(places.hosts, client, settings.service)
            self.keeper = EndpointsKeeper(
                source, path, places.cluster, lambda found: self.names.look([each.name for each in found], known.known)
            )
            if places.hosts == ENGINE:
                self.keeper.prepare()
            self.keeper.update()
        self.router = Router(url, self.table, settings, log)

    def once(self) -> None:
        """Writes table and endpoints once.

        Raises:
            FingerpostError: the engine has no table, or the hosts cannot be read.
        """
        if self.keeper and self.keeper.problem:
            raise FingerpostError(f"--hosts {self._hosts}: {self.keeper.problem}")
        self.router.sync()

    def follow(self, stop: threading.Event) -> None:
        """Keeps them fresh until stopped; what nobody foresaw is logged, and tried again."""
        if self.keeper:
            threading.Thread(target=self.keeper.follow, args=(stop,), name="hosts", daemon=True).start()
        while not stop.is_set():
            try:
                self.router.follow(stop)
            except Exception:
                _LOG.exception("the router of %s failed; again in %s s", self.service, _AGAIN_S)
                stop.wait(_AGAIN_S)

    def close(self) -> None:
        self.router.close()


def follow_all(routers: Sequence[ServiceRouter], stop: threading.Event) -> None:
    """Follows each service in a thread of its own until stopped; the first in this one."""
    threads = [
        threading.Thread(target=each.follow, args=(stop,), name=f"router-{each.service}") for each in routers[1:]
    ]
    for thread in threads:
        thread.start()
    routers[0].follow(stop)
    for thread in threads:
        thread.join()
