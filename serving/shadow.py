"""Logs the predictions of champion and challenger for the same cells side by side; never served."""

import logging
import time
from typing import Any

from fingerpost.clock import clock_us
from fingerpost.features.definition import TARGETS
from fingerpost.lake import PREDICTIONS, date_of, partition, remove_oldest, write_table
from fingerpost.serving.metrics import EngineMetrics
from fingerpost.serving.scoring import ModelScorer, Scored, score_fleet
from fingerpost.settings import Settings

logger = logging.getLogger(__name__)


class ShadowLog:
    """Writes `predictions/service=S/date=D/TIME.parquet` every `shadow_every_s`, while there is a challenger.

    Files are named by the slot of time they are of, so that several workers of a machine write one between them.
    """

    def __init__(self, settings: Settings, metrics: EngineMetrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._done: dict[str, int] = {}

    def consider(self, scored: Scored, challenger: ModelScorer | None) -> Scored | None:
        """Logs the cells, if it is time and there is a challenger; returns what was logged of it."""
        if challenger is None or not scored.by_model:
            return None
        service = scored.fleet.service
        every_us = round(self._settings.shadow_every_s * 1e6)
        slot = clock_us() // every_us * every_us
        if self._done.get(service) == slot:
            return None
        self._done[service] = slot
        path = partition(self._settings.lake, PREDICTIONS, service, date_of(slot)) / f"{slot}.parquet"
        try:
            if path.exists():
                return None
            began = time.perf_counter()
            shadow = score_fleet(scored.fleet, challenger)
            self._metrics.scored("challenger", shadow.cells, time.perf_counter() - began)
            table = prediction_table(scored, shadow)
            write_table(path, table)
            remove_oldest(self._settings.lake / PREDICTIONS, self._settings.max_shadow_mb * 1e6)
            self._metrics.shadow_rows.inc(table.num_rows)
            return shadow
        except Exception as error:  # a comparison that is lost is no reason not to serve
            self._metrics.shadow_failures.inc()
            logger.warning("predictions were not logged: %s: %s", type(error).__name__, error)
            return None


def prediction_table(champion: Scored, challenger: Scored) -> Any:
    """An Arrow table, a row a cell.

    Columns are time (of the fingerprint), service, host, category, slots, and for champion and challenger
    `<alias>_version` and `<alias>_<target>`.
    """
    import numpy as np
    import pyarrow as pa

    fleet = champion.fleet
    hosts, categories = len(fleet.hosts), len(fleet.categories)

    def named(names: tuple[str, ...], places: Any) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(places, type=pa.int32()), pa.array(names, type=pa.string()))

    rows = hosts * categories
    # As the cost counts them: of hosts that tell their requests in flight too.
    slots = np.where(np.isfinite(fleet.host_column("host_inflight")), fleet.host_column("slots"), np.nan)
    columns = {
        "time": pa.array(np.repeat(fleet.times_us, categories), type=pa.timestamp("us", tz="UTC")),
        "service": named((fleet.service,), np.zeros(rows)),
        "host": named(fleet.hosts, np.repeat(np.arange(hosts), categories)),
        "category": named(fleet.categories, np.tile(np.arange(categories), hosts)),
        "slots": pa.array(np.repeat(slots, categories).astype(np.float32), from_pandas=True),
    }
    for alias, scored in (("champion", champion), ("challenger", challenger)):
        columns[f"{alias}_version"] = named((scored.scorer.version if scored.scorer else "",), np.zeros(rows))
        for place, target in enumerate(TARGETS):
            values = scored.predictions[..., place].reshape(-1).astype(np.float32)
            columns[f"{alias}_{target}"] = pa.array(values, from_pandas=True)
    return pa.table(columns)
