"""Defines the state that the history keeps of every cell and host, and the forecasts that are read from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.records import SIGNS
from fingerpost.telemetry.recurrence import RECURRENCE, REMEMBERED, SPELL

# What a cell's history follows, all on a log scale, since latency and throughput vary by ratios.
QUANTITIES = ("throughput_rps", "latency_p50_s", "latency_p90_s", "latency_p99_s", "cpu_request_s")
_SOURCES = ("throughput_rps", "latency_p50_s", "latency_p90_s", "latency_p99_s", "cpu_mean_s")
# Half-lives of the rolling averages, as multiples of `halflife_s`.
PACES = {"short": 0.25, "ewma": 1.0, "long": 8.0}
# Of each quantity: last and previous window, rolling averages, slow robust level, running median.
FORECASTS = ("last", *PACES, "level", "median")
# And of these as forecasts: a mean weighted by how well each did of late, and how far off each was.
ERRORS = tuple(f"error_{name}" for name in FORECASTS)
VIEWS = ("previous", *FORECASTS, "mixed", *ERRORS, "error_lasting", "bias")
MEDIAN_WINDOWS = 9
# The level follows each new window by this share of its distance, which is cut at LEVEL_CLIP (on a log scale).
LEVEL_GAIN, LEVEL_CLIP = 0.06, 0.3
# The errors of forecasts are averaged over windows, not over time: half-lives in windows.
ERROR_WINDOWS, BIAS_WINDOWS, LASTING_WINDOWS = 6.0, 10.0, 30.0
# How sharply the mixed forecast prefers what did well of late.
MIXING = 6.0
LOADS = ("cpu_util", "mem_share", "inflight", "background_cores", "cores", "slots", *SIGNS)

KINDS = len(QUANTITIES)
_RATE = QUANTITIES.index("throughput_rps")
_MIN_ERROR = 1e-3

# State by name, with the axes before (hosts, categories), or before (hosts,), and what it begins with.
_PACED = (len(PACES), KINDS)
CELL_STATE: dict[str, tuple[tuple[int, ...], float]] = {
    **{"weight": (_PACED, 0.0), "sum": (_PACED, 0.0), "traffic": ((5,), 0.0), "requests_last": ((), 0.0)},
    **dict.fromkeys(("last", "previous", "level", "median", "lasting", "bias"), ((KINDS,), np.nan)),
    "error": ((len(FORECASTS), KINDS), np.nan),
    "recent": ((MEDIAN_WINDOWS, KINDS), np.nan),
    # Windows with requests, and of these the ones that measured something.
    **dict.fromkeys(("seen", "measured", "seen_us", "first_us"), ((), 0)),
}
HOST_STATE: dict[str, tuple[tuple[int, ...], float]] = {
    **dict.fromkeys(("host_seen_us", "host_first_us", "sampled_us", "gap_end_us"), ((), 0)),
    # Of memory in use: how fast it grew, as a fading sum of shares a second, and the sum of its weights.
    "mem_growth": ((2,), 0.0),
    **{"host_traffic": ((2,), 0.0), "load_sum": ((2,), 0.0), "drift": ((2, KINDS), 0.0)},
    **{"host_requests": ((), 0.0), "gap_s": ((), 0.0), "load": ((len(LOADS),), np.nan), "off": ((KINDS,), np.nan)},
    # The number of the last window in which the host was heard; how slow it was up to there, and what recurs of it.
    "slow_window": ((), 0),
    **{"slow": ((REMEMBERED,), np.nan), "recurrence": ((len(RECURRENCE),), np.nan), "spell": ((len(SPELL),), np.nan)},
}


def fresh_state(hosts: int, categories: int) -> dict[str, NDArray[Any]]:
    """The state of a history that has seen nothing; whole numbers where it begins with one."""
    state: dict[str, NDArray[Any]] = {"now_us": np.zeros(1, dtype=np.int64)}
    for known, axes in ((CELL_STATE, (hosts, categories)), (HOST_STATE, (hosts,))):
        for name, (before, value) in known.items():
            state[name] = np.full((*before, *axes), value)
    return state


def remap_state(
    old: Mapping[str, NDArray[Any]],
    new: Mapping[str, NDArray[Any]],
    hosts: tuple[Ints, Ints],
    categories: tuple[Ints, Ints],
) -> None:
    """Copies the state of some hosts and categories into another state; each pair is of `index_of_common`."""
    (new_h, old_h), (new_c, old_c) = hosts, categories
    new["now_us"][...] = old["now_us"]
    for name in CELL_STATE:
        new[name][(..., new_h[:, None], new_c)] = old[name][(..., old_h[:, None], old_c)]
    for name in HOST_STATE:
        new[name][..., new_h] = old[name][..., old_h]


def index_of_common(old: Sequence[str], new: Sequence[str]) -> tuple[Ints, Ints]:
    """Of the names in both: their places in the new and in the old."""
    index = {name: place for place, name in enumerate(old)}
    both = [(place, index[name]) for place, name in enumerate(new) if name in index]
    pairs = np.array(both, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


FORECAST_STATE = ("last", "sum", "weight", "level", "median")


def forecasts_of(state: Mapping[str, NDArray[Any]]) -> Floats:
    """FORECASTS, shape (forecasts, kinds, ...), from the state of some cells."""
    paces = safe_ratio(state["sum"], state["weight"])
    paces[:, _RATE] = -np.log(paces[:, _RATE])
    return np.stack([state["last"], *paces, state["level"], state["median"]]).astype(np.float64)


def summable(values: Floats) -> Floats:
    """What the rolling averages add up of logs of QUANTITIES, shape (5, ...): of throughput 1 / its value.

    The mean over requests of the time they take of a host is the same however they are divided into windows; that of
    its log is not.
    """
    summed = values.copy()
    summed[_RATE] = np.exp(-values[_RATE])
    return summed


def mixed(forecasts: Floats, error: NDArray[Any], lasting: NDArray[Any]) -> Floats:
    """Mean of the forecasts, each weighted by exp(-error / usual error): prediction with expert advice.

    The exponentially weighted average forecaster (Cesa-Bianchi and Lugosi, Prediction, Learning, and Games, 2006,
    section 2.1), with errors that fade. Equal weights where no forecast has been judged yet.
    """
    off = np.where(np.isfinite(forecasts), np.nan_to_num(error / (lasting + _MIN_ERROR)), np.inf)
    best = off.min(axis=0)
    # Against the best, so that not all weights can vanish.
    weight = np.exp(-MIXING * (off - np.where(np.isfinite(best), best, 0.0)))
    return safe_ratio((weight * np.nan_to_num(forecasts)).sum(axis=0), weight.sum(axis=0))


def median(recent: NDArray[Any]) -> Floats:
    """Median over the first axis of what is known; NaN where nothing is."""
    ordered = np.sort(recent.astype(np.float64), axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    pick = [np.take_along_axis(ordered, np.minimum(each, len(ordered) - 1)[None], axis=0)[0] for each in (low, high)]
    return np.where(count > 0, (pick[0] + pick[1]) / 2, np.nan)


def log_values(windows: Mapping[str, NDArray[Any]]) -> Floats:
    """Logs of QUANTITIES, shape (5, n); what is absent, or not above 0, is NaN."""
    values = np.stack([windows[name].astype(np.float64) for name in _SOURCES])
    positive = np.isfinite(values) & (values > 0)
    return np.where(positive, np.log(np.where(positive, values, 1.0)), np.nan)
