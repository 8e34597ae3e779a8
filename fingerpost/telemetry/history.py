"""The history of hosts, followed window by window: what concerns one host alone, for each of its categories.

NumPy alone. Nothing here looks from one host at another: followed by itself, a host has the history that it has in its
fleet, to the bit. So an agent beside a host can keep it live, and the features step can replay it.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Bools, Floats, Ints, decayed, safe_ratio
from fingerpost.clock import US
from fingerpost.telemetry.history_state import (
    BIAS_WINDOWS,
    CELL_STATE,
    ERROR_WINDOWS,
    FORECAST_STATE,
    FORECASTS,
    HOST_STATE,
    KINDS,
    LASTING_WINDOWS,
    LEVEL_CLIP,
    LEVEL_GAIN,
    LOADS,
    MEDIAN_WINDOWS,
    PACES,
    QUANTITIES,
    VIEWS,
    forecasts_of,
    fresh_state,
    log_values,
    median,
    mixed,
    summable,
)
from fingerpost.telemetry.recurrence import (
    RECURRENCE_VIEWS,
    follow_slowness,
    follow_spells,
    recurrence_views,
    slowness,
)
from fingerpost.telemetry.windows import WINDOW_FORM

_TRAFFIC = ("requests_last", "rate_rps_last", "rate_rps_ewma", "error_share", "bytes_in", "inflight")
HISTORY_COLUMNS = (
    *(f"{quantity}_{view}" for quantity in QUANTITIES for view in VIEWS),
    *_TRAFFIC,
    "seen_windows",
    "evidence",
    "age_s",
)
HISTORY_HOST_COLUMNS = (
    *(f"host_{name}" for name in LOADS),
    "host_cpu_util_ewma",
    "host_mem_slope",
    "host_mem_full_s",
    "host_sample_age_s",
    "host_rate_rps_last",
    "host_rate_rps_ewma",
    "host_error_share",
    "host_age_s",
    "host_gap_s",
    "host_since_gap_s",
    "host_known_s",
    *(f"host_{name}" for name in RECURRENCE_VIEWS),
    *(f"host_{quantity}_{view}" for quantity in QUANTITIES for view in ("off", "drift")),
)
# Where each column is.
HISTORY_PLACE = {name: place for place, name in enumerate(HISTORY_COLUMNS)}
HISTORY_HOST_PLACE = {name: place for place, name in enumerate(HISTORY_HOST_COLUMNS)}
_LN2 = np.log(2.0)
_MEM_SHARE = LOADS.index("mem_share")
# Memory that shrinks by more than this share from one window to the next was collected, or its process restarted.
_FREED = 0.05
# Memory that is full later than this does not grow.
_MOST_LEFT_S = 86_400.0
# What tells one form of history from another: its columns, and how windows are made of requests.
HISTORY_SCHEMA = hashlib.sha256(
    "\n".join((*HISTORY_COLUMNS, *HISTORY_HOST_COLUMNS, str(WINDOW_FORM))).encode()
).hexdigest()[:12]


class History:
    """Rolling state of every (host, category) cell of some hosts; knows only what `observe` has told it.

    Averages are exponentially weighted by time: an observation weighs half after a half-life, and in proportion to its
    number of requests that measured something; that of throughput is of the seconds each request takes of it, so that
    it does not depend on how many requests a window has. Of windows whose requests all failed only the errors are kept.

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
        state: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.window_s = window_s
        self._halflives = halflife_s * np.array(list(PACES.values()))
        self.halflife_s = halflife_s
        self._shape = (hosts, categories)
        self.state: dict[str, NDArray[Any]] = dict(state or fresh_state(hosts, categories))

    @property
    def now_us(self) -> int:
        """End of the last window observed, microseconds since 1970; 0 before the first."""
        return int(self.state["now_us"][0])

    def observe(self, end_us: int, windows: Mapping[str, NDArray[Any]], loads: Mapping[str, NDArray[Any]]) -> None:
        """Takes in one window; windows come in order of time, and a window without anything may be left out.

        Args:
            end_us: end of the window, microseconds since 1970, later than the last.
            windows: of `fingerpost.telemetry.windows.with_throughput`, the cells of this window.
            loads: of `fingerpost.telemetry.windows.with_background`, the hosts sampled in this window.

        Raises:
            ValueError: the window is not later than the last.
        """
        if end_us <= self.now_us:
            raise ValueError(f"window ending at {end_us} us comes after one ending at {self.now_us} us")
        self.observe_some(end_us, windows, loads)

    def observe_some(self, end_us: int, windows: Mapping[str, NDArray[Any]], loads: Mapping[str, NDArray[Any]]) -> None:
        """Takes in a window of some hosts, as `observe`: only theirs come in order, others may be ahead of them."""
        self.state["now_us"][0] = max(self.now_us, end_us)
        if len(windows["host"]):
            self._observe_cells(end_us, windows)
        if len(loads["host"]):
            self._observe_loads(end_us, loads)
        self._observe_slowness(end_us, np.unique(np.concatenate([windows["host"], loads["host"]])).astype(np.int64))

    def of_hosts(self, places: Ints, now_us: int) -> "History":
        """The history of some hosts alone, as of a time not before their last windows; a copy."""
        cells = {name: self.state[name][..., places, :] for name in CELL_STATE}
        state = {**cells, **{name: self.state[name][..., places] for name in HOST_STATE}, "now_us": np.array([now_us])}
        return History(len(places), self._shape[1], self.window_s, self.halflife_s, state)

    def columns(self, now_us: int | None = None) -> Floats:
        """HISTORY_COLUMNS of every cell, shape (H, C, K); NaN where not known.

        Args:
            now_us: time of prediction, not before the last window's end; None: that end.
        """
        now, state = self._now(now_us), self.state
        forecasts = forecasts_of(state)
        rest = [mixed(forecasts, state["error"], state["lasting"]), *state["error"], state["lasting"], state["bias"]]
        views = np.stack([state["previous"], *forecasts, *rest], axis=1)
        seen_us, seen = state["seen_us"], state["seen"]
        current = seen_us == now
        faded = self._faded(now, seen_us)
        requests = state["traffic"][0] * faded
        span = self._span(now, state["first_us"])
        traffic = [
            state["requests_last"],
            np.where(current, state["requests_last"] / self.window_s, 0.0),
            np.where(seen > 0, requests / span, 0.0),
            safe_ratio(state["traffic"][1], state["traffic"][0]),
            safe_ratio(state["traffic"][2], state["traffic"][0]),
            safe_ratio(state["traffic"][3], state["traffic"][4]),
            state["measured"].astype(np.float64),
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
        heard_us = np.maximum(seen_us, state["sampled_us"])
        off = np.empty((2 * KINDS, self._shape[0]))
        off[0::2], off[1::2] = state["off"], safe_ratio(state["drift"][0], state["drift"][1])
        columns = [
            *state["load"],
            safe_ratio(state["load_sum"][1], state["load_sum"][0]),
            *self._memory_views(),
            np.where(state["sampled_us"] > 0, (now - state["sampled_us"]) / US, np.nan),
            np.where(seen_us == now, state["host_requests"] / self.window_s, 0.0),
            np.where(known, requests / self._span(now, state["host_first_us"]), 0.0),
            safe_ratio(state["host_traffic"][1], state["host_traffic"][0]),
            np.where(known, (now - seen_us) / US, np.nan),
            state["gap_s"],
            since_gap,
            np.where(known, (now - state["host_first_us"]) / US, np.nan),
            *recurrence_views(state["recurrence"], state["spell"], (now - heard_us) / US),
            *off,
        ]
        return np.stack(columns, axis=1)

    def _memory_views(self) -> tuple[Floats, Floats]:
        """How fast memory grows, shares of it a second; and seconds until it is full at that rate."""
        slope = safe_ratio(self.state["mem_growth"][0], self.state["mem_growth"][1])
        left = np.maximum(1 - self.state["load"][_MEM_SHARE], 0.0)
        grows = slope > 1 / _MOST_LEFT_S
        return slope, np.where(grows, np.minimum(left / np.where(grows, slope, 1.0), _MOST_LEFT_S), np.nan)

    def _now(self, now_us: int | None) -> int:
        if now_us is not None and now_us < self.now_us:
            raise ValueError(f"{now_us} us lies before the last window's end, {self.now_us} us")
        return self.now_us if now_us is None else now_us

    def _faded(self, now: int, since_us: NDArray[Any]) -> Floats:
        return decayed(np.maximum(now - since_us, 0) / US, self.halflife_s)

    def _span(self, now: int, first_us: NDArray[Any]) -> Floats:
        """Seconds that an average since `first_us` stands for: the integral of the weights."""
        age_s = np.maximum((now - first_us) / US, 0.0) + self.window_s
        return (1 - decayed(age_s, self.halflife_s)) * self.halflife_s / _LN2

    def _observe_cells(self, end_us: int, windows: Mapping[str, NDArray[Any]]) -> None:
        state = self.state
        host, category = windows["host"].astype(np.int64), windows["category"].astype(np.int64)
        cell = (..., host, category)
        requests, measured = (windows[name].astype(np.float64) for name in ("requests", "measured"))
        values = log_values(windows)
        known = np.isfinite(values)
        elapsed_s = np.where(state["seen"][cell] > 0, (end_us - state["seen_us"][cell]) / US, 0.0)
        self._update_forecast_errors(cell, values)
        decay = decayed(elapsed_s, self._halflives[:, None])  # (paces, n)
        for name, added in (("weight", known * measured), ("sum", np.where(known, summable(values), 0.0) * measured)):
            state[name][cell] = state[name][cell] * decay[:, None, :] + added
        state["previous"][cell] = np.where(known, state["last"][cell], state["previous"][cell])
        state["last"][cell] = np.where(known, values, state["last"][cell])
        # A window without any measurement takes no other's place.
        ring = state["measured"][host, category] % MEDIAN_WINDOWS
        kept = state["recent"][ring, :, host, category]
        state["recent"][ring, :, host, category] = np.where(measured[:, None] > 0, values.T, kept)
        state["median"][cell] = median(state["recent"][cell])
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
        state["measured"][cell] += measured > 0
        state["seen_us"][cell] = end_us
        self._observe_hosts(end_us, host, np.stack([requests, windows["errors"], measured]), off)

    def _observe_hosts(self, end_us: int, host: Ints, counts: Floats, off: Floats) -> None:
        state = self.state
        hosts, place = np.unique(host, return_inverse=True)

        def total(values: Floats) -> Floats:
            return np.bincount(place, weights=values, minlength=len(hosts)).astype(np.float64)

        requests, errors, measured = counts
        weight = np.where(np.isfinite(off), np.sqrt(measured), 0.0)
        weights = np.stack([total(each) for each in weight])
        sums = np.stack([total(each) for each in np.nan_to_num(off) * weight])
        mean = safe_ratio(sums, weights)
        state["off"][:, hosts] = mean
        known = state["host_seen_us"][hosts] > 0
        elapsed_s = np.where(known, (end_us - state["host_seen_us"][hosts]) / US, 0.0)
        silence_s = np.where(known, elapsed_s - self.window_s, 0.0)
        gap = silence_s > self.window_s / 2
        state["gap_s"][hosts] = np.where(gap, silence_s, state["gap_s"][hosts])
        begun_us = end_us - round(self.window_s * US)
        state["gap_end_us"][hosts] = np.where(gap, begun_us, state["gap_end_us"][hosts])
        decay = decayed(elapsed_s, self._halflives[0])
        measured = np.isfinite(mean)
        state["drift"][:, :, hosts] = state["drift"][:, :, hosts] * decay + np.stack(
            [np.nan_to_num(mean), measured.astype(np.float64)]
        )
        traffic = np.stack([total(requests), total(errors)])
        decay = decayed(elapsed_s, self.halflife_s)
        state["host_traffic"][:, hosts] = state["host_traffic"][:, hosts] * decay + traffic
        state["host_requests"][hosts] = traffic[0]
        state["host_first_us"][hosts] = np.where(known, state["host_first_us"][hosts], end_us)
        state["host_seen_us"][hosts] = end_us

    def _observe_loads(self, end_us: int, loads: Mapping[str, NDArray[Any]]) -> None:
        state, hosts = self.state, loads["host"].astype(np.int64)
        values = np.stack([loads[name].astype(np.float64) for name in LOADS])
        known = np.isfinite(values)
        elapsed_s = np.where(state["sampled_us"][hosts] > 0, (end_us - state["sampled_us"][hosts]) / US, 0.0)
        self._follow_memory(hosts, values[_MEM_SHARE] - state["load"][_MEM_SHARE, hosts], elapsed_s)
        state["load"][:, hosts] = np.where(known, values, state["load"][:, hosts])
        decay = decayed(elapsed_s, self.halflife_s)
        added = np.stack([known[0].astype(np.float64), np.nan_to_num(values[0])])
        state["load_sum"][:, hosts] = state["load_sum"][:, hosts] * decay + added
        state["sampled_us"][hosts] = end_us

    def _follow_memory(self, hosts: Ints, grown: Floats, elapsed_s: Floats) -> None:
        """Follows how fast memory grows; once much of it was freed at a time, what was before counts no more."""
        growth = self.state["mem_growth"]
        known = np.isfinite(grown) & (elapsed_s > 0)
        rate = np.where(known, grown, 0.0) / np.where(elapsed_s > 0, elapsed_s, 1.0)
        moved = growth[:, hosts] * decayed(elapsed_s, self._halflives[0]) + np.stack([rate, known.astype(np.float64)])
        growth[:, hosts] = np.where(known & (grown < -_FREED), 0.0, moved)

    def _observe_slowness(self, end_us: int, heard: Ints) -> None:
        state, number = self.state, round(end_us / (self.window_s * US))
        latency, rate = (state["off"][QUANTITIES.index(name)] for name in ("latency_p50_s", "throughput_rps"))
        slow = np.where(state["host_seen_us"] == end_us, slowness(latency, rate), np.nan)
        cpu_util = np.where(state["sampled_us"] == end_us, state["load"][LOADS.index("cpu_util")], np.nan)
        before = state["slow_window"]
        passed = np.where(before[heard] > 0, number - before[heard], 1)
        # Hosts that were heard in the window before, nearly all, are followed together.
        for span in np.unique(passed).tolist():
            hosts = heard[passed == span]
            ring, recurs, spell = (state[name][:, hosts] for name in ("slow", "recurrence", "spell"))
            follow_slowness(ring, recurs, slow[hosts], span, number)
            follow_spells(spell, slow[hosts], cpu_util[hosts], span, self.window_s)
            state["slow"][:, hosts], state["recurrence"][:, hosts], state["spell"][:, hosts] = ring, recurs, spell
        before[heard] = number

    def _update_forecast_errors(self, cell: tuple[Any, ...], values: Floats) -> None:
        """How far off each forecast was that could have been made before this window."""
        state = self.state
        error = values - forecasts_of({name: state[name][cell] for name in FORECAST_STATE})
        usual = error[FORECASTS.index("ewma")]
        for name, found, windows in (
            ("error", np.abs(error), ERROR_WINDOWS),
            ("lasting", np.abs(usual), LASTING_WINDOWS),
            ("bias", usual, BIAS_WINDOWS),
        ):
            old = state[name][cell]
            moved = old + (1 - decayed(1, windows)) * (found - old)
            state[name][cell] = np.where(np.isnan(found), old, np.where(np.isnan(old), found, moved))

    def _follow_level(self, host: Ints, category: Ints, values: Floats) -> None:
        """A slow, robust level: the running median at first, then a recursive Huber location estimate.

        What one window can move it by is bounded, so rare slow requests do not; it remembers some 16 windows.
        """
        state, cell = self.state, (..., host, category)
        level = state["level"][cell]
        young = np.isnan(level) | (state["measured"][cell] < MEDIAN_WINDOWS)
        step = LEVEL_GAIN * np.clip(np.nan_to_num(values - level), -LEVEL_CLIP, LEVEL_CLIP)
        state["level"][cell] = np.where(young, state["median"][cell], level + step)


def extrapolate_history(
    cells: ArrayLike, host_values: ArrayLike, after_s: float, window_s: float, halflife_s: float
) -> tuple[Floats, Floats]:
    """Brings columns forward to a later time, as `History.columns` would of a host that has been silent since.

    Args:
        cells: HISTORY_COLUMNS as of the end of its last window, shape (R, K).
        host_values: HISTORY_HOST_COLUMNS as of then, shape (M,).
        after_s: seconds since, above 0.
        window_s, halflife_s: of the history, seconds.
    """
    now, host = np.array(cells, dtype=np.float64), np.array(host_values, dtype=np.float64)
    fade = decayed(after_s, halflife_s)
    mean_life_s = halflife_s / _LN2
    evidence, rate = now[:, HISTORY_PLACE["evidence"]].copy(), now[:, HISTORY_PLACE["rate_rps_ewma"]].copy()
    # An average stands for evidence / rate seconds now; these grow towards the mean life of an observation.
    span_s = np.divide(evidence, rate, out=np.full(len(rate), mean_life_s), where=rate > 0)
    grown_s = mean_life_s * (1 - np.maximum(1 - span_s / mean_life_s, 0.0) * fade)
    now[:, HISTORY_PLACE["evidence"]] = evidence * fade
    now[:, HISTORY_PLACE["rate_rps_ewma"]] = np.where(rate > 0, evidence * fade / grown_s, 0.0)
    now[:, HISTORY_PLACE["rate_rps_last"]] = 0.0
    now[:, HISTORY_PLACE["age_s"]] += after_s
    known_s = host[HISTORY_HOST_PLACE["host_known_s"]] + window_s
    begun, grown = (1 - decayed(each, halflife_s) for each in (known_s, known_s + after_s))
    host[HISTORY_HOST_PLACE["host_rate_rps_last"]] = 0.0
    if np.isfinite(known_s):
        host[HISTORY_HOST_PLACE["host_rate_rps_ewma"]] *= fade * begun / grown
    # What was due in the windows after its last one is past.
    host[[HISTORY_HOST_PLACE[name] for name in ("host_due", "host_due_after")]] = np.nan
    ages = ("host_sample_age_s", "host_age_s", "host_since_gap_s", "host_known_s", "host_spell_s", "host_fine_s")
    for name in ages:
        host[HISTORY_HOST_PLACE[name]] += after_s
    return now, host


def measured_again(host_values: ArrayLike, since_s: ArrayLike, window_s: ArrayLike) -> Bools:
    """Which hosts were known before they came back, and have served in a window since, or in most of one.

    Args:
        host_values: HISTORY_HOST_COLUMNS, shape (H, M).
        since_s: from when each host came, or came back, to what its values are as of, seconds, shape (H,).
        window_s: length of their windows, seconds, of a shape that fits.
    """
    values, since = np.asarray(host_values, dtype=np.float64), np.asarray(since_s, dtype=np.float64)
    known_s, rate_rps = (values[:, HISTORY_HOST_PLACE[name]] for name in ("host_known_s", "host_rate_rps_last"))
    return np.asarray((since >= np.asarray(window_s) / 2) & (known_s > since) & (rate_rps > 0))
