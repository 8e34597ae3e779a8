"""Closes the arm of an experiment within seconds of gross harm: reads what lands, before the lake has it."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.clock import US, clock_us
from fingerpost.closed_arms import HELD_S, closed_now, closing, other_arm, standing, suspects, withdrawn_us
from fingerpost.errors import RefusedError
from fingerpost.experiment import TREATMENT, Experiment
from fingerpost.lake import INBOX, service_folder
from fingerpost.request_status import CLIENT_GONE, failed
from fingerpost.serving.gross_harm import HarmWatch, Requests
from fingerpost.serving.landing import FullError
from fingerpost.serving.models import Models
from fingerpost.serving.outside import Events
from fingerpost.serving.store import StoreError
from fingerpost.settings import Settings

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
# Batches that are read at one look, the newest of them; and the largest that is.
_MOST_FILES, _MOST_BYTES = 200, 16 * 2**20
# After the other arm was found to do as badly, the suspected one is let alone for so long, seconds.
_PAUSE_S = 60.0
_COLUMNS = ("time", "status", "duration_s", "arm", "model_version")


@dataclass
class _Looked:
    """What is known of an experiment.

    Args:
        watches: by suspected arm.
        files: of the inbox that were read.
    """

    experiment: Experiment
    watches: dict[str, HarmWatch]
    files: set[Path] = field(default_factory=set)


class ArmGuard:
    """Looks every second at the experiments of the services that are asked for.

    What one worker closes, all that share the store close; what it finds is landed in the lake, where the experiment
    and the watch end by it.
    """

    def __init__(self, models: Models, events: Events, settings: Settings, services: Callable[[], list[str]]) -> None:
        self._models, self._events, self._settings, self._services = models, events, settings, services
        self._looked: dict[str, _Looked] = {}
        self._closed: dict[str, tuple[str, ...]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="arms", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def closed(self, service: str) -> tuple[str, ...]:
        """The arms that are closed now."""
        return self._closed.get(service, ())

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            for service in self._services():
                try:
                    self.look(service, clock_us())
                except (StoreError, FullError, RefusedError, OSError) as error:
                    logger.warning("an arm cannot be closed or opened now: %s", error)
                except Exception:  # what one look cannot do the next one may
                    logger.exception("the arms of %s could not be looked at", service)

    def look(self, service: str, now_us: int) -> None:
        """Looks once; closes the arm that does gross harm, and opens it where the other one does as much.

        Raises:
            StoreError, FullError, RefusedError, OSError: it can be neither told nor landed now.
        """
        experiment = self._models.experiment(service)
        if not isinstance(experiment, Experiment) or now_us >= experiment.end_us:
            self._looked.pop(service, None)
            self._closed.pop(service, None)
            return
        looked = self._of(service, experiment)
        for path in self._new_files(looked):
            requests, by = _requests(path, experiment)
            for arm, watch in looked.watches.items():
                watch.add(replace(requests, suspected=by == arm).where((by == arm) | (by == other_arm(arm))))
        closed, harmful = [], {}
        for arm, watch in looked.watches.items():
            why = self._harm(service, experiment, arm, watch, now_us)
            if why is not None:
                closed.append(arm)
            if why:
                harmful[arm] = why
        # Closed here even if it cannot be told to others.
        self._closed[service] = tuple(closed)
        for arm, why in harmful.items():
            logger.error("arm closed: %s", why, extra={"experiment": experiment.id, "arm": arm})
            self._events.take(closing(experiment, why, now_us, arm))

    def _harm(self, service: str, experiment: Experiment, arm: str, watch: HarmWatch, now_us: int) -> str | None:
        """Why an arm is to be closed now; empty: it is closed already; None: it is open."""
        told = self._events.closings(service)
        for each in standing(told, experiment, arm):
            if now_us < each.told_us + HELD_S * US and watch.refuted(each.told_us, now_us):
                logger.warning("opened again: the other arm does as badly", extra={"experiment": experiment.id})
                self._events.withdraw(service, each.id, now_us)
                told = self._events.closings(service)
        if closed_now(told, experiment, now_us, arm):
            return ""
        if now_us < withdrawn_us(told, experiment, arm) + _PAUSE_S * US:
            return None
        opened_us = max((each.told_us + round(HELD_S * US) for each in standing(told, experiment, arm)), default=0)
        return watch.harm(now_us, opened_us)

    def _of(self, service: str, experiment: Experiment) -> _Looked:
        looked = self._looked.get(service)
        if looked is None or looked.experiment.id != experiment.id:
            watched = experiment.purpose == "watch"
            settings = self._settings
            tolerated = settings.watch_error_rise if watched else settings.max_error_increase
            looked = self._looked[service] = _Looked(
                experiment, {arm: HarmWatch(tolerated) for arm in suspects(experiment)}
            )
        return looked

    def _new_files(self, looked: _Looked) -> list[Path]:
        """Batches that came since the last look, in their order."""
        folder = service_folder(self._settings.lake / INBOX, "requests", looked.experiment.service)
        there = set(folder.glob("*/*.parquet"))
        fresh = sorted(there - looked.files, key=lambda path: path.name)[-_MOST_FILES:]
        looked.files = there
        return fresh


def _requests(path: Path, experiment: Experiment) -> tuple[Requests, NDArray[np.object_]]:
    """The requests of a batch, and the arm that routed each, empty: none; none of a batch that cannot be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return _of_table(None, experiment)
        file = pq.ParquetFile(path)
        present = [name for name in _COLUMNS if name in file.schema_arrow.names]
        return _of_table(file.read(columns=present), experiment)
    except (OSError, pa.ArrowException):  # it was ingested meanwhile, or is none
        return _of_table(None, experiment)


def _of_table(table: pa.Table | None, experiment: Experiment) -> tuple[Requests, NDArray[np.object_]]:
    """By the model version that routed a request, or else by its arm, if it came in the experiment's time."""
    if table is None or not {"time", "status", "duration_s"} <= set(table.column_names):
        table = pa.table({name: pa.array([], pa.int64()) for name in ("time", "status", "duration_s")})
    ended_us = table["time"].cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()
    empty = np.full(len(ended_us), None, dtype=object)
    arm, version = (
        table[name].cast(pa.string()).to_numpy() if name in table.column_names else empty
        for name in ("arm", "model_version")
    )
    by = np.full(len(ended_us), "", dtype=object)
    for alias in experiment.arms:
        unnamed = np.array([each in (None, "") for each in version], dtype=bool)
        inside = unnamed & (arm == alias) & (ended_us >= experiment.begin_us)
        by[(version == experiment.version_of(alias)) | inside] = alias
    status, duration = (_floats(table[name]) for name in ("status", "duration_s"))
    return Requests(ended_us, duration, failed(status) | (status == CLIENT_GONE), by == TREATMENT), by


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
