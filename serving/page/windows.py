"""Records what every window measured beside what was predicted of it: live errors, curves, and where requests went."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Floats32, safe_ratio
from fingerpost.clock import US
from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.features.definition import TARGETS
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.live_errors import LiveErrors, live_errors
from fingerpost.serving.scoring import Scored

Floats16 = NDArray[np.float16]
# Hosts and categories.
_Axes = tuple[tuple[str, ...], tuple[str, ...]]
SERVED, NAIVE, BASELINE = "served", "last window", "baseline"
# An hour of scalars, and of requests by cell in steps; curves of cells for as long as this much memory lasts.
HOUR_S, _STEP_S = 3600.0, 300.0
_MAX_BYTES, _MIN_POINTS = 48 * 2**20, 12
# A p99 of fewer requests is their slowest.
_P99_REQUESTS = 20
_MEASURED = (*(f"{name}_last" for name in TARGETS), "requests_last", "age_s")


@dataclass(frozen=True)
class Measured:
    """What the hosts of a fleet measured in the window that ends at `end_us`, microseconds since 1970.

    Args:
        requests: shape (H, C); 0 in cells that had none.
        logs: of TARGETS as measured last, in this window or before, shape (H, C, 3); NaN where never.
    """

    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    end_us: int
    requests: Floats32
    logs: Floats32


@dataclass(frozen=True)
class Errors:
    """How far predictions were off in one window, weighted by requests; 3 = TARGETS.

    Args:
        off: by predictor, mean |log(measured / predicted)|, shape (3,); NaN where nothing was measured.
        regret: by predictor, what its best host of a category takes longer than the best one did; 0 is perfect.
        p99_over: share of the cells' p99 that lay above the predicted one; NaN: none had enough requests.
        requests: of the cells compared.
    """

    off: Mapping[str, Floats]
    regret: Mapping[str, float]
    p99_over: float
    requests: float


@dataclass(frozen=True)
class Point:
    """One window of all cells, to draw; measured and predicted as logs of TARGETS, shape (H, C, 3)."""

    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    end_us: int
    requests: Floats16
    measured: Floats16
    predicted: Floats16
    version: str


@dataclass(frozen=True)
class Total:
    """One window of the whole service.

    Args:
        p50_s, p99_s: means of the cells' own, weighted by requests; NaN without requests.
        failed_share: 0..1, of the hosts' rolling shares.
    """

    end_us: int
    rate_rps: float
    p50_s: float
    p99_s: float
    failed_share: float
    errors: Errors | None


@dataclass(frozen=True)
class _Forecast:
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    end_us: int
    version: str
    champion: str
    logs: dict[str, Floats32]

    def add(self, name: str, scored: Scored) -> None:
        """Adds what a model says, if it is of the same moment."""
        output = scored.model_output
        if output is not None and output.histories.known and output.histories.now_us == self.end_us:
            axes = (scored.fleet.hosts, scored.fleet.categories), (self.hosts, self.categories)
            self.logs[name] = _aligned(output.logs.astype(np.float32), *axes)


def measured_of(fleet: FleetState, end_us: int) -> Measured:
    """Reads the window that ends at `end_us` off the histories of a fleet."""
    shape = (len(fleet.hosts), len(fleet.categories))
    requests, logs = np.zeros(shape, dtype=np.float32), np.full((*shape, len(TARGETS)), np.nan, dtype=np.float32)
    place = {name: number for number, name in enumerate(fleet.categories)}
    for row, state in enumerate(fleet.states):
        block = state.fingerprint.history
        if block is None or not block.fits:
            continue
        to = np.array([place.get(name, -1) for name in block.categories], dtype=np.int64)
        values, kept = block.columns(_MEASURED), to >= 0
        logs[row, to[kept]] = values[kept, : len(TARGETS)]
        if block.as_of_us == end_us:
            now = kept & (values[:, -1] == 0)
            requests[row, to[now]] = np.nan_to_num(values[now, -2])
    return Measured(fleet.hosts, fleet.categories, end_us, requests, logs)


def errors_of(predicted: Mapping[str, NDArray[np.floating]], measured: Measured) -> Errors:
    """Compares every predictor on the cells of which all predicted something.

    Args:
        predicted: by predictor, logs of TARGETS in the order of `measured`, shape (H, C, 3).
    """
    known = (measured.requests > 0)[..., None] & np.isfinite(measured.logs)
    for logs in predicted.values():
        known &= np.isfinite(logs)
    weight = np.where(known, measured.requests[..., None], 0.0)
    total = weight.sum(axis=(0, 1))
    off, regret = {}, {}
    for name, logs in predicted.items():
        apart = np.where(known, np.abs(measured.logs - logs), 0.0)
        off[name] = safe_ratio((weight * apart).sum(axis=(0, 1)), total)
        regret[name] = _regret(logs[..., 0], measured.logs[..., 0], weight[..., 0])
    p99, enough = TARGETS.index("latency_p99_s"), known[..., 2] & (measured.requests >= _P99_REQUESTS)
    over = measured.logs[..., p99] > predicted[SERVED][..., p99]
    share = float(over[enough].mean()) if enough.any() else float("nan")
    return Errors(off, regret, share, float(weight[..., 0].sum()))


def _regret(predicted: NDArray[np.floating], actual: NDArray[np.floating], weight: Floats) -> float:
    """What the host predicted fastest takes longer than the fastest measured, weighted; NaN without a choice."""
    several = (weight > 0).sum(axis=0) > 1
    if not several.any():
        return float("nan")
    guess = np.where(weight > 0, predicted, -np.inf)[:, several]
    truth = np.where(weight > 0, actual, -np.inf)[:, several]
    chosen = truth[guess.argmax(axis=0), np.arange(truth.shape[1])]
    of_category = weight.sum(axis=0)[several]
    return float((of_category @ np.expm1(truth.max(axis=0) - chosen)) / of_category.sum())


class ServiceWindows:
    """Follows one service, window by window; written by the thread that makes tables, read by the page's.

    Args:
        window_s: length of windows, seconds.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s, self._lock = window_s, threading.Lock()
        self._held: Scored | None = None
        self._end_us, self._done = 0, False
        self._forecast: _Forecast | None = None
        self._points: deque[Point] = deque()
        self._totals: deque[Total] = deque(maxlen=max(_MIN_POINTS, round(HOUR_S / window_s)))
        # Requests by cell: of the last minute, and in steps of five minutes in the order of the latest fleet.
        self._recent: deque[Measured] = deque(maxlen=max(1, round(60 / window_s)))
        self._axes: _Axes = ((), ())
        self._steps: dict[int, Floats32] = {}

    def observe(self, scored: Scored, challenger: Scored | None = None) -> list[LiveErrors]:
        """Takes in a fleet as it was scored.

        A window is over when all hosts have told of it, or one of a later one. It is compared with what was predicted
        when the one before it was over.

        Args:
            challenger: the same fleet, or an earlier one, as the challenger scores it.

        Returns:
            How far the champion was off in the windows that are over now, whether it serves or not.
        """
        ends = [state.fingerprint.history.as_of_us for state in scored.fleet.states if state.fingerprint.history]
        latest = max(ends, default=0)
        if not latest:
            return []
        live: list[LiveErrors | None] = []
        with self._lock:
            if self._held and latest > self._end_us and not self._done:
                live.append(self._close(self._held, self._end_us))
            if latest != self._end_us:
                self._end_us, self._done = latest, False
            self._held = scored
            if not self._done and min(ends) == latest:
                live.append(self._close(scored, latest))
            if self._forecast and challenger and CHALLENGER not in self._forecast.logs:
                self._forecast.add(CHALLENGER, challenger)
        return [each for each in live if each is not None]

    def points(self) -> list[Point]:
        """The windows that are kept of every cell, oldest first."""
        with self._lock:
            return list(self._points)

    def totals(self) -> list[Total]:
        """The windows of the last hour, oldest first."""
        with self._lock:
            return list(self._totals)

    def requests(self, hosts: tuple[str, ...], categories: tuple[str, ...]) -> tuple[Floats, Floats]:
        """Requests of the last minute and of the last hour by cell, shape (H, C) each."""
        with self._lock:
            hour = np.zeros((len(hosts), len(categories)))
            for step in self._steps.values():
                hour += _aligned(step, self._axes, (hosts, categories))
            recent, minute = list(self._recent), np.zeros_like(hour)
        for each in recent:
            if each.end_us > self._end_us - round(60 * US):
                minute += _aligned(each.requests, (each.hosts, each.categories), (hosts, categories))
        return minute, hour

    def _close(self, scored: Scored, end_us: int) -> LiveErrors | None:
        self._done = True
        measured = measured_of(scored.fleet, end_us)
        forecast = self._forecast
        errors = live = None
        if forecast is not None and 0 < end_us - forecast.end_us <= 2 * round(self._window_s * US):
            axes, of = (measured.hosts, measured.categories), (forecast.hosts, forecast.categories)
            predicted = {name: _aligned(logs, of, axes) for name, logs in forecast.logs.items()}
            errors = errors_of(predicted, measured)
            if CHAMPION in predicted:
                about = (end_us, forecast.champion, measured.categories, measured.requests, measured.logs)
                live = live_errors(*about, predicted[CHAMPION], predicted[NAIVE])
            self._keep(measured, predicted[SERVED], forecast.version)
        self._recent.append(measured)
        self._add(measured)
        self._totals.append(self._total(scored, measured, errors))
        self._forecast = _forecast_of(scored, measured)
        return live

    def _keep(self, measured: Measured, predicted: Floats32, version: str) -> None:
        logs = np.where((measured.requests > 0)[..., None], measured.logs, np.nan)
        point = Point(
            measured.hosts,
            measured.categories,
            measured.end_us,
            np.minimum(measured.requests, 60_000).astype(np.float16),
            logs.astype(np.float16),
            predicted.astype(np.float16),
            version,
        )
        self._points.append(point)
        size = max(1, point.requests.nbytes + point.measured.nbytes + point.predicted.nbytes)
        most = max(_MIN_POINTS, min(round(HOUR_S / self._window_s), _MAX_BYTES // size))
        while len(self._points) > most:
            self._points.popleft()

    def _add(self, measured: Measured) -> None:
        axes = (measured.hosts, measured.categories)
        if axes != self._axes:
            self._steps = {step: _aligned(each, self._axes, axes) for step, each in self._steps.items()}
            self._axes = axes
        step = measured.end_us // round(_STEP_S * US)
        self._steps[step] = self._steps.get(step, 0) + measured.requests
        for old in [each for each in self._steps if each <= step - round(HOUR_S / _STEP_S)]:
            del self._steps[old]

    def _total(self, scored: Scored, measured: Measured, errors: Errors | None) -> Total:
        requests = measured.requests
        p50_s, p99_s = (_mean(np.exp(measured.logs[..., place]), requests) for place in (1, 2))
        failed = _mean(np.nan_to_num(scored.fleet.cell_column("error_share")), requests)
        rate_rps = float(requests.sum()) / self._window_s
        return Total(measured.end_us, rate_rps, p50_s, p99_s, failed if rate_rps else 0.0, errors)


class AllWindows:
    """The windows of the services that are asked for."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._known: dict[str, ServiceWindows] = {}

    def of(self, service: str) -> ServiceWindows:
        """Those of a service, which are kept from now on."""
        return self._known.setdefault(service, ServiceWindows(self._window_s))

    def forget(self, service: str) -> None:
        """Drops those of a service that nobody asks for."""
        self._known.pop(service, None)

    def __iter__(self) -> Iterator[tuple[str, ServiceWindows]]:
        return iter(list(self._known.items()))


def _forecast_of(scored: Scored, measured: Measured) -> _Forecast:
    """What each predictor says of the window that begins where the measured one ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = {SERVED: np.log(scored.predictions).astype(np.float32)}
    logs[BASELINE], logs[NAIVE] = scored.baseline_logs.astype(np.float32), measured.logs
    champion = scored.scorer.version if scored.scorer else ""
    made = _Forecast(scored.fleet.hosts, scored.fleet.categories, measured.end_us, scored.version, champion, logs)
    made.add(CHAMPION, scored)
    return made


def _aligned(values: Floats32, of: _Axes, to: _Axes) -> Floats32:
    """Values by host and category in the order of others; requests of unknown cells are 0, logs NaN."""
    if of == to:
        return values
    made = np.full((len(to[0]), len(to[1]), *values.shape[2:]), np.nan if values.ndim > 2 else 0.0, dtype=np.float32)
    places = []
    for known, wanted in zip(of, to, strict=True):
        place = {name: number for number, name in enumerate(known)}
        pairs = [(number, place[name]) for number, name in enumerate(wanted) if name in place]
        places.append(np.array(pairs, dtype=np.int64).reshape(-1, 2).T)
    made[np.ix_(places[0][0], places[1][0])] = values[np.ix_(places[0][1], places[1][1])]
    return made


def _mean(values: NDArray[np.floating], weight: NDArray[np.floating]) -> float:
    known = np.isfinite(values) & (weight > 0)
    total = float(weight[known].sum())
    return float((values[known] * weight[known]).sum() / total) if total else float("nan")
