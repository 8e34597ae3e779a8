"""Logs how far the champion's predictions were off, window by window: what serving sees, for the drift flow."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Bools, Floats, safe_ratio
from fingerpost.clock import US
from fingerpost.features.definition import TARGETS
from fingerpost.lake import LIVE_ERRORS, date_of, partition, remove_oldest, write_table
from fingerpost.settings import Settings

if TYPE_CHECKING:
    from fingerpost.serving.metrics import EngineMetrics

logger = logging.getLogger(__name__)
# The category of a row that is of all categories.
ALL = ""
_FILE_US = 60 * US
# What waits of a service to be written: a minute of windows of 1 s.
_MAX_WAITING = 120


@dataclass(frozen=True)
class LiveErrors:
    """How far a model was off in one window; K rows: all categories together, then each that was measured.

    Args:
        end_us: end of the window, microseconds since 1970.
        version: of the model.
        categories: K names, the first is `ALL`.
        requests: of the cells compared, shape (K,).
        model, naive: mean |log(measured / predicted)| of TARGETS by requests, of the model and of the window before,
            shape (K, 3); NaN where nothing was measured.
    """

    end_us: int
    version: str
    categories: tuple[str, ...]
    requests: Floats
    model: Floats
    naive: Floats


def live_errors(
    end_us: int,
    version: str,
    categories: Sequence[str],
    requests: NDArray[np.floating],
    measured: NDArray[np.floating],
    model: NDArray[np.floating],
    naive: NDArray[np.floating],
) -> LiveErrors:
    """Compares a model and the window before on the same cells.

    Args:
        requests: shape (H, C); 0 in cells that had none.
        measured, model, naive: logs of TARGETS, shape (H, C, 3). What is as it was the window before was not measured.
    """
    known: Bools = (requests > 0)[..., None] & (measured != naive)
    for logs in (measured, model, naive):
        known &= np.isfinite(logs)
    weight = np.where(known, requests[..., None], 0.0).astype(np.float64)
    total = weight.sum(axis=0)
    seen = np.flatnonzero(total.any(axis=-1))

    def rows(values: Floats) -> Floats:
        """Of all categories, and of each that was seen."""
        return np.concatenate([values.sum(axis=0)[None], values[seen]])

    def off(predicted: NDArray[np.floating]) -> Floats:
        apart = np.where(known, np.abs(measured - predicted), 0.0)
        return safe_ratio(rows((weight * apart).sum(axis=0)), rows(total))

    names = (ALL, *(categories[place] for place in seen.tolist()))
    return LiveErrors(end_us, version, names, rows(total).max(axis=-1), off(model), off(naive))


class LiveErrorLog:
    """Writes `live_errors/service=S/date=D/TIME.parquet`, a file a minute.

    Files are named by their minute: engines of one store see the same, and write one file between them.
    """

    def __init__(self, settings: Settings, metrics: "EngineMetrics") -> None:
        self._settings, self._metrics = settings, metrics
        self._waiting: dict[str, list[LiveErrors]] = {}

    def take(self, service: str, found: Sequence[LiveErrors]) -> None:
        """Takes in windows in the order of time, and writes the minute before once one of the next is there."""
        for each in found:
            waiting = self._waiting.setdefault(service, [])
            if waiting and each.end_us // _FILE_US != waiting[0].end_us // _FILE_US:
                self._write(service, waiting)
                waiting.clear()
            if len(waiting) < _MAX_WAITING:
                waiting.append(each)

    def forget(self, service: str) -> None:
        """Drops what waits of a service that nobody asks for."""
        self._waiting.pop(service, None)

    def _write(self, service: str, rows: list[LiveErrors]) -> None:
        minute_us = rows[0].end_us // _FILE_US * _FILE_US
        path = partition(self._settings.lake, LIVE_ERRORS, service, date_of(minute_us)) / f"{minute_us}.parquet"
        try:
            if path.exists():
                return
            write_table(path, live_error_table(service, rows))
            remove_oldest(self._settings.lake / LIVE_ERRORS, self._settings.max_shadow_mb * 1e6)
            self._metrics.live_error_windows.inc(len(rows))
        except Exception as error:  # a sign of drift that is lost is no reason not to serve
            self._metrics.live_error_failures.inc()
            logger.warning("live errors were not logged: %s: %s", type(error).__name__, error)


def live_error_table(service: str, rows: Sequence[LiveErrors]) -> Any:
    """An Arrow table, a row a window and category.

    Columns are time (end of the window), service, version, category, requests, and of every target `model_TARGET` and
    `naive_TARGET`.
    """
    import pyarrow as pa

    sizes = [len(each.categories) for each in rows]
    columns: dict[str, Any] = {
        "time": pa.array(np.repeat([each.end_us for each in rows], sizes), type=pa.timestamp("us", tz="UTC")),
        "service": pa.array([service] * sum(sizes)).dictionary_encode(),
        "version": pa.array([each.version for each in rows for _ in each.categories]).dictionary_encode(),
        "category": pa.array([name for each in rows for name in each.categories]).dictionary_encode(),
        "requests": pa.array(np.concatenate([each.requests for each in rows])),
    }
    for name, values in (("model", [each.model for each in rows]), ("naive", [each.naive for each in rows])):
        together = np.concatenate(values).astype(np.float32)
        for place, target in enumerate(TARGETS):
            columns[f"{name}_{target}"] = pa.array(together[:, place], from_pandas=True)
    return pa.table(columns)
