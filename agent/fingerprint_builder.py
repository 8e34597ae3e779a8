"""From request records and host samples to fingerprints."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.category import CategoryTable
from fingerpost.clock import US
from fingerpost.fingerprint import FINGERPRINT_CELL_COLUMNS, FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.request_status import measures
from fingerpost.telemetry.attribution import Attribution, CostAttribution
from fingerpost.telemetry.decay import ForwardDecay
from fingerpost.telemetry.processor_sharing import processor_sharing
from fingerpost.telemetry.profile import Observations, Profile, totals
from fingerpost.telemetry.resolution import at_resolution
from fingerpost.telemetry.throughput import unloaded_s

# A span of the host's CPU is split once requests have been seen that ended so much later than it, and so are complete.
_SETTLE_S = 2.0
# Or, where no more requests come, after this.
_PATIENCE_S = 30.0
_MAX_SAMPLES = 600
_MAX_REQUESTS = 50_000
_KNOWN = 0.5
_LEAST = 1e-12
_MAX_S = 3600.0


@dataclass(frozen=True)
class _Sampled:
    """What a host used from one sample to the next: spans between `edges_s`, CPU-seconds in each, bytes held."""

    edges_s: Floats
    cpu_s: Floats
    mem_bytes: float


class FingerprintBuilder:
    """Follows one host; all times are the wall clock's, seconds since 1970.

    Args:
        service, host, boot_id: of the fingerprints.
        table: the categories that `add_requests` is given indices of.
        halflife_s: of the profile.
        attribution_halflife_s: of the split of CPU and memory, which needs more data and changes more slowly.
        now_s: the present.
    """

    def __init__(
        self,
        service: str,
        host: str,
        boot_id: str,
        table: CategoryTable,
        halflife_s: float,
        attribution_halflife_s: float,
        now_s: float,
    ) -> None:
        count = len(table.names)
        self._identity = (service, host, boot_id)
        self._table = table
        self._halflife_s = halflife_s
        self._sequence = 0
        self._profile = Profile(count, halflife_s, now_s)
        # What failed, was refused or given up used the host too, but not as its category does: it is one of its own.
        self._cpu = CostAttribution(count + 1, attribution_halflife_s, now_s)
        self._memory = CostAttribution(count + 1, attribution_halflife_s, now_s, conserved=False)
        # What a request costs the host besides what is measured in it: the server's parsing and scheduling.
        self._overhead = CostAttribution(1, attribution_halflife_s, now_s)
        self._samples: deque[_Sampled] = deque(maxlen=_MAX_SAMPLES)
        # Begin, end, category and measured CPU of the requests that may reach into spans not yet split.
        self._requests = np.zeros((4, 0))
        self._utilisation = np.zeros(2)  # weighted sum and weight
        self._decay = ForwardDecay(halflife_s, now_s)
        self._host: dict[str, float] = {}
        self._attributed: Attribution | None = None  # as of the last span, once it was asked for

    @property
    def sampled(self) -> bool:
        """Whether the host has been sampled: before that there is nothing to say of it."""
        return bool(self._host)

    def use_table(self, table: CategoryTable, new_index: Sequence[int]) -> None:
        """Goes over to other categories; `new_index` gives for each old one the new one that takes its requests."""
        count = len(table.names)
        self._table = table
        self._profile = self._profile.folded(new_index, count)
        self._attributed = None
        index = [*new_index, count]
        self._cpu = self._cpu.folded(index, count + 1)
        self._memory = self._memory.folded(index, count + 1)
        self._requests[2] = np.asarray(index, dtype=np.float64)[self._requests[2].astype(np.intp)]

    def add_requests(self, rows: list[dict[str, Any]], category: NDArray[np.int32], now_s: float) -> None:
        """Takes in request records that have passed the door, with the index of each one's category."""
        if not rows:
            return
        end = np.minimum(_column(rows, "time") / US, now_s)
        log = np.zeros(len(rows), dtype=np.int64)
        duration, service_time = (at_resolution(_column(rows, name), log) for name in ("duration_s", "service_time_s"))
        service_time = np.where(np.isfinite(service_time), service_time, duration)
        inflight = _column(rows, "inflight")
        slots, present = self._host.get("slots", np.nan), self._profile.present(now_s)
        cpu_s, status = _column(rows, "cpu_s"), _column(rows, "status")
        self._profile.add(
            Observations(
                end,
                category.astype(np.intp),
                status,
                duration,
                *unloaded_s(service_time, inflight, slots, None, present),
                cpu_s,
                _column(rows, "mem_bytes"),
                inflight,
            )
        )
        length = np.nan_to_num(service_time)
        place = np.where(measures(status), category, len(self._table.names))
        arrived = np.stack([end - length, end, place.astype(np.float64), cpu_s])
        self._requests = np.concatenate([self._requests, arrived], axis=1)[:, -_MAX_REQUESTS:]

    def complete(self, rows: list[dict[str, Any]], category: NDArray[np.int32], now_s: float) -> None:
        """Gives records the CPU that they cost the host, as `cpu_s`, and says whether it is attributed.

        What was measured within the request gets the host's overhead added; what was not, its category's cost. So hosts
        with middleware and without are on one scale. A category of which most is measured is left to what is.

        Args:
            rows: that `add_requests` was given, changed in place.
            category: the index of each one's category.
        """
        self._split(now_s)
        share, whole = self._profile.cpu_known()
        cost_s, overhead_s = self._cost_s(), self._overhead_s()
        known = np.isfinite(cost_s) & (np.append(share, whole) < _KNOWN)
        attributed = [min(cost, _MAX_S) if use else None for cost, use in zip(cost_s.tolist(), known, strict=True)]
        for row, place in zip(rows, category.tolist(), strict=True):
            within_s = row.get("cpu_s")
            if within_s is not None:
                row["cpu_s"], row["cpu_attributed"] = min(within_s + overhead_s, _MAX_S), 0
            elif (cost := attributed[place if measures(row["status"]) else -1]) is not None:
                row["cpu_s"], row["cpu_attributed"] = cost, 1

    def add_sample(self, sample: dict[str, Any], edges_s: Floats, cpu_s: Floats) -> None:
        """Takes in a host sample.

        Args:
            sample: that has passed the door.
            edges_s: of the spans since the sample before, shape (S + 1,).
            cpu_s: CPU-seconds that the host used in each, shape (S,).
        """
        now_s = sample["time"] / US
        factor = self._decay.rescaling(now_s)
        if factor is not None:
            self._utilisation *= factor
        weight = float(self._decay.weight(now_s))
        self._utilisation += weight * np.array([sample["cpu_util"], 1.0])
        self._host = {name: np.nan if value is None else value for name, value in sample.items() if name != "host"}
        if (np.diff(edges_s) > 0).all():  # else the clock went back, and whose time it was is not known
            self._samples.append(_Sampled(edges_s, cpu_s, float(sample["mem_bytes"])))

    def fingerprint(self, now_s: float) -> Fingerprint:
        """The next fingerprint, as of now."""
        self._split(now_s)
        cells = self._profile.columns(now_s)
        cpu, memory, cost_s = self._attribution(), self._memory.attribution(), self._cost_s()
        measured = cells["cpu_known"] >= _KNOWN
        weighed = np.isfinite(cells["mem_bytes"])
        cells["cpu_attributed_s"], cells["cpu_error_s"] = cpu.cost[:-1], cpu.error[:-1]
        cells["mem_error_bytes"] = np.where(weighed, np.nan, memory.error[:-1])
        cells["cpu_s"] = np.where(measured, cells["cpu_s"] + self._overhead_s(), cost_s[:-1])
        cells["mem_bytes"] = np.where(weighed, cells["mem_bytes"], memory.cost[:-1])
        service, host, boot_id = self._identity
        made = Fingerprint(
            service,
            host,
            boot_id,
            self._sequence,
            round(now_s * US),
            self._halflife_s,
            self._table.version,
            self._table.names,
            self._host_values(cells, float(np.nan_to_num(cost_s[-1]))),
            np.stack([cells[name] for name in FINGERPRINT_CELL_COLUMNS], axis=1),
        )
        self._sequence += 1
        return made

    def _cost_s(self) -> Floats:
        """CPU-seconds a request of every category, and last of what measures nothing; NaN where none was seen.

        Of a cost that is less than its standard error only that is known.
        """
        found = self._attribution()
        return np.maximum(found.cost, found.error)

    def _attribution(self) -> Attribution:
        if self._attributed is None:
            self._attributed = self._cpu.attribution()
        return self._attributed

    def _overhead_s(self) -> float:
        return float(np.nan_to_num(self._overhead.attribution().cost[0]))

    def _host_values(self, cells: dict[str, Floats], unmeasured_cpu_s: float) -> Floats:
        known = self._host
        util = self._utilisation[0] / self._utilisation[1] if self._utilisation[1] > 0 else np.nan
        share = cells["measured"] / np.maximum(cells["requests"], _LEAST)
        each_s = share * np.nan_to_num(cells["cpu_s"]) + (1 - share) * unmeasured_cpu_s
        requests_cores = float((cells["rate_rps"] * each_s).sum())
        values = {
            "cpu_util": util,
            "cores": known.get("cores", np.nan),
            "host_mem_bytes": known.get("mem_bytes", np.nan),
            "mem_limit_bytes": known.get("mem_limit_bytes", np.nan),
            "host_inflight": known.get("inflight", np.nan),
            "slots": known.get("slots", np.nan),
            "background_cores": max(0.0, util * known.get("cores", np.nan) - requests_cores) if known else np.nan,
            "host_rate_rps": float(cells["rate_rps"].sum()),
        }
        return np.array([values[name] for name in FINGERPRINT_HOST_COLUMNS], dtype=np.float64)

    def _split(self, now_s: float) -> None:
        """Splits the samples whose requests have all been seen."""
        begin, end = self._requests[:2]
        latest = end.max(initial=-np.inf)
        runs: list[list[_Sampled]] = []
        while self._samples:
            each = self._samples[0]
            if latest < each.edges_s[-1] + _SETTLE_S and now_s < each.edges_s[-1] + _PATIENCE_S:
                break
            # In one go, since it costs little more than one of them; unless there is a gap.
            if not runs or runs[-1][-1].edges_s[-1] != each.edges_s[0]:
                runs.append([])
            runs[-1].append(self._samples.popleft())
        self._attributed = None if runs else self._attributed
        for run in runs:
            self._split_run(run, self._requests[:, (begin < run[-1].edges_s[-1]) & (end > run[0].edges_s[0])])
        waiting = self._samples[0].edges_s[0] if self._samples else now_s - _PATIENCE_S
        self._requests = self._requests[:, end > waiting]

    def _split_run(self, run: list[_Sampled], there: Floats) -> None:
        """Splits samples without gaps between them over the requests that were there."""
        begin, end, category, cpu_s = there[0], there[1], there[2].astype(np.intp), there[3]
        edges = np.concatenate([run[0].edges_s[:1], *(each.edges_s[1:] for each in run)])
        used = np.concatenate([each.cpu_s for each in run])
        slots = self._host.get("slots", np.nan)
        shared = processor_sharing(begin, end, edges, slots if slots > 0 else np.inf)
        count, spans = len(self._table.names) + 1, len(used)
        cell = shared.span * count + category[shared.request]

        def by_category(values: Floats) -> Floats:
            return totals(cell, values, spans * count).reshape(spans, count)

        ends, lengths = edges[1:], np.diff(edges)
        self._cpu.observe(ends, lengths, used, by_category(shared.part), by_category(shared.seconds))
        # Memory is known once a sample.
        firsts = np.cumsum([0, *(len(each.cpu_s) for each in run)])
        sample_s = np.add.reduceat(lengths, firsts[:-1])
        held = np.add.reduceat(by_category(shared.part * (end - begin)[shared.request]), firsts[:-1], axis=0)
        held /= sample_s[:, None]
        mem_bytes = np.array([each.mem_bytes for each in run])
        self._memory.observe(ends[firsts[1:] - 1], np.ones(len(run)), mem_bytes, held, held)
        if np.isfinite(cpu_s).all():
            measured = totals(shared.span, shared.part * cpu_s[shared.request], spans)
            requests = totals(shared.span, shared.part, spans)[:, None]
            self._overhead.observe(ends, lengths, used - measured, requests, requests)


def _column(rows: list[dict[str, Any]], name: str) -> Floats:
    return np.array([np.nan if (value := row.get(name)) is None else value for row in rows], dtype=np.float64)
