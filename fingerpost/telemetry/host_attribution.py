"""The CPU and memory of a host, split over its requests: what each request cost, and what each category does."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints, decayed, safe_ratio
from fingerpost.telemetry.attribution import Attribution, CostAttribution, processor_sharing

Bools = NDArray[np.bool_]

# A span of the host's CPU is split once requests have been seen that ended so much later than it, and so are complete.
_SETTLE_S = 2.0
# Or, where no more requests come, after this.
_PATIENCE_S = 30.0
_MAX_SAMPLES = 600
_MAX_REQUESTS = 50_000
# A category is attributed CPU where less than this share of it is measured.
_KNOWN = 0.5
_MAX_S = 3600.0


@dataclass(frozen=True)
class _Sampled:
    """What a host used from one sample to the next: spans between `edges_s`, CPU-seconds in each, bytes held."""

    edges_s: Floats
    cpu_s: Floats
    mem_bytes: float
    cores: float


@dataclass(frozen=True)
class Costs:
    """What a request of each category takes of the host, shape (C,); NaN where none was seen.

    Args:
        cpu_s, cpu_error_s: attributed CPU-seconds and their standard error.
        mem_bytes, mem_error_bytes: attributed memory and its standard error.
    """

    cpu_s: Floats
    cpu_error_s: Floats
    mem_bytes: Floats
    mem_error_bytes: Floats


class HostAttribution:
    """Follows one host; all times are the wall clock's, seconds since 1970.

    Args:
        categories: how many there are; `add_requests` is given their indices.
        halflife_s: of the share of requests whose CPU was measured.
        attribution_halflife_s: of the split of CPU and memory, which needs more data and changes more slowly.
        now_s: the present.
    """

    def __init__(self, categories: int, halflife_s: float, attribution_halflife_s: float, now_s: float) -> None:
        self._categories = categories
        self._halflife_s = halflife_s
        # What failed, was refused or given up used the host too, but not as its category does: it is one of its own.
        self._cpu = CostAttribution(categories + 1, attribution_halflife_s, now_s)
        self._memory = CostAttribution(categories + 1, attribution_halflife_s, now_s, conserved=False)
        # What a request costs the host besides what is measured in it: the server's parsing and scheduling.
        self._overhead = CostAttribution(1, attribution_halflife_s, now_s)
        self._samples: deque[_Sampled] = deque(maxlen=_MAX_SAMPLES)
        # Begin, end, category and measured CPU of the requests that may reach into spans not yet split.
        self._requests = np.zeros((4, 0))
        # Of the requests that measure something: those with known CPU, and all; decayed.
        self._known, self._known_s = np.zeros((2, categories)), now_s
        self._slots = np.inf
        self._attributed: Attribution | None = None  # as of the last span, once it was asked for

    def use_categories(self, new_index: Sequence[int], categories: int) -> None:
        """Goes over to other categories; `new_index` gives for each old one the new one that takes its requests."""
        self._known = np.stack([np.bincount(new_index, known, categories) for known in self._known])
        self._categories, self._attributed = categories, None
        index = [*new_index, categories]
        self._cpu = self._cpu.folded(index, categories + 1)
        self._memory = self._memory.folded(index, categories + 1)
        self._requests[2] = np.asarray(index, dtype=np.float64)[self._requests[2].astype(np.intp)]

    def add_requests(
        self, end_s: Floats, took_s: Floats, cpu_s: Floats, measured: Bools, category: Ints, now_s: float
    ) -> tuple[Floats, Bools]:
        """Takes in requests, arrays of shape (n,), and tells the CPU that each cost the host.

        What was measured within the request gets the host's overhead added; what was not, its category's cost. So hosts
        with middleware and without are on one scale. A category of which most is measured is left to what is.

        Args:
            end_s: when each ended.
            took_s: how long the host took; NaN where not known.
            cpu_s: CPU-seconds measured within each; NaN where not known.
            measured: they measure something, see `fingerpost.request_status.measures`.
            category: the index of each one's category.

        Returns:
            CPU-seconds, NaN where not known, and whether they are attributed.
        """
        end = np.minimum(end_s, now_s)
        self._known *= decayed(now_s - self._known_s, self._halflife_s)
        self._known_s = now_s
        counted = (measured & np.isfinite(cpu_s), measured)
        self._known += np.stack([np.bincount(category, each, self._categories) for each in counted])
        place = np.where(measured, category, self._categories)
        arrived = np.stack([end - np.nan_to_num(took_s), end, place.astype(np.float64), cpu_s])
        self._requests = np.concatenate([self._requests, arrived], axis=1)[:, -_MAX_REQUESTS:]
        self._split(now_s)
        cost_s, overhead_s = self._cost_s(), float(np.nan_to_num(self._overhead.attribution().cost[0]))
        share = np.nan_to_num(safe_ratio(*np.column_stack([self._known, self._known.sum(axis=1)])))
        attributed = np.isnan(cpu_s) & (np.isfinite(cost_s) & (share < _KNOWN))[place]
        return np.minimum(np.where(attributed, cost_s[place], cpu_s + overhead_s), _MAX_S), attributed

    def add_sample(self, edges_s: Floats, cpu_s: Floats, mem_bytes: float, cores: float, slots: float = np.inf) -> None:
        """Takes in a host sample.

        Args:
            edges_s: of the spans since the sample before, shape (S + 1,).
            cpu_s: CPU-seconds that the host used in each, shape (S,).
            mem_bytes: held at its end.
            cores: that it may use.
            slots: requests it serves at once; infinite: not known.
        """
        self._slots = slots
        if (np.diff(edges_s) > 0).all():  # else the clock went back, and whose time it was is not known
            self._samples.append(_Sampled(edges_s, cpu_s, mem_bytes, cores))

    def costs(self, now_s: float) -> Costs:
        """What the categories cost, as of now."""
        self._split(now_s)
        cpu, memory = self._attribution(), self._memory.attribution()
        return Costs(cpu.cost[:-1], cpu.error[:-1], memory.cost[:-1], memory.error[:-1])

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
        shared = processor_sharing(begin, end, edges, self._slots)
        count, spans = self._categories + 1, len(used)
        cell = shared.span * count + category[shared.request]

        def by_category(values: Floats) -> Floats:
            return np.bincount(cell, values, spans * count).astype(np.float64).reshape(spans, count)

        ends, lengths = edges[1:], np.diff(edges)
        taken_s = np.bincount(shared.span, shared.part * (end - begin)[shared.request], spans)
        cores = np.repeat([each.cores for each in run], [len(each.cpu_s) for each in run])
        on_cores_s = np.minimum(taken_s, cores * lengths)
        self._cpu.observe(ends, lengths, used, by_category(shared.part), by_category(shared.seconds), on_cores_s)
        # Memory is known once a sample.
        firsts = np.cumsum([0, *(len(each.cpu_s) for each in run)])
        sample_s = np.add.reduceat(lengths, firsts[:-1])
        held = np.add.reduceat(by_category(shared.part * (end - begin)[shared.request]), firsts[:-1], axis=0)
        held /= sample_s[:, None]
        mem_bytes = np.array([each.mem_bytes for each in run])
        self._memory.observe(ends[firsts[1:] - 1], np.ones(len(run)), mem_bytes, held, held)
        if np.isfinite(cpu_s).all():
            measured = np.bincount(shared.span, shared.part * cpu_s[shared.request], spans)
            requests = np.bincount(shared.span, shared.part, spans).astype(np.float64)[:, None]
            self._overhead.observe(ends, lengths, used - measured, requests, requests)
