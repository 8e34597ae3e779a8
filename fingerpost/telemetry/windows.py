"""Windows: requests and host samples as plain arrays, aggregated over fixed spans of time.

NumPy alone, so that an agent beside a host can compute what the features step computes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.clock import US
from fingerpost.records import SIGNS
from fingerpost.request_status import failed, measures
from fingerpost.telemetry.throughput import at_resolution, throughput_rps, unloaded_s

Arrays = dict[str, NDArray[Any]]

# Another one whenever windows of the same records come to say something else: what was made of the old is made anew.
WINDOW_FORM = 6
# A window is closed so long after its end, seconds: by then the log has the requests that ended in it.
SETTLE_S = 1.0
# All hosts close their windows at the same moment; their reports come to the engine within this time, seconds.
APART_S = 1.0
# What a window keeps of its durations, and the share of its requests that took no longer.
LATENCY_SHARES = {"latency_p50_s": 0.5, "latency_p90_s": 0.9, "latency_p99_s": 0.99}
# Columns that may be absent; a mean over what is known.
_MEANS = (
    ("service_time_mean_s", "service_time_s"),
    ("unloaded_mean_s", "unloaded_s"),
    ("bytes_in_mean", "bytes_in"),
    ("cpu_mean_s", "cpu_s"),
    ("cpu_attributed_share", "cpu_attributed"),
    ("mem_mean_bytes", "mem_bytes"),
    ("inflight_mean", "inflight"),
)
_LOADS = ("cpu_util", "mem_share", "inflight", *SIGNS)
_SETTLED = ("cores", "slots")
_GROUP_BITS = 32


def window_end_us(time_us: ArrayLike, window_s: float) -> Ints:
    """The end of the window that holds each time; a window holds its beginning, not its end.

    Windows end at multiples of their length since 1970; microseconds, any shape.
    """
    span = round(window_s * US)
    return (np.asarray(time_us, dtype=np.int64) // span + 1) * span


def aggregate(requests: Mapping[str, ArrayLike], window_s: float, loads: Arrays | None = None) -> Arrays:
    """Windows of (host, category).

    Args:
        requests: arrays of one length, in any order: `time_us` (end of the request, microseconds since 1970), `host`
            and `category` (indices from 0), `status`, `duration_s`; and, where known, `service_time_s`, `cpu_s`,
            `cpu_attributed` (1, or 0 of measured CPU), `mem_bytes`, `bytes_in`, `inflight`. NaN where not known. With
            `weight`, whole numbers from 1, each stands for as many requests: without `loads` all results are those of
            the rows repeated so often.
        window_s: length of a window, seconds.
        loads: of `aggregate_loads`: how many requests the hosts serve at once.

    Returns:
        One entry a (window, host, category) that had requests, ordered by these: `end_us`, `host`, `category`,
        `requests`, `errors` (failed), `measured` (of the others, those that were neither refused nor given up), `cpu_s`
        (of all of them, where it is known of some); and of what was measured alone: `latency_mean_s`, `latency_p50_s`,
        `latency_p90_s`, `latency_p99_s` (linear between order statistics), `service_time_mean_s`, `unloaded_mean_s`
        (with a free place, see `fingerpost.telemetry.throughput.unloaded_s`), `bytes_in_mean`, `cpu_mean_s`,
        `cpu_attributed_share`, `mem_mean_bytes`, `inflight_mean`; means over the requests of which it is known, NaN
        where of none. A service time that is not known is taken to be the duration; in-flight that is not known is
        counted by `in_flight` among these requests.
    """
    time_us = np.asarray(requests["time_us"], dtype=np.int64)
    if not time_us.size:
        return _no_windows()
    ends = window_end_us(time_us, window_s)
    host, category = (np.asarray(requests[name], dtype=np.int64) for name in ("host", "category"))
    group = _groups(ends, round(window_s * US), host, category)
    status = np.asarray(requests["status"])
    measured = measures(status)
    duration, service = _times(requests, ends, host)
    told = np.broadcast_to(np.asarray(requests.get("inflight", np.nan), dtype=np.float64), time_us.shape)
    if np.isnan(told).any():
        told = np.where(np.isnan(told), in_flight(time_us, service, host, requests.get("weight")), told)
    requests = {**requests, "inflight": told}
    unloaded, weight = _unloaded(requests, service, ends, host, loads)
    duration = np.where(measured, duration, np.nan)
    order = np.argsort(_sortable(group, duration))
    grouped = group[order]
    first = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    head = order[first]
    stands = np.broadcast_to(np.asarray(requests.get("weight", 1), dtype=np.int64), ends.shape)[order]
    count = np.add.reduceat(stands, first)
    windows: Arrays = {"end_us": ends[head], "host": host[head], "category": category[head], "requests": count}
    windows["errors"] = np.add.reduceat(np.where(failed(status)[order], stands, 0), first)
    windows["measured"] = np.add.reduceat(np.where(measured[order], stands, 0), first)
    # The CPU of a request that failed was the host's all the same.
    windows["cpu_s"] = _known_mean(_optional(requests, "cpu_s", order), first, stands) * count
    # Unknown durations sort last within their group.
    sorted_durations = duration[order]
    known = np.isfinite(sorted_durations)
    timed = np.add.reduceat(np.where(known, stands, 0), first)
    taken = np.where(known, sorted_durations, 0.0) * stands
    windows["latency_mean_s"] = safe_ratio(np.add.reduceat(taken, first), timed)
    until = np.cumsum(stands)
    for name, share in LATENCY_SHARES.items():
        windows[name] = _quantile(sorted_durations, until, until[first] - stands[first], timed, share)
    known_of: dict[str, ArrayLike] = {**requests, "service_time_s": service, "unloaded_s": unloaded}
    for name, source in _MEANS:
        values = _optional(known_of, source, order)
        values = None if values is None else np.where(measured[order], values, np.nan)
        windows[name] = _known_mean(values, first, weight[order] * stands if source == "unloaded_s" else stands)
    return windows


def memory_columns(mem_bytes: ArrayLike, mem_limit_bytes: ArrayLike) -> Arrays:
    """The columns of `aggregate_loads` that tell of memory: `mem_share` and `mem_left_bytes`."""
    used, limit = np.asarray(mem_bytes, dtype=np.float64), np.asarray(mem_limit_bytes, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"mem_share": used / limit, "mem_left_bytes": limit - used}


def aggregate_loads(samples: Mapping[str, ArrayLike], window_s: float) -> Arrays:
    """Host samples averaged over windows.

    Args:
        samples: arrays of one length: `time_us`, `host` (index), `cpu_util`, `cores`, `mem_share`, and where known
            `inflight`, `slots`, `mem_left_bytes` and `fingerpost.records.SIGNS`.

    Returns:
        One entry a (window, host): `end_us`, `host`; `cpu_util`, `mem_share`, `inflight` and SIGNS as means, `cores`,
        `slots`, `mem_left_bytes` as last known; NaN where not known.
    """
    time_us = np.asarray(samples["time_us"], dtype=np.int64)
    names = (*_LOADS, *_SETTLED, "mem_left_bytes")
    if not time_us.size:
        return {"end_us": time_us, "host": time_us, **{name: np.zeros(0) for name in names}}
    host = np.asarray(samples["host"], dtype=np.int64)
    ends = window_end_us(time_us, window_s)
    order = np.lexsort((time_us, host, ends))
    ends, host = ends[order], host[order]
    first = np.flatnonzero(np.r_[True, (ends[1:] != ends[:-1]) | (host[1:] != host[:-1])])
    loads: Arrays = {"end_us": ends[first], "host": host[first]}
    for name in _LOADS:
        loads[name] = _known_mean(_optional(samples, name, order), first)
    for name in (*_SETTLED, "mem_left_bytes"):
        loads[name] = _known_last(_optional(samples, name, order), first)
    return loads


def with_background(loads: Arrays, windows: Arrays, window_s: float) -> Arrays:
    """Loads with `background_cores`: cores in use less those that the requests of the window used, at least 0.

    NaN where there were requests, and it is known of none what it used.
    """
    place, count = _place(loads, windows), len(loads["end_us"])
    there = place >= 0
    cpu_s, place = _floats(windows, "cpu_s")[there], place[there]
    used = np.bincount(place, np.nan_to_num(cpu_s), count)
    served = np.bincount(place, minlength=count) > 0
    known = np.bincount(place, np.isfinite(cpu_s), count) > 0
    busy = _floats(loads, "cpu_util") * _floats(loads, "cores")
    left = np.maximum(busy - used / window_s, 0.0)
    return {**loads, "background_cores": np.where(served & ~known, np.nan, left)}


def with_throughput(windows: Arrays, loads: Arrays, sampled: bool = False) -> Arrays:
    """Windows with `throughput_rps` by the bottleneck law; NaN where nothing was measured.

    Args:
        windows: of `aggregate`.
        loads: of `with_background`.
        sampled: all hosts are sampled. Of a host that is, nothing is said in a window without a sample: with its
            resources unknown its throughput would be on another scale. Those that `loads` has are.
    """
    place = _place(loads, windows)

    def load(name: str) -> Floats:
        values = np.r_[_floats(loads, name), np.nan]
        return values[place]

    rate = throughput_rps(
        _floats(windows, "cpu_mean_s"),
        load("cores") - np.nan_to_num(load("background_cores")),
        _floats(windows, "unloaded_mean_s"),
        load("slots"),
        _floats(windows, "mem_mean_bytes"),
        load("mem_left_bytes"),
    )
    sampled_hosts = np.ones(len(place), dtype=bool) if sampled else np.isin(windows["host"], loads["host"])
    return {**windows, "throughput_rps": np.where(sampled_hosts & (place < 0), np.nan, rate)}


def select_window(arrays: Arrays, end_us: int) -> Arrays:
    """The entries of one window; `arrays` are ordered by `end_us`."""
    low, high = np.searchsorted(arrays["end_us"], [end_us, end_us + 1])
    return {name: values[low:high] for name, values in arrays.items()}


def _groups(ends: Ints, span: int, host: Ints, category: Ints) -> Ints:
    hosts, categories = int(host.max()) + 1, int(category.max()) + 1
    group = ((ends - ends.min()) // span * hosts + host) * categories + category
    if int(group.max()) >> _GROUP_BITS:
        group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return group


def _times(requests: Mapping[str, ArrayLike], ends: Ints, host: Ints) -> tuple[Floats, Floats]:
    """Durations and service times, as finely as their log has them; shape (n,)."""
    duration = np.asarray(requests["duration_s"], dtype=np.float64)
    service = np.asarray(requests.get("service_time_s", np.nan), dtype=np.float64)
    service = np.where(np.isfinite(service), service, duration)
    if not (duration == 0).any() and not (service == 0).any():
        return duration, service
    source = np.unique((ends, host), axis=1, return_inverse=True)[1].reshape(-1)
    return at_resolution(duration, source), at_resolution(service, source)


def _unloaded(
    requests: Mapping[str, ArrayLike], service: Floats, ends: Ints, host: Ints, loads: Arrays | None
) -> tuple[Floats, Floats]:
    """Of `unloaded_s`; all requests take places, whatever became of them."""
    place, count = np.zeros(len(service), dtype=np.int64), 0
    if loads is not None and len(loads["end_us"]):
        count = len(loads["end_us"])
        place = _place(loads, {"end_us": ends, "host": host})
        place = np.where(place >= 0, place, count)
    slots = np.append(_floats(loads, "slots") if loads is not None and count else np.zeros(0), np.nan)
    return unloaded_s(service, requests["inflight"], slots[place], place)


def in_flight(end_us: Ints, took_s: Floats, host: Ints, weight: ArrayLike | None = None) -> Floats:
    """How many requests were on its host when each began: begun before it, and not ended by then.

    Args:
        end_us: when each ended, microseconds, shape (n,).
        took_s: how long each took, seconds; NaN: it is not counted.
        host: indices from 0.
        weight: how many requests each stands for; None: for itself.

    Returns:
        Shape (n,); NaN where `took_s` is.
    """
    if not len(end_us):
        return np.zeros(0)
    known = np.isfinite(took_s)
    begin_us = end_us - np.rint(np.where(known, took_s, 0.0) * US).astype(np.int64)
    first = begin_us.min()
    # Hosts one after the other on one axis of time.
    apart = int(end_us.max() - first) + 1
    begun, ended = (host * apart + (each - first) for each in (begin_us, end_us))
    counted = known & (end_us > begin_us)
    stands = None if weight is None else np.broadcast_to(np.asarray(weight, dtype=np.float64), host.shape)[counted]
    before = _passed(begun[counted], stands, begun, "left")
    gone = _passed(ended[counted], stands, begun, "right")
    return np.where(known, before - gone, np.nan)


def _passed(moments: Ints, stands: Floats | None, at: Ints, side: Literal["left", "right"]) -> Floats | Ints:
    """How many of some moments lie before each of others, shape of `at`; `stands`: what each of them counts for."""
    if stands is None:
        return np.searchsorted(np.sort(moments), at, side=side)
    order = np.argsort(moments)
    return np.append(0.0, np.cumsum(stands[order]))[np.searchsorted(moments[order], at, side=side)]


def _sortable(group: Ints, duration: Floats) -> NDArray[np.uint64]:
    """One number that orders by group, then duration: the bits of a float that is not negative order as it does."""
    bits = np.abs(duration).astype(np.float32).view(np.uint32)
    return group.astype(np.uint64) << np.uint64(_GROUP_BITS) | bits


def _quantile(values: Floats, until: Ints, begin: Ints, count: Ints, share: float) -> Floats:
    """Of groups side by side, each ordered.

    Args:
        until: how many requests there are up to each value, itself included; as long as `values`.
        begin, count: of each group, how many requests come before it, and how many have a value.
    """
    position = np.maximum(count - 1, 0) * share
    low = position.astype(np.int64)
    below = values[np.searchsorted(until, begin + low, side="right")]
    above = values[np.searchsorted(until, begin + np.minimum(low + 1, np.maximum(count - 1, 0)), side="right")]
    return np.where(count > 0, below + (above - below) * (position - low), np.nan)


def _optional(columns: Mapping[str, ArrayLike], name: str, order: Ints) -> Floats | None:
    return np.asarray(columns[name], dtype=np.float64)[order] if name in columns else None


def _known_mean(values: Floats | None, first: Ints, weight: Floats | Ints | None = None) -> Floats:
    if values is None:
        return np.full(len(first), np.nan)
    known = np.isfinite(values)
    counted = known.astype(np.float64) if weight is None else known * weight
    return safe_ratio(np.add.reduceat(np.where(known, values, 0.0) * counted, first), np.add.reduceat(counted, first))


def _known_last(values: Floats | None, first: Ints) -> Floats:
    if values is None:
        return np.full(len(first), np.nan)
    last = np.maximum.reduceat(np.where(np.isfinite(values), np.arange(len(values)), -1), first)
    return np.where(last >= first, values[last], np.nan)


def _place(loads: Arrays, windows: Arrays) -> Ints:
    """For every entry of `windows`, the entry of `loads` of the same window and host, or -1."""
    ends = loads["end_us"]
    if not len(ends):
        return np.full(len(windows["end_us"]), -1)
    # Microseconds since 1970 take 51 bits in this century: (time, host) pairs are ranked, not packed.
    distinct = np.unique(ends)
    hosts = int(max(loads["host"].max(initial=0), windows["host"].max(initial=0))) + 1
    rank = np.searchsorted(distinct, windows["end_us"])
    found = (rank < len(distinct)) & (distinct[np.minimum(rank, len(distinct) - 1)] == windows["end_us"])
    keys = np.searchsorted(distinct, ends) * hosts + loads["host"]
    wanted = rank * hosts + windows["host"]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(found & (keys[place] == wanted), place, -1)


def _floats(arrays: Arrays, name: str) -> Floats:
    return np.asarray(arrays[name], dtype=np.float64)


def _no_windows() -> Arrays:
    whole = ("end_us", "host", "category", "requests", "errors", "measured")
    names = ("cpu_s", "latency_mean_s", *LATENCY_SHARES)
    return {
        **{name: np.zeros(0, dtype=np.int64) for name in whole},
        **{name: np.zeros(0) for name in (*names, *(name for name, _ in _MEANS))},
    }
