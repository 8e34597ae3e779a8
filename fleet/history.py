"""The history of hosts, followed window by window: what concerns one host alone, for each of its categories.

NumPy alone. Nothing here looks from one host at another: followed by itself, a host has the history that it has in its
fleet, to the bit. So an agent beside a host can keep it live, and the features step can replay it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet.windows import US, Floats, Ints

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
_TRAFFIC = ("requests_last", "rate_rps_last", "rate_rps_ewma", "error_share", "bytes_in", "inflight")
HISTORY_COLUMNS = (
    *(f"{quantity}_{view}" for quantity in QUANTITIES for view in VIEWS),
    *_TRAFFIC,
    "seen_windows",
    "evidence",
    "age_s",
)
LOADS = ("cpu_util", "mem_share", "inflight", "background_cores", "cores", "slots")
HOST_COLUMNS = (
    *(f"host_{name}" for name in LOADS),
    "host_cpu_util_ewma",
    "host_sample_age_s",
    "host_rate_rps_last",
    "host_rate_rps_ewma",
    "host_error_share",
    "host_age_s",
    "host_gap_s",
    "host_since_gap_s",
    "host_known_s",
    *(f"host_{quantity}_{view}" for quantity in QUANTITIES for view in ("off", "drift")),
)
_KINDS = len(QUANTITIES)
_LN2 = np.log(2.0)
_TINY = 1e-9
_LEAST_ERROR = 1e-3


class History:
    """Rolling state of every (host, category) cell of some hosts; knows only what `observe` has told it.

    Averages are exponentially weighted by time: an observation weighs half after a half-life, and in proportion to its
    number of requests.

    Args:
        hosts: number of hosts, H.
        categories: number of categories, C.
        window_s: length of a window, seconds.
        halflife_s: the middle half-life, seconds.
        state: of `state` of an earlier history, to go on from.
    """

    def __init__(
        self,
        hosts: int,
        categories: int,
        window_s: float,
        halflife_s: float,
        state: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        self._window_s = window_s
        self._halflives = halflife_s * np.array(list(PACES.values()))
        self._halflife_s = halflife_s
        self._shape = (hosts, categories)
        self.state: dict[str, NDArray[np.generic]] = dict(state or fresh_state(hosts, categories))

    @property
    def now_us(self) -> int:
        """End of the last window observed, microseconds since 1970; 0 before the first."""
        return int(self.state["now_us"][0])

    def observe(
        self, end_us: int, windows: Mapping[str, NDArray[np.generic]], loads: Mapping[str, NDArray[np.generic]]
    ) -> None:
        """Takes in one window; windows come in order of time, and a window without anything may be left out.

        Args:
            end_us: end of the window, microseconds since 1970, later than the last.
            windows: of `fleet.windows.with_throughput`, the cells of this window.
            loads: of `fleet.windows.with_background`, the hosts sampled in this window.

        Raises:
            ValueError: the window is not later than the last.
        """
        if end_us <= self.now_us:
            raise ValueError(f"window ending at {end_us} us comes after one ending at {self.now_us} us")
        self.state["now_us"][0] = end_us
        if len(windows["host"]):
            self._observe_cells(end_us, windows)
        if len(loads["host"]):
            self._observe_loads(end_us, loads)

    def columns(self, now_us: int | None = None) -> Floats:
        """HISTORY_COLUMNS of every cell, shape (H, C, K); NaN where not known.

        Args:
            now_us: time of prediction, not before the last window's end; None: that end.
        """
        now, state = self._now(now_us), self.state
        forecasts = _forecasts(state)
        rest = [_mixed(forecasts, state["error"], state["lasting"]), *state["error"], state["lasting"], state["bias"]]
        views = np.stack([state["previous"], *forecasts, *rest], axis=1)
        seen_us, seen = state["seen_us"], state["seen"]
        current = seen_us == now
        faded = self._faded(now, seen_us)
        requests = state["traffic"][0] * faded
        span = self._span(now, state["first_us"])
        traffic = [
            state["requests_last"],
            np.where(current, state["requests_last"] / self._window_s, 0.0),
            np.where(seen > 0, requests / span, 0.0),
            _share(state["traffic"][1], state["traffic"][0]),
            _share(state["traffic"][2], state["traffic"][0]),
            _share(state["traffic"][3], state["traffic"][4]),
            seen.astype(np.float64),
            requests,
            np.where(seen > 0, (now - seen_us) / US, np.nan),
        ]
        return np.concatenate([views.reshape(-1, *self._shape), np.stack(traffic)]).transpose(1, 2, 0)

    def host_values(self, now_us: int | None = None) -> Floats:
        """HOST_COLUMNS of every host, shape (H, M); NaN where not known. `now_us` as in `columns`."""
        now, state = self._now(now_us), self.state
        seen_us = state["host_seen_us"]
        known = seen_us > 0
        requests = state["host_traffic"][0] * self._faded(now, seen_us)
        since_gap = np.where(state["gap_end_us"] > 0, (now - state["gap_end_us"]) / US, np.nan)
        off = np.empty((2 * _KINDS, self._shape[0]))
        off[0::2], off[1::2] = state["off"], _share(state["drift"][0], state["drift"][1])
        columns = [
            *state["load"],
            _share(state["load_sum"][1], state["load_sum"][0]),
            np.where(state["sampled_us"] > 0, (now - state["sampled_us"]) / US, np.nan),
            np.where(seen_us == now, state["host_requests"] / self._window_s, 0.0),
            np.where(known, requests / self._span(now, state["host_first_us"]), 0.0),
            _share(state["host_traffic"][1], state["host_traffic"][0]),
            np.where(known, (now - seen_us) / US, np.nan),
            state["gap_s"],
            since_gap,
            np.where(known, (now - state["host_first_us"]) / US, np.nan),
            *off,
        ]
        return np.stack(columns, axis=1)

    def _now(self, now_us: int | None) -> int:
        if now_us is not None and now_us < self.now_us:
            raise ValueError(f"{now_us} us lies before the last window's end, {self.now_us} us")
        return self.now_us if now_us is None else now_us

    def _faded(self, now: int, since_us: NDArray[np.generic]) -> Floats:
        return np.asarray(0.5 ** (np.maximum(now - since_us, 0) / US / self._halflife_s))

    def _span(self, now: int, first_us: NDArray[np.generic]) -> Floats:
        """Seconds that an average since `first_us` stands for: the integral of the weights."""
        age_s = np.maximum((now - first_us) / US, 0.0) + self._window_s
        return np.asarray((1 - 0.5 ** (age_s / self._halflife_s)) * self._halflife_s / _LN2)

    def _observe_cells(self, end_us: int, windows: Mapping[str, NDArray[np.generic]]) -> None:
        state = self.state
        host, category = windows["host"].astype(np.int64), windows["category"].astype(np.int64)
        cell = (..., host, category)
        requests = windows["requests"].astype(np.float64)
        values = log_values(windows)
        known = np.isfinite(values)
        elapsed_s = np.where(state["seen"][cell] > 0, (end_us - state["seen_us"][cell]) / US, 0.0)
        self._judge_forecasts(cell, values)
        decay = 0.5 ** (elapsed_s / self._halflives[:, None])  # (paces, n)
        for name, added in (("weight", known * requests), ("sum", np.where(known, values, 0.0) * requests)):
            state[name][cell] = state[name][cell] * decay[:, None, :] + added
        state["previous"][cell] = np.where(known, state["last"][cell], state["previous"][cell])
        state["last"][cell] = np.where(known, values, state["last"][cell])
        state["recent"][state["seen"][host, category] % MEDIAN_WINDOWS, :, host, category] = values.T
        state["median"][cell] = _median(state["recent"][cell])
        off = values - state["level"][cell]  # against what was known before this window
        self._follow_level(host, category, values)
        inflight = windows["inflight_mean"].astype(np.float64)
        traffic = np.stack([requests, windows["errors"], np.nan_to_num(windows["bytes_in_mean"]) * requests,
                            np.nan_to_num(inflight) * requests, np.isfinite(inflight) * requests])  # fmt: skip
        state["traffic"][cell] = state["traffic"][cell] * decay[1] + traffic
        fresh = state["seen"][cell] == 0
        state["first_us"][cell] = np.where(fresh, end_us, state["first_us"][cell])
        state["requests_last"][cell] = requests
        state["seen"][cell] += 1
        state["seen_us"][cell] = end_us
        self._observe_hosts(end_us, host, requests, windows["errors"].astype(np.float64), off)

    def _observe_hosts(self, end_us: int, host: Ints, requests: Floats, errors: Floats, off: Floats) -> None:
        state = self.state
        hosts, place = np.unique(host, return_inverse=True)

        def total(values: Floats) -> Floats:
            return np.bincount(place, weights=values, minlength=len(hosts))

        weight = np.where(np.isfinite(off), np.sqrt(requests), 0.0)
        weights = np.stack([total(each) for each in weight])
        sums = np.stack([total(each) for each in np.nan_to_num(off) * weight])
        mean = _share(sums, weights)
        state["off"][:, hosts] = mean
        known = state["host_seen_us"][hosts] > 0
        elapsed_s = np.where(known, (end_us - state["host_seen_us"][hosts]) / US, 0.0)
        silence_s = np.where(known, elapsed_s - self._window_s, 0.0)
        gap = silence_s > self._window_s / 2
        state["gap_s"][hosts] = np.where(gap, silence_s, state["gap_s"][hosts])
        begun_us = end_us - round(self._window_s * US)
        state["gap_end_us"][hosts] = np.where(gap, begun_us, state["gap_end_us"][hosts])
        decay = 0.5 ** (elapsed_s / self._halflives[0])
        measured = np.isfinite(mean)
        state["drift"][:, :, hosts] = state["drift"][:, :, hosts] * decay + np.stack(
            [np.nan_to_num(mean), measured.astype(np.float64)]
        )
        traffic = np.stack([total(requests), total(errors)])
        decay = 0.5 ** (elapsed_s / self._halflife_s)
        state["host_traffic"][:, hosts] = state["host_traffic"][:, hosts] * decay + traffic
        state["host_requests"][hosts] = traffic[0]
        state["host_first_us"][hosts] = np.where(known, state["host_first_us"][hosts], end_us)
        state["host_seen_us"][hosts] = end_us

    def _observe_loads(self, end_us: int, loads: Mapping[str, NDArray[np.generic]]) -> None:
        state, hosts = self.state, loads["host"].astype(np.int64)
        values = np.stack([loads[name].astype(np.float64) for name in LOADS])
        known = np.isfinite(values)
        state["load"][:, hosts] = np.where(known, values, state["load"][:, hosts])
        elapsed_s = np.where(state["sampled_us"][hosts] > 0, (end_us - state["sampled_us"][hosts]) / US, 0.0)
        decay = 0.5 ** (elapsed_s / self._halflife_s)
        added = np.stack([known[0].astype(np.float64), np.nan_to_num(values[0])])
        state["load_sum"][:, hosts] = state["load_sum"][:, hosts] * decay + added
        state["sampled_us"][hosts] = end_us

    def _judge_forecasts(self, cell: tuple[Any, ...], values: Floats) -> None:
        """How far off each forecast was that could have been made before this window."""
        state = self.state
        error = values - _forecasts({name: state[name][cell] for name in _FORECAST_STATE})
        usual = error[FORECASTS.index("ewma")]
        for name, found, windows in (
            ("error", np.abs(error), ERROR_WINDOWS),
            ("lasting", np.abs(usual), LASTING_WINDOWS),
            ("bias", usual, BIAS_WINDOWS),
        ):
            old = state[name][cell]
            moved = old + (1 - 0.5 ** (1 / windows)) * (found - old)
            state[name][cell] = np.where(np.isnan(found), old, np.where(np.isnan(old), found, moved))

    def _follow_level(self, host: Ints, category: Ints, values: Floats) -> None:
        """A slow, robust level: the running median at first, then a recursive Huber location estimate.

        What one window can move it by is bounded, so rare slow requests do not; it remembers some 16 windows.
        """
        state, cell = self.state, (..., host, category)
        level = state["level"][cell]
        young = np.isnan(level) | (state["seen"][cell] < MEDIAN_WINDOWS)
        step = LEVEL_GAIN * np.clip(np.nan_to_num(values - level), -LEVEL_CLIP, LEVEL_CLIP)
        state["level"][cell] = np.where(young, state["median"][cell], level + step)


def log_values(windows: Mapping[str, NDArray[np.generic]]) -> Floats:
    """Logs of QUANTITIES, shape (5, n); what is absent, or not above 0, is NaN."""
    values = np.stack([windows[name].astype(np.float64) for name in _SOURCES])
    positive = np.isfinite(values) & (values > 0)
    return np.where(positive, np.log(np.where(positive, values, 1.0)), np.nan)


# State by name, with the axes before (hosts, categories), or before (hosts,), and what it begins with.
_PACED = (len(PACES), _KINDS)
CELL_STATE: dict[str, tuple[tuple[int, ...], float]] = {
    **{"weight": (_PACED, 0.0), "sum": (_PACED, 0.0), "traffic": ((5,), 0.0), "requests_last": ((), 0.0)},
    **dict.fromkeys(("last", "previous", "level", "median", "lasting", "bias"), ((_KINDS,), np.nan)),
    "error": ((len(FORECASTS), _KINDS), np.nan),
    "recent": ((MEDIAN_WINDOWS, _KINDS), np.nan),
    **dict.fromkeys(("seen", "seen_us", "first_us"), ((), 0)),
}
HOST_STATE: dict[str, tuple[tuple[int, ...], float]] = {
    **dict.fromkeys(("host_seen_us", "host_first_us", "sampled_us", "gap_end_us"), ((), 0)),
    **{"host_traffic": ((2,), 0.0), "load_sum": ((2,), 0.0), "drift": ((2, _KINDS), 0.0)},
    **{"host_requests": ((), 0.0), "gap_s": ((), 0.0), "load": ((len(LOADS),), np.nan), "off": ((_KINDS,), np.nan)},
}


def fresh_state(hosts: int, categories: int) -> dict[str, NDArray[np.generic]]:
    """The state of a history that has seen nothing; whole numbers where it begins with one."""
    state: dict[str, NDArray[np.generic]] = {"now_us": np.zeros(1, dtype=np.int64)}
    for known, axes in ((CELL_STATE, (hosts, categories)), (HOST_STATE, (hosts,))):
        for name, (before, value) in known.items():
            state[name] = np.full((*before, *axes), value)
    return state


_FORECAST_STATE = ("last", "sum", "weight", "level", "median")


def _forecasts(state: Mapping[str, NDArray[np.generic]]) -> Floats:
    """FORECASTS, shape (forecasts, kinds, ...), from the state of some cells."""
    paces = _share(state["sum"], state["weight"])
    return np.stack([state["last"], *paces, state["level"], state["median"]]).astype(np.float64)


def _mixed(forecasts: Floats, error: NDArray[np.generic], lasting: NDArray[np.generic]) -> Floats:
    """Mean of the forecasts, each weighted by exp(-error / usual error): prediction with expert advice.

    The exponentially weighted average forecaster (Cesa-Bianchi and Lugosi, Prediction, Learning, and Games, 2006,
    section 2.1), with errors that fade. Equal weights where no forecast has been judged yet.
    """
    weight = np.exp(-MIXING * np.nan_to_num(error / (lasting + _LEAST_ERROR)))
    weight = np.where(np.isfinite(forecasts), weight, 0.0)
    return _share((weight * np.nan_to_num(forecasts)).sum(axis=0), weight.sum(axis=0))


def _share(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=np.asarray(whole) > _TINY)


def _median(recent: NDArray[np.generic]) -> Floats:
    """Median over the first axis of what is known; NaN where nothing is."""
    ordered = np.sort(recent.astype(np.float64), axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, count // 2
    pick = [np.take_along_axis(ordered, np.minimum(each, len(ordered) - 1)[None], axis=0)[0] for each in (low, high)]
    return np.where(count > 0, (pick[0] + pick[1]) / 2, np.nan)
