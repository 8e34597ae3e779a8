"""The watch over the last promotion: failed requests and p99 since it, slot by slot, against the time before.

Its state lies in the registry alone, so any process can go on with it.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.abtest.experiment.pairs import MIN_REQUESTS
from fingerpost.abtest.experiment.slots import measure_slots
from fingerpost.abtest.promotion.promote import rollback
from fingerpost.abtest.promotion.record import note_applied, write_record
from fingerpost.abtest.results import read_time
from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.features.windows import numbers
from fingerpost.lake import read_frame
from fingerpost.settings import Settings
from fingerpost.training.registry import WATCH_TAG, Registry, StaleEvidenceError

logger = logging.getLogger(__name__)
_COLUMNS = ("time", "method", "route", "status", "duration_s", "service_time_s", "arm", "weight")
# With fewer slots there is nothing to compare.
_MIN_SLOTS_BEFORE, _MIN_SLOTS_AFTER = 10, 3
# So small because one watch is looked at many times.
_MAX_CHANCE = 0.005
# Slots left out at first: pickers still have the old table, and slots begin where they begin.
_WASHOUT_SLOTS = 1
# The least time before that is compared with, in slots.
_MIN_BEFORE_SLOTS = 30


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


def read_guardrails(
    before: pd.DataFrame, after: pd.DataFrame, slot_s: float, ratio: float, rise: float
) -> WatchReading:
    """Compares request records.

    Durations are relative to the median before of the same method and route, so that another mix of requests is no
    slowness. Slots are compared by the one-sided test of Mann and Whitney (1947): requests of a slot depend on each
    other, slots hardly do.

    Args:
        before, after: request records: `time_us`, `method`, `route`, `status`, the two durations, and
            if known `weight`.
        slot_s: length of a slot, seconds.
        ratio, rise: limits of the p99's ratio and of the failed share's rise.
    """
    usual = _duration(before).groupby(_kind(before)).median()
    (errors_before, p99_before, share_before), (errors_after, p99_after, share_after) = (
        _slots(records, usual, slot_s) for records in (before, after)
    )
    rises, grows = _chance(errors_after, errors_before), _chance(p99_after, p99_before)
    p99 = (_median(p99_before), _median(p99_after))
    return WatchReading(
        len(errors_before),
        len(errors_after),
        len(after),
        _guardrail((share_before, share_after), share_after - share_before, rise, rises),
        _guardrail(p99, p99[1] / p99[0] if p99[0] > 0 else float("nan"), ratio, grows),
        enough=len(errors_before) >= _MIN_SLOTS_BEFORE and len(errors_after) >= _MIN_SLOTS_AFTER,
    )


def load_requests(lake: Path, service: str, begin: datetime, end: datetime) -> pd.DataFrame:
    """Request records of a span of time, without those of an experiment's challenger."""
    begin_us, end_us = (round(edge.timestamp() * US) for edge in (begin, end))
    frame = read_frame(lake, "requests", service, begin_us, end_us, _COLUMNS)
    return frame[frame["arm"] != CHALLENGER].reset_index(drop=True)


def _slots(records: pd.DataFrame, usual: pd.Series, slot_s: float) -> tuple[Floats, Floats, float]:
    """Share of failed requests and p99 of relative durations of every slot, and the failed share of all."""
    if records.empty:
        return np.array([]), np.array([]), 0.0
    relative = (_duration(records) / _kind(records).map(usual)).replace([np.inf, -np.inf], np.nan)
    slots, place = np.unique(records["time_us"].to_numpy() // round(slot_s * US), return_inverse=True)
    table = measure_slots(records.assign(duration_s=relative), place, len(slots), slot_s)
    failed = float(np.average(table["error_rate"], weights=table["weight"]))
    full, measured = (table[name] >= MIN_REQUESTS for name in ("requests", "measured"))
    return table.loc[full, "error_rate"].to_numpy(float), table.loc[measured, "latency_p99_s"].to_numpy(float), failed


def _duration(records: pd.DataFrame) -> pd.Series:
    return pd.Series(numbers(records["duration_s"])).fillna(pd.Series(numbers(records["service_time_s"])))


def _kind(records: pd.DataFrame) -> pd.Series:
    return (records["method"].astype("str") + " " + records["route"].astype("str")).reset_index(drop=True)


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _chance(after: Floats, before: Floats) -> float | None:
    from scipy.stats import mannwhitneyu

    if len(before) < _MIN_SLOTS_BEFORE or len(after) < _MIN_SLOTS_AFTER:
        return None
    return float(mannwhitneyu(after, before, alternative="greater").pvalue)


def _guardrail(sides: tuple[float, float], change: float, limit: float, chance: float | None) -> Guardrail:
    return Guardrail(*sides, change, limit, chance, chance is not None and chance < _MAX_CHANCE and change > limit)


@dataclass(frozen=True)
class WatchOutcome:
    """What one look found.

    Args:
        state: watching, kept (the time is up and nothing was wrong), rolled back.
        reading: the guardrails.
    """

    state: str
    version: str
    previous: str
    reason: str
    record: str
    reading: dict[str, Any]


def check_promotion(settings: Settings, who: str, now: datetime | None = None) -> WatchOutcome | None:
    """Looks once at the promotion that is watched; rolls it back if a guardrail is broken. None: none is watched."""
    registry, moment = Registry(settings), now or datetime.now(UTC)
    watch = registry.note(WATCH_TAG)
    if watch is None:
        return None
    version, previous = str(watch.get("version")), str(watch.get("previous"))
    since, until = read_time(watch.get("since")), read_time(watch.get("until"))
    if registry.version_of(CHAMPION) != version or since is None or until is None:
        # A promotion that was cut short, or undone by hand.
        _end(registry, watch)
        return None
    slot = timedelta(seconds=settings.watch_slot_s)
    before = max(until - since, _MIN_BEFORE_SLOTS * slot)
    reading = read_guardrails(
        load_requests(settings.lake, settings.service, since - before, since),
        load_requests(settings.lake, settings.service, since + _WASHOUT_SLOTS * slot, min(until, moment)),
        settings.watch_slot_s,
        settings.watch_p99_ratio,
        settings.watch_error_rise,
    )
    found = {"watch": watch, "reading": asdict(reading)}
    if reading.broken:
        why = f"watch over version {version}: {'; '.join(reading.broken)}"
        try:
            done = rollback(settings, who, why, found, expected=version)
        except StaleEvidenceError:
            _end(registry, watch)
            return None
        logger.warning("rolled back", extra={"model_version": version, "reason": why})
        return WatchOutcome("rolled back", version, previous, why, done.record, asdict(reading))
    if moment < until:
        return WatchOutcome("watching", version, previous, f"until {until.isoformat()}", "", asdict(reading))
    why = "no guardrail was broken" if reading.enough else "too few requests came to tell anything bad of it"
    told = {"model_name": registry.name, "champion": previous, "challenger": version, **found}
    record = write_record(registry, "kept", told, None, None, who, why)
    _end(registry, watch)
    note_applied(registry, record, "yes")
    return WatchOutcome("kept", version, previous, why, record, asdict(reading))


def _end(registry: Registry, watch: dict[str, Any]) -> None:
    """Removes the watch, unless another has begun."""
    with registry.lock():
        if registry.note(WATCH_TAG) == watch:
            registry.set_note(WATCH_TAG, None)
