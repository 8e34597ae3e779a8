"""Decides live whether a model or the baseline serves, by how well both predicted the windows that ended since.

Choices depend on ratios between hosts of one category alone, so only these are compared, with hysteresis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fingerpost.arrays import Bools, Floats, safe_ratio
from fingerpost.clock import US
from fingerpost.training.manifest import Verdict

# A change by chance alone comes once in this many windows at most, on average: 5.5 hours of windows of 10 s.
WINDOWS_A_CHANGE = 2000.0
# Shares of what was won that are bet on each window: small ones find small differences, large ones are soon sure.
BETS = np.array([0.1, 0.3, 0.9])
# A window of so many requests weighs half of one that was measured without error.
_PRIOR_REQUESTS = 3.0
# Predictions that differ by less choose the same hosts.
_SAME = 1e-3
# What was predicted longer ago, in windows, was predicted for something else.
_MAX_WINDOWS_AHEAD = 3
_MAX_CATEGORIES = 4096
SERVICE = ""
_Won = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=len(BETS), max_length=len(BETS))]


@dataclass(frozen=True)
class Forecast:
    """What both predict of a fleet's next window; T = 2 quantities, throughput and median latency, as logs.

    Args:
        as_of_us: end of the last window that it is made of, microseconds since 1970.
        model, baseline: predictions, shape (H, C, T); NaN where there is none.
        last: as measured last, shape (H, C, T); NaN where never.
    """

    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    as_of_us: int
    model: NDArray[Any]
    baseline: NDArray[Any]
    last: NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """What a window measured.

    Args:
        end_us: end of the window, microseconds since 1970.
        values: logs, shape (H, C, T); NaN where nothing was measured.
        requests: shape (H, C); 0 in cells that had none.
    """

    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    end_us: int
    values: NDArray[Any]
    requests: NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """How much worse the model did in a window, by category, shape (C,) each.

    Args:
        worse: mean of |error of the model| - |error of the baseline|, of ratios between hosts, as logs.
        apart: mean of |model - baseline|, which `worse` never exceeds.
        requests: of the cells compared; 0: fewer than two hosts were measured.
    """

    categories: tuple[str, ...]
    worse: Floats
    apart: Floats
    requests: Floats


def compare(forecast: Forecast, outcome: Outcome) -> Comparison:
    """Compares both with what was measured of the hosts and categories that are in forecast and outcome."""
    _, host_of, host_in = _common(forecast.hosts, outcome.hosts)
    categories, category_of, category_in = _common(forecast.categories, outcome.categories)
    of, within = np.ix_(host_of, category_of), np.ix_(host_in, category_in)
    actual, model, baseline = outcome.values[within], forecast.model[of], forecast.baseline[of]
    requests = np.broadcast_to(outcome.requests[within][..., None], actual.shape)
    # A quantity that a window does not measure stays as it was.
    fresh = (requests > 0) & (actual != forecast.last[of])
    known = fresh & np.isfinite(actual) & np.isfinite(model) & np.isfinite(baseline)
    # Throughput, by which hosts are chosen, or else the median, as one quantity a category.
    quantity = np.where((known[..., 0].sum(axis=0) > 1)[None, :, None], [True, False], [False, True])
    known &= quantity
    weight = np.where(known, requests / (requests + _PRIOR_REQUESTS), 0.0).sum(axis=2)
    picked = [np.where(known, each, 0.0).sum(axis=2) for each in (actual, model, baseline)]
    centred = [each - safe_ratio((weight * each).sum(axis=0), weight.sum(axis=0))[None] for each in picked]
    actual_ratio, model_ratio, baseline_ratio = centred
    worse = np.abs(actual_ratio - model_ratio) - np.abs(actual_ratio - baseline_ratio)
    apart = np.abs(model_ratio - baseline_ratio)
    several = (weight > 0).sum(axis=0) > 1
    total = weight.sum(axis=0)
    means = [np.where(several, safe_ratio((weight * each).sum(axis=0), total), 0.0) for each in (worse, apart)]
    counted = np.where(several, np.where(weight > 0, requests[..., 0], 0.0).sum(axis=0), 0.0)
    return Comparison(categories, means[0], means[1], counted)


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any]:
    """Names that are in both, and their places there."""
    if one == other:
        places = np.arange(len(one))
        return one, places, places
    names, first, second = np.intersect1d(np.array(one, dtype=str), np.array(other, dtype=str), return_indices=True)
    return tuple(names.tolist()), first, second


@dataclass(frozen=True)
class Duel:
    """A sequential test of whether the one that does not serve is the better one.

    A bet on each window by a game that is fair, or worse, as long as the one that serves is no worse: what was won is
    evidence against it. It is taken to be worse once the bets have multiplied by `limit`, and the next test begins. By
    Ville's inequality, and as each test begins anew where it has lost, windows between two changes by chance number
    `limit` or more on average (an e-detector; Shin, Ramdas, Rinaldo, 2022), whatever the distribution of errors.

    Args:
        by_model: whether the model serves.
        won: by what each of BETS has multiplied.
    """

    by_model: bool
    won: tuple[float, ...]

    @classmethod
    def begin(cls, by_model: bool, limit: float) -> "Duel":
        """A test with a head start of half of the way: what is wrong from the beginning is found in half of the time
        (Lucas and Crosier, 1982).
        """
        return cls(by_model, tuple([float(np.sqrt(limit))] * len(BETS)))

    def after(self, worse: float, limit: float) -> "Duel":
        """The test after one more window.

        Args:
            worse: how much worse the model did, -1..1, of what was possible.
            limit: windows between two changes by chance, on average.
        """
        against = worse if self.by_model else -worse
        won = np.maximum(self.won, 1.0) * (1 + BETS * against)
        if won.mean() >= limit:
            return Duel(not self.by_model, tuple([1.0] * len(BETS)))
        return Duel(self.by_model, tuple(won.tolist()))


@dataclass
class Contender:
    """Follows one model of a service against the baseline.

    Args:
        version: of the model.
        verdict: of its training: who serves to begin with.
        window_s: length of windows, seconds.
        duels: by category; that of the service by the empty name.
        since_us: when the service was served by another last, microseconds since 1970; 0: never.
        changes: how often anything was served by another.
    """

    version: str
    verdict: Verdict
    window_s: float
    duels: dict[str, Duel] = field(default_factory=dict)
    since_us: int = 0
    changes: int = 0

    def observe(self, forecast: Forecast, outcome: Outcome) -> bool:
        """Takes in a window; tells whether another serves anything now."""
        if not 0 < (outcome.end_us - forecast.as_of_us) / US <= _MAX_WINDOWS_AHEAD * self.window_s:
            return False
        found = compare(forecast, outcome)
        usable = (found.requests > 0) & (found.apart > _SAME)
        before = self.changes
        # Of the service, what the model serves, or would serve.
        chosen = usable & self._of_categories(found.categories)
        if chosen.any():
            worse, apart = (found.requests[chosen] @ each[chosen] for each in (found.worse, found.apart))
            if self._take(SERVICE, float(worse / apart), WINDOWS_A_CHANGE):
                self.since_us = outcome.end_us
        for place in np.flatnonzero(usable).tolist():
            share = float(found.worse[place] / found.apart[place])
            self._take(found.categories[place], share, WINDOWS_A_CHANGE * len(found.categories))
        if len(self.duels) > _MAX_CATEGORIES:
            self.duels = {name: duel for name, duel in self.duels.items() if name in {SERVICE, *found.categories}}
        return self.changes > before

    @property
    def serves(self) -> bool:
        """Whether the model serves the service, but for some categories."""
        return self._duel(SERVICE).by_model

    def by_model(self, categories: Sequence[str]) -> Bools:
        """Which categories the model serves, shape (C,)."""
        return self._of_categories(categories) & self.serves

    @property
    def reason(self) -> str:
        """Why the baseline serves the service, or some categories of it; empty: it does not."""
        if not self.serves:
            since = datetime.fromtimestamp(self.since_us / US, UTC).isoformat(timespec="seconds")
            return f"the baseline predicts ratios between hosts better than version {self.version}, as of {since}"
        if any(name and not duel.by_model for name, duel in self.duels.items()):
            return f"the baseline predicts ratios between hosts better than version {self.version} in some categories"
        return self.verdict.reason

    def to_json(self) -> str:
        """Renders the state, for `resume`."""
        return _Saved(
            version=self.version,
            since_us=self.since_us,
            changes=self.changes,
            duels={name: (duel.by_model, list(duel.won)) for name, duel in self.duels.items()},
        ).model_dump_json()

    def resume(self, text: str | bytes) -> None:
        """Goes on from what `to_json` rendered; what is of another model, or damaged, changes nothing."""
        try:
            saved = _Saved.model_validate_json(text)
        except ValidationError:
            return
        if saved.version == self.version:
            self.duels = {name: Duel(by_model, tuple(won)) for name, (by_model, won) in saved.duels.items()}
            self.since_us, self.changes = saved.since_us, saved.changes

    def _duel(self, name: str) -> Duel:
        duel = self.duels.get(name)
        if duel is not None:
            return duel
        return Duel.begin(name == SERVICE or self.verdict.of(name), WINDOWS_A_CHANGE)

    def _of_categories(self, categories: Sequence[str]) -> Bools:
        return np.array([self._duel(name).by_model for name in categories], dtype=bool)

    def _take(self, name: str, worse: float, limit: float) -> bool:
        before = self._duel(name)
        self.duels[name] = before.after(worse, limit)
        changed = self.duels[name].by_model != before.by_model
        self.changes += changed
        return changed


class _Saved(BaseModel):
    """A contender's state in a file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: str
    since_us: Annotated[int, Field(ge=0, lt=2**62)]
    changes: Annotated[int, Field(ge=0)]
    duels: Annotated[dict[str, tuple[bool, _Won]], Field(max_length=2 * _MAX_CATEGORIES)]
