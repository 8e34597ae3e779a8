"""Makes the windows that agents would report of a simulated fleet, by `fingerpost.telemetry.windows`."""

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.clock import US
from fingerpost.request_status import measures
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk
from fingerpost.telemetry.host_attribution import HostAttribution
from fingerpost.telemetry.windows import (
    Arrays,
    aggregate,
    aggregate_loads,
    in_flight,
    with_background,
    with_throughput,
)

# Windows end at multiples of their length since 1970, and so many of them have passed when a run begins.
_PASSED = 1_000_000
_FAILED, _FINE = 503, 200


class Telemetry:
    """Follows a run chunk by chunk; hosts and categories are told by their numbers.

    They are what agents know that read access logs: how long requests took, waiting for a slot included; the host's
    cores and utilisation, where agents are at the hosts; slots and in-flight counts where hosts tell.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._telling = scenario.telemetry
        self._window_s = self._telling.window_s
        self._span_us = round(self._window_s * US)
        self._origin_us = self._span_us * _PASSED
        # A reservoir that agents see is memory; else it is a quota of CPU, and they see when that throttles.
        self._shows_level = scenario.reservoir is not None and scenario.reservoir.shown
        self._shows_throttling = scenario.reservoir is not None and not scenario.reservoir.shown
        self._requests: list[Arrays] = []
        self._samples: list[Arrays] = []
        # Requests of the window before.
        whole = np.zeros(0, dtype=np.int64)
        self._last: Arrays = {"time_us": whole, "duration_s": np.zeros(0), "host": whole}
        self._closed_us = self._origin_us
        self._attributed = [
            HostAttribution(scenario.categories, self._telling.halflife_s, self._telling.attribution_halflife_s, 0.0)
            for _ in range(scenario.hosts if self._telling.cpu == "attributed" else 0)
        ]

    def seconds(self, time_us: int) -> float:
        """Seconds since the start of the run."""
        return (time_us - self._origin_us) / US

    def closed(self, chunk: Chunk) -> tuple[Arrays, Arrays] | None:
        """Takes in a chunk.

        Returns:
            Windows and loads that ended within it, ordered by time; None if no window did.
        """
        self._requests.append(self._requests_of(chunk))
        self._samples.append(self._samples_of(chunk))
        end_us = int(self._micros(chunk.end_s)) // self._span_us * self._span_us
        if end_us <= self._closed_us:
            return None
        self._closed_us = end_us
        requests, self._requests = _split(self._requests, end_us)
        if "inflight" not in requests:
            requests["inflight"] = self._counted(requests)
        samples, self._samples = _split(self._samples, end_us)
        if self._attributed:
            requests["cpu_s"], requests["cpu_attributed"] = self._attribute(requests, chunk.end_s)
        loads = aggregate_loads(samples, self._window_s)
        windows = aggregate(requests, self._window_s, loads)
        loads = with_background(loads, windows, self._window_s)
        return with_throughput(windows, loads), loads

    def _micros(self, time_s: Floats | float) -> Ints:
        return self._origin_us + np.floor(np.asarray(time_s) * US).astype(np.int64)

    def _requests_of(self, chunk: Chunk) -> Arrays:
        records = chunk.records
        # What found no host at all is in no host's telemetry.
        sent = records.host >= 0
        requests: Arrays = {
            "time_us": self._micros(records.time_s[sent]),
            "host": records.host[sent],
            "category": records.category[sent],
            "status": np.where(records.error[sent], _FAILED, _FINE),
            "duration_s": records.duration_s[sent],
        }
        if self._telling.hosts_tell:
            requests["inflight"] = records.inflight[sent].astype(np.float64)
        if self._telling.cpu == "measured":
            requests["cpu_s"] = records.service_time_s[sent]
        return requests

    def _counted(self, requests: Arrays) -> Floats:
        """Requests in flight as agents count them that are told nothing, by logs of this window, and just around it."""
        near = joined([self._last, requests, *self._requests])
        found = in_flight(near["time_us"], near["duration_s"], near["host"])
        before, self._last = len(self._last["host"]), {name: requests[name] for name in self._last}
        return found[before : before + len(requests["host"])]

    def _attribute(self, requests: Arrays, now_s: float) -> tuple[Floats, Floats]:
        """CPU-seconds of requests of one window, as every host's agent attributes them when it reports the window."""
        cpu_s, attributed = np.full((2, len(requests["host"])), np.nan)
        end_s = (requests["time_us"] - self._origin_us) / US
        for host, attribution in enumerate(self._attributed):
            of = np.flatnonzero(requests["host"] == host)
            told = (end_s[of], requests["duration_s"][of], cpu_s[of], measures(requests["status"][of]))
            cpu_s[of], attributed[of] = attribution.add_requests(*told, requests["category"][of], now_s)
        return cpu_s, attributed

    def _samples_of(self, chunk: Chunk) -> Arrays:
        samples, host = chunk.samples, np.flatnonzero(chunk.samples.up)
        edges_s = np.array([chunk.begin_s, chunk.end_s])
        used_s = samples.cpu_util * samples.cores * (chunk.end_s - chunk.begin_s)
        slots = samples.slots.astype(np.float64) if self._telling.hosts_tell else np.full(len(used_s), np.inf)
        for each in host.tolist() if self._attributed else ():
            self._attributed[each].add_sample(
                edges_s, used_s[each : each + 1], 0.0, float(samples.cores[each]), float(slots[each])
            )
        told: Arrays = {
            # Of the span before its end, thus within the window that ends there.
            "time_us": np.full(len(host), self._micros(chunk.end_s) - 1),
            "host": host,
        }
        if self._telling.cpu != "unknown":
            told |= {"cpu_util": samples.cpu_util[host], "cores": samples.cores[host].astype(np.float64)}
            if self._shows_level:
                told["mem_share"] = samples.level[host]
            if self._shows_throttling:
                told["throttled_share"] = samples.throttled[host].astype(np.float64)
        if self._telling.hosts_tell:
            told["slots"] = samples.slots[host].astype(np.float64)
            told["inflight"] = samples.inflight[host].astype(np.float64)
        return told


def joined(parts: list[Arrays]) -> Arrays:
    """Arrays of the same names, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _split(parts: list[Arrays], end_us: int) -> tuple[Arrays, list[Arrays]]:
    """What is earlier than a time, and the rest."""
    together = joined(parts)
    before = together["time_us"] < end_us
    rest = {name: values[~before] for name, values in together.items()}
    return {name: values[before] for name, values in together.items()}, [rest]
