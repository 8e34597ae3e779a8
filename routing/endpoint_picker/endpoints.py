"""The endpoints there are: how many requests each has under way, and which of them refused one a moment ago."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.clusters import ERRORS_IN_A_ROW, GATEWAY_ERRORS, GATEWAY_ERRORS_IN_A_ROW, LEFT_OUT_S
from fingerpost.routing.envoy.upstream import Upstream, plain_address
from fingerpost.routing.inflight import faded, others_of, work_ahead

# What restarts is back in seconds.
_REFUSED_S = 5.0
_SERVER_ERROR = 500
# What is kept of an endpoint while others come and go.
_KEPT = ("refused_until", "others", "told_at", "heard_at", "work_s", "queued", "since", "queued_until")


def endpoint_of(upstream: Upstream) -> str:
    """`address:port`, an IPv6 address in brackets: what the protocol calls an endpoint."""
    address = plain_address(upstream.address)
    return f"[{address}]:{upstream.port}" if ":" in address else f"{address}:{upstream.port}"


def plain_endpoint(text: str) -> str:
    """`address:port` spelled as `endpoint_of` does, however whoever sent it spells an IPv6 address."""
    address, colon, port = text.rpartition(":")
    if not colon or not address.startswith("["):
        return text
    return f"[{plain_address(address[1:].removesuffix(']'))}]:{port}"


class Endpoints:
    """Counts by endpoint. Requests are known by the endpoint's text, so that the set may change under them.

    Attributes:
        names: hosts' names, as tables call them, in the order of the arrays.
        addresses: the endpoints, same order.
        inflight, refused_until: arrays in that order; counts, and until when one is left out, monotonic seconds.
        others, told_at, heard_at: requests of other pickers as endpoints told them, when, in monotonic seconds, and
            after how many such answers; same order.
        work_s: predicted seconds of the requests under way; queued, since, queued_until: requests that waited at an
            endpoint when it was last looked at, how many were sent there since, and until when that counts, in
            monotonic seconds; same order.
        version: another number after every change of the set.
    """

    def __init__(self, upstreams: Sequence[Upstream] = ()) -> None:
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.inflight: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.refused_until: Floats = np.zeros(0)
        self.others: Floats = np.zeros(0)
        self.told_at: Floats = np.zeros(0)
        self.heard_at: Floats = np.zeros(0)
        self.work_s: Floats = np.zeros(0)
        self.queued: Floats = np.zeros(0)
        self.since: Floats = np.zeros(0)
        self.queued_until: Floats = np.zeros(0)
        self._heard = 0
        self._errors: dict[str, tuple[int, int]] = {}  # in a row up to now: of all kinds, and of gateways
        self.version = 0
        self._known = 0
        self._place: dict[str, int] = {}
        self.replace(upstreams)

    @property
    def known(self) -> int:
        """How many endpoints there are; those that left but have requests under way stand behind them."""
        return self._known

    def replace(self, upstreams: Sequence[Upstream]) -> None:
        """Makes these the endpoints; what is under way stays counted.

        Raises:
            FingerpostError: an endpoint is listed twice.
        """
        found = {endpoint_of(upstream): upstream.name for upstream in upstreams}
        if len(found) < len(upstreams):
            raise FingerpostError("an endpoint is listed twice")
        left = [
            place for place, address in enumerate(self.addresses) if address not in found and self.inflight[place] > 0
        ]
        addresses = [*found, *(self.addresses[place] for place in left)]
        before = [self._place.get(address) for address in addresses]
        inflight = [0 if place is None else int(self.inflight[place]) for place in before]
        for name in _KEPT:
            values = getattr(self, name)
            setattr(self, name, np.array([0.0 if place is None else float(values[place]) for place in before]))
        self.names = [*found.values(), *(self.names[place] for place in left)]
        self.addresses = addresses
        self.inflight = np.array(inflight, dtype=np.int64)
        self._known = len(found)
        self._errors = {address: errors for address, errors in self._errors.items() if address in found}
        self._place = {address: place for place, address in enumerate(addresses)}
        self.version += 1

    def eligible(self, subset: Sequence[str] | None) -> NDArray[np.int64]:
        """Places of the endpoints that may be chosen; None: all, else those of the subset."""
        if subset is None:
            return np.arange(self._known)
        places = {self._place[address] for address in map(plain_endpoint, subset) if address in self._place}
        return np.array(sorted(place for place in places if place < self._known), dtype=np.int64)

    def load(self, places: NDArray[np.int64], now_s: float) -> Floats:
        """Requests in flight at these places: the picker's own, and those of others as far as endpoints told them.

        Args:
            now_s: monotonic seconds.
        """
        rounds = (self._heard - self.heard_at[places]) / max(self._known, 1)
        return self.inflight[places] + faded(self.others[places], rounds, now_s - self.told_at[places])

    def work_ahead(self, places: NDArray[np.int64], each_s: Floats, now_s: float) -> Floats:
        """Seconds of work at these places, where endpoints are asked for their queues: `routing.inflight.work_ahead`.

        Args:
            each_s: predicted seconds of the request to be sent, at each place.
            now_s: monotonic seconds.
        """
        fresh = now_s < self.queued_until[places]
        queued, since = (np.where(fresh, values[places], 0.0) for values in (self.queued, self.since))
        return work_ahead(self.inflight[places].astype(np.float64), self.work_s[places], queued, since, each_s)

    def begin(self, address: str, work_s: float = 0.0) -> bool:
        """Counts a request at an endpoint; False, and nothing counted, if there is no such endpoint.

        Args:
            work_s: what it is predicted to take there; `end` is to be told the same.
        """
        place = self._place.get(address)
        if place is None:
            return False
        self.inflight[place] += 1
        self.work_s[place] += work_s
        self.since[place] += 1
        return True

    def told(self, address: str, requests: int, now_s: float) -> None:
        """Takes note of how many requests an endpoint has, as it told when the answer to one of them began."""
        place = self._place.get(address)
        if place is not None:
            self._heard += 1
            self.others[place] = others_of(requests, int(self.inflight[place]))
            self.told_at[place], self.heard_at[place] = now_s, self._heard

    def queue(self, address: str, waiting: float, until_s: float) -> None:
        """Takes note of how many requests wait at an endpoint, which counts until then, in monotonic seconds."""
        place = self._place.get(address)
        if place is not None:
            self.queued[place], self.since[place], self.queued_until[place] = waiting, 0.0, until_s

    def end(self, address: str, work_s: float = 0.0) -> None:
        """Takes a request that `begin` counted away again."""
        place = self._place[address]
        self.inflight[place] -= 1
        # Nothing is left of sums of many terms where there is nothing.
        self.work_s[place] = max(0.0, self.work_s[place] - work_s) if self.inflight[place] else 0.0

    def refused(self, address: str, now_s: float) -> None:
        """Leaves an endpoint out for five seconds: it did not take a request."""
        place = self._place.get(address)
        if place is not None:
            self.refused_until[place] = now_s + _REFUSED_S

    def answered(self, address: str, status: int, now_s: float) -> None:
        """Leaves an endpoint out for a while that answers errors in a row, as Envoy does where it is asked."""
        place = self._place.get(address)
        if status < _SERVER_ERROR or place is None:
            self._errors.pop(address, None)
            return
        errors, gateway = self._errors.get(address, (0, 0))
        errors, gateway = errors + 1, gateway + 1 if status in GATEWAY_ERRORS else 0
        if errors >= ERRORS_IN_A_ROW or gateway >= GATEWAY_ERRORS_IN_A_ROW:
            self.refused_until[place] = now_s + LEFT_OUT_S
            errors = gateway = 0
        self._errors[address] = (errors, gateway)
