"""The first sign of drift: what serving sees of the champion's errors, against the interval it was tested with."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.abtest.drift.frames import Predict
from fingerpost.arrays import Bools, Floats
from fingerpost.features.definition import TARGETS, naive_column
from fingerpost.serving.contender import BETS
from fingerpost.serving.live_errors import ALL, live_errors

# The interval of calibration leaves out this share of the windows at each end; fewer windows have no such interval.
_TAIL, _MIN_WINDOWS = 0.05, 19
# Windows between two alarms by chance, on average, were half of them beyond the interval by chance; 120 days of 10 s.
_WINDOWS_AN_ALARM = 1e6
_MAX_CATEGORIES = 256
# A p99 of few requests is their slowest: its error changes with the rate.
LIVE_TARGETS = TARGETS[:2]
_NAIVE_VIEW = "last"


@dataclass(frozen=True)
class LiveSign:
    """Live errors of one target, of one category or of all.

    Args:
        category: empty: all together.
        error: mean |log(measured / predicted)| of the live windows looked at; since the alarm began where there is one.
        low, high: the interval of this error in single windows when the version was tested; `high` is at least
            `drift_live_ratio` times the median.
        naive_ratio, naive_high: the error over that of the window before, and the upper end of its interval.
        windows: live windows looked at.
        beyond: how many of them were beyond both.
        since_us: since when; None: there is no sign of drift.
    """

    target: str
    category: str
    error: float
    low: float
    high: float
    naive_ratio: float
    naive_high: float
    windows: int
    beyond: int
    since_us: int | None

    @property
    def found(self) -> bool:
        return self.since_us is not None

    def text(self) -> str:
        """The sign in words."""
        of = f" of {self.category!r}" if self.category else ""
        since = pd.Timestamp(self.since_us or 0, unit="us", tz="UTC").strftime("%Y-%m-%d %H:%M:%S")
        return (
            f"live error of {self.target}{of} is {self.error:.3f} since {since}, beyond what it was tested with, "
            f"{self.low:.3f} to {self.high:.3f}"
        )


def live_signs(tested: pd.DataFrame, predict_log: Predict, live: pd.DataFrame, ratio: float) -> list[LiveSign]:
    """Holds the live errors of a version against those of the windows that it was tested on and never learned from.

    A window counts against the version if its error lies above the interval of the tested windows (split conformal:
    Vovk et al., 2005), by `ratio` at least, and so does its error over that of the window before: fewer requests make
    both worse, and what nobody could predict is no reason to learn anew. It is a sign of drift once bets at even odds
    that a window counts have won so much that, were it even odds, an alarm would come once in a million windows
    (an e-detector; Shin, Ramdas and Rinaldo, 2022); and as long as most windows since count. Even odds, where one in
    twenty is to be expected, leaves room for windows that depend on each other.

    Args:
        tested: training rows that the model has not learned.
        predict_log: the model.
        live: rows of `live_errors` in the lake, of this version alone.
        ratio: `drift_live_ratio`.

    Returns:
        Of every target and category with enough windows; those that are signs first, all categories together first.
    """
    if tested.empty or live.empty:
        return []
    known = _tested_errors(tested, predict_log)
    found = []
    busiest = live.groupby("category", observed=True)["requests"].sum().sort_values(ascending=False)
    names = busiest.index.astype(str)[: _MAX_CATEGORIES + 1]
    limit = _WINDOWS_AN_ALARM * max(1, len(names) * len(LIVE_TARGETS))
    by_name = {str(name): rows for name, rows in live.groupby("category", observed=True)}
    for name in names:
        rows = by_name[name].sort_values("time")
        for target in LIVE_TARGETS:
            model, naive = (rows[f"{who}_{target}"].to_numpy(np.float64) for who in ("model", "naive"))
            usable = np.isfinite(model) & np.isfinite(naive)
            before = known.get((name, target))
            if before is None or not usable.any():
                continue
            times = rows["time"].to_numpy("datetime64[us]").astype(np.int64)[usable]
            found.append(_sign(target, name, before, (model[usable], naive[usable]), times, ratio, limit))
    return sorted(found, key=lambda each: (not each.found, each.category != ALL, TARGETS.index(each.target)))


def first_alarm(beyond: Bools, limit: float) -> int | None:
    """Where the windows begin that bets at even odds have won `limit` on; None: nowhere, or most since do not count."""
    won, began = np.ones(len(BETS)), 0
    for place, counts in enumerate(beyond.tolist()):
        won = np.maximum(won, 1.0) * (1 + BETS * (1.0 if counts else -1.0))
        if won.max() <= 1.0:
            began = place + 1
        if won.mean() >= limit:
            if beyond[began:].mean() > 0.5:
                return began
            # What was is over.
            won, began = np.ones(len(BETS)), place + 1
    return None


def _sign(
    target: str,
    category: str,
    tested: tuple[Floats, Floats],
    live: tuple[Floats, Floats],
    times_us: NDArray[np.int64],
    ratio: float,
    limit: float,
) -> LiveSign:
    (low, high), (_, ratio_high) = _interval(tested[0]), _interval(_over(*tested))
    high = max(high, float(np.median(tested[0])) * ratio)
    beyond = (live[0] > high) & (_over(*live) > ratio_high)
    place = first_alarm(beyond, limit)
    began = place or 0
    return LiveSign(
        target,
        category,
        float(live[0][began:].mean()),
        low,
        high,
        math.exp(float(_over(*live)[began:].mean())),
        math.exp(ratio_high),
        len(beyond),
        int(beyond.sum()),
        None if place is None else int(times_us[place]),
    )


def _interval(values: Floats) -> tuple[float, float]:
    """Ends that a further value lies beyond with a probability of `_TAIL` each, whatever the distribution."""
    ordered = np.sort(values)
    place = math.ceil((1 - _TAIL) * (len(ordered) + 1)) - 1
    return float(ordered[len(ordered) - 1 - place]), float(ordered[place])


def _over(model: Floats, naive: Floats) -> Floats:
    """Log of one error over the other; both are means of several cells, and 0 where all are exact."""
    return np.asarray(np.log(model + 1e-6) - np.log(naive + 1e-6))


def _tested_errors(tested: pd.DataFrame, predict_log: Predict) -> dict[tuple[str, str], tuple[Floats, Floats]]:
    """By category and target the errors of the model and of the window before, shape (windows,) each, as served."""
    predicted = predict_log(tested)
    shape = (len(tested), len(TARGETS))
    model = np.full(shape, np.nan)
    for place, target in enumerate(TARGETS):
        model[:, place] = predicted.get(target, np.nan)
    measured = tested[[*TARGETS]].to_numpy(np.float64)
    naive = tested[[naive_column(_NAIVE_VIEW, target) for target in TARGETS]].to_numpy(np.float64)
    requests = tested["requests"].to_numpy(np.float64)
    codes, categories = pd.factorize(tested["category"].astype(str))
    hosts, _ = pd.factorize(tested["host"].astype(str))
    errors: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, places in tested.groupby("time").indices.items():
        shape = (int(hosts[places].max()) + 1, len(categories))
        cells = (hosts[places], codes[places])
        full = [np.full((*shape, len(TARGETS)), np.nan) for _ in range(3)]
        for whole, values in zip(full, (measured, model, naive), strict=True):
            whole[cells] = values[places]
        asked = np.zeros(shape)
        asked[cells] = requests[places]
        window = live_errors(0, "", list(categories), asked, *full)
        for row, name in enumerate(window.categories):
            for place, target in enumerate(LIVE_TARGETS):
                pair = float(window.model[row, place]), float(window.naive[row, place])
                if all(map(math.isfinite, pair)):
                    errors.setdefault((name, target), []).append(pair)
    return {
        key: (np.array(pairs)[:, 0], np.array(pairs)[:, 1])
        for key, pairs in errors.items()
        if len(pairs) >= _MIN_WINDOWS
    }
