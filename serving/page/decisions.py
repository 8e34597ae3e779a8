"""Reads the request records of the last hour out of the lake: latency, errors and exploration by who routed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.clock import US, clock_us
from fingerpost.decision_sample import EXPLORED_BELOW
from fingerpost.lake import date_of, parquet_files, partition
from fingerpost.request_status import failed, measures

_HOUR_US, _MINUTE_US = 3600 * US, 60 * US
_LOOK_EVERY_S = 10.0
# Rows and files that one look reads at most: the newest. The first look finds the files of an hour.
_MAX_ROWS, _MAX_FIRST_FILES, _MAX_FILES = 200_000, 60, 300
_COLUMNS = ("time", "status", "duration_s", "service_time_s", "policy", "arm", "propensity", "weight")
# Steps of 5 % from 0.1 ms to 100 s.
_EDGES = np.geomspace(1e-4, 100.0, 284)
_MAX_ARMS = 8


@dataclass
class ArmMinute:
    """Requests of one arm in one minute; counts are weighted, so that samples stand for all."""

    requests: float = 0.0
    failed: float = 0.0
    explored: float = 0.0
    bins: Floats = field(default_factory=lambda: np.zeros(len(_EDGES) + 1))

    def add(self, other: "ArmMinute") -> None:
        """Adds another's counts."""
        self.requests += other.requests
        self.failed += other.failed
        self.explored += other.explored
        self.bins = self.bins + other.bins

    def quantile_s(self, share: float) -> float | None:
        """A quantile of durations, to 5 %; None without any."""
        total = self.bins.sum()
        if total <= 0:
            return None
        place = int(np.searchsorted(np.cumsum(self.bins), share * total))
        return float(_EDGES[min(place, len(_EDGES) - 1)])


class Decisions:
    """Follows the records of one service; reads files that are new since the last look, at most every ten seconds.

    Args:
        lake: folder of the lake.

    Attributes:
        problem: why the last look failed; None: it did not.
    """

    def __init__(self, lake: Path, service: str) -> None:
        self._lake, self._service = lake, service
        self._seen: set[Path] = set()
        self._looked = False
        self._looked_s = -_LOOK_EVERY_S
        self._minutes: dict[int, dict[str, ArmMinute]] = {}
        self.problem: str | None = None

    def look(self) -> None:
        """Reads what is new, if it is time."""
        if time.monotonic() - self._looked_s < _LOOK_EVERY_S:
            return
        try:
            self._look()
            self.problem = None
        except (OSError, ValueError) as error:
            self.problem = f"request records cannot be read: {error}"[:300]
        self._looked_s = time.monotonic()

    def minutes(self) -> Mapping[int, Mapping[str, ArmMinute]]:
        """Minute since 1970 to arm to its requests, oldest first."""
        return dict(sorted(self._minutes.items()))

    def hour(self) -> dict[str, ArmMinute]:
        """The sums over the hour, by arm."""
        found: dict[str, ArmMinute] = {}
        for minute in self._minutes.values():
            for arm, each in minute.items():
                found.setdefault(arm, ArmMinute()).add(each)
        return found

    def _look(self) -> None:
        import pyarrow.parquet as pq

        now_us = clock_us()
        days = {date_of(now_us), date_of(now_us - _HOUR_US)}
        found = {path for day in days for path in parquet_files(partition(self._lake, "requests", self._service, day))}
        self._seen &= found
        fresh = sorted(found - self._seen, key=_modified, reverse=True)
        rows, most = 0, _MAX_FILES if self._looked else _MAX_FIRST_FILES
        for path in fresh[:most]:
            # Merged files hold what was counted already.
            if rows > _MAX_ROWS or _modified(path) < now_us / US - 3600 or path.name.startswith("merged"):
                continue
            try:
                schema = pq.read_schema(path).names
                table = pq.read_table(path, columns=[name for name in _COLUMNS if name in schema], partitioning=None)
            except FileNotFoundError:  # retention, or compaction
                continue
            rows += table.num_rows
            self._count(table, now_us)
        self._seen |= found
        self._looked = True
        for old in [minute for minute in self._minutes if minute < (now_us - _HOUR_US) // _MINUTE_US]:
            del self._minutes[old]

    def _count(self, table: Any, now_us: int) -> None:
        frame = table.to_pandas().reindex(columns=_COLUMNS)
        times = table.column("time").cast("int64").to_numpy()
        arms = _arms(frame)
        kept = (times > now_us - _HOUR_US) & (times <= now_us + _MINUTE_US) & (arms != "")
        if not kept.any():
            return
        status = frame["status"].astype(float).to_numpy()
        took_s = frame["duration_s"].astype(float).fillna(frame["service_time_s"].astype(float)).to_numpy()
        weight = frame["weight"].astype(float).fillna(1.0).to_numpy()
        # Other policies have no best host that they could leave.
        predicted = frame["policy"].astype(object).to_numpy() == "fingerpost"
        explored = predicted & (frame["propensity"].astype(float).fillna(1.0).to_numpy() < EXPLORED_BELOW)
        bins, bad, good = np.searchsorted(_EDGES, took_s), failed(status), measures(status) & np.isfinite(took_s)
        minutes = times // _MINUTE_US
        for minute in np.unique(minutes[kept]).tolist():
            of_minute = self._minutes.setdefault(minute, {})
            for arm in np.unique(arms[kept & (minutes == minute)]).tolist():
                chosen = kept & (minutes == minute) & (arms == arm)
                if arm not in of_minute and len(of_minute) >= _MAX_ARMS:
                    continue
                of_minute.setdefault(arm, ArmMinute()).add(
                    ArmMinute(
                        float(weight[chosen].sum()),
                        float(weight[chosen & bad].sum()),
                        float(weight[chosen & explored].sum()),
                        np.bincount(bins[chosen & good], weight[chosen & good], len(_EDGES) + 1).astype(np.float64),
                    )
                )


def _arms(frame: Any) -> Any:
    """Who routed: an arm of an experiment, else `predicted`, `least request` or another policy; empty: not told."""
    policy = frame["policy"].astype(object).fillna("").astype(str).to_numpy(dtype=object)
    arm = frame["arm"].astype(object).fillna("").astype(str).to_numpy(dtype=object)
    named = np.where(policy == "fingerpost", "predicted", np.char.replace(policy.astype(str), "_", " "))
    return np.where(arm != "", arm, named).astype(str)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
