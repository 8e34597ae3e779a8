"""Guardrails of a promotion: failed requests and p99 since it, slot by slot, against the time before."""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.clock import US
from fingerpost.lake import read
from fingerpost.status import failed as has_failed

_COLUMNS = ["time", "method", "route", "status", "duration_s", "service_time_s", "arm"]
# A slot with fewer requests says nothing of a p99; fewer slots say nothing at all.
_MIN_SLOT_REQUESTS = 20
_MIN_SLOTS_BEFORE = 10
_MIN_SLOTS_AFTER = 3
# So small because it is looked at many times in one watch.
_MAX_CHANCE = 0.005


@dataclass(frozen=True)
class Guardrail:
    """One quantity before and after.

    Args:
        before, after: median over the slots, or the share of failed requests in all.
        change: what its limit is for: the ratio of p99, the rise of the share.
        chance: probability of slots so much worse if nothing had changed; None: too few slots.
        broken: it is worse than the limit, and not by chance.
    """

    before: float
    after: float
    change: float
    limit: float
    chance: float | None
    broken: bool


@dataclass(frozen=True)
class WatchReading:
    """Both guardrails; `enough`: whether there were slots enough to tell."""

    slots_before: int
    slots_after: int
    requests_after: int
    errors: Guardrail
    p99: Guardrail
    enough: bool

    @property
    def broken(self) -> list[str]:
        """The broken guardrails, in words."""
        found = []
        if self.errors.broken:
            found.append(f"failed requests rose from {self.errors.before:.2%} to {self.errors.after:.2%}")
        if self.p99.broken:
            found.append(f"p99 is {self.p99.change:.2f} times what it was")
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_guardrails(
    before: pd.DataFrame, after: pd.DataFrame, slot_s: float, ratio: float, rise: float
) -> WatchReading:
    """Compares request records.

    Durations are told relative to the median before of the same method and route, so that another mix of requests is no
    slowness. Slots are compared by the one-sided test of Mann and Whitney (1947): requests of a slot depend on each
    other, slots hardly do.

    Args:
        before, after: request records with at least `time`, `method`, `route`, `status` and the two durations.
        slot_s: length of a slot, seconds.
        ratio, rise: limits of the p99's ratio and of the failed share's rise.
    """
    usual = _duration(before).groupby(_kind(before)).median()
    errors_before, p99_before, shares_before = _slots(before, usual, slot_s)
    errors_after, p99_after, shares_after = _slots(after, usual, slot_s)
    chance = _chance(errors_after, errors_before)
    grown = shares_after - shares_before
    errors = Guardrail(
        shares_before, shares_after, grown, rise, chance, chance is not None and chance < _MAX_CHANCE and grown > rise
    )
    medians = _median(p99_before), _median(p99_after)
    times = medians[1] / medians[0] if medians[0] > 0 else float("nan")
    chance = _chance(p99_after, p99_before)
    p99 = Guardrail(*medians, times, ratio, chance, chance is not None and chance < _MAX_CHANCE and times > ratio)
    enough = len(errors_before) >= _MIN_SLOTS_BEFORE and len(errors_after) >= _MIN_SLOTS_AFTER
    return WatchReading(len(errors_before), len(errors_after), len(after), errors, p99, enough)


def load_requests(lake: Path, service: str, begin: datetime, end: datetime) -> pd.DataFrame:
    """Request records of a span of time, without those of an experiment's challenger."""
    span_us = [round(edge.timestamp() * US) for edge in (begin, end)]
    frame = read(lake, "requests", service, span_us[0], span_us[1], _COLUMNS).to_pandas()
    return frame[frame["arm"] != "challenger"].reset_index(drop=True)


def _slots(
    records: pd.DataFrame, usual: pd.Series, slot_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Share of failed requests and p99 of relative durations of every slot, and the failed share of all."""
    if records.empty:
        return np.array([]), np.array([]), 0.0
    slot = (records["time"].astype("int64") // round(slot_s * _units(records["time"]))).to_numpy()
    failed = pd.Series(has_failed(records["status"].to_numpy(float)).astype(float))
    relative = pd.Series((_duration(records) / _kind(records).map(usual)).to_numpy(float))
    relative = relative.where(np.isfinite(relative))
    counts = failed.groupby(slot).size()
    full = counts.index[counts >= _MIN_SLOT_REQUESTS]
    measured = relative.groupby(slot).count()
    enough = measured.index[measured >= _MIN_SLOT_REQUESTS]
    return (
        failed.groupby(slot).mean().loc[full].to_numpy(float),
        relative.groupby(slot).quantile(0.99).loc[enough].to_numpy(float),
        float(failed.mean()),
    )


def _units(times: pd.Series) -> int:
    return {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.dt.unit]


def _duration(records: pd.DataFrame) -> pd.Series:
    return records["duration_s"].astype(float).fillna(records["service_time_s"].astype(float))


def _kind(records: pd.DataFrame) -> pd.Series:
    return records["method"].astype("str") + " " + records["route"].astype("str")


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _chance(after: NDArray[np.float64], before: NDArray[np.float64]) -> float | None:
    from scipy.stats import mannwhitneyu

    if len(before) < _MIN_SLOTS_BEFORE or len(after) < _MIN_SLOTS_AFTER:
        return None
    return float(mannwhitneyu(after, before, alternative="greater").pvalue)
