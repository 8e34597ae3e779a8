"""Predicts from the lake's latest windows, for the service whose agents send no fingerprints to the engine."""

import logging
import threading

from fingerpost.errors import NoDataError, RefusedError
from fingerpost.features.build import fingerprints_path, load_fingerprints
from fingerpost.features.outside import NOTHING, Outside
from fingerpost.fingerprint import Fingerprint, unpack
from fingerpost.serving.fleet_state import HostState, build_fleet
from fingerpost.serving.scoring import ModelScorer, score_fleet
from fingerpost.serving.table import RoutingTable, build_table
from fingerpost.settings import Settings

logger = logging.getLogger(__name__)


class LakeTable:
    """Makes the table of the lake's fingerprints as that of live ones, once for each version of them and each model.

    It is for questions about predictions alone: no picker is to route by windows that may be hours old.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = fingerprints_path(settings.lake, settings.service)
        self._lock = threading.Lock()
        self._made: tuple[tuple[int, int], ModelScorer | None, RoutingTable] | None = None

    def table(self, scorer: ModelScorer | None, routes: tuple[str, ...], outside: Outside = NOTHING) -> RoutingTable:
        """Reads the fingerprints, if they are others than before, and scores them.

        Args:
            scorer: None: predictions come from fingerprints alone.
            routes: route templates of the service.
            outside: events and holidays.

        Raises:
            NoDataError: there are none, or none that can be read.
        """
        try:
            with self._lock:
                stat = self._path.stat()
                stamp = (stat.st_mtime_ns, stat.st_ino)
                if self._made is None or self._made[0] != stamp or self._made[1] is not scorer:
                    self._made = (stamp, scorer, self._score(scorer, routes, outside))
                return self._made[2]
        except FileNotFoundError as error:
            raise NoDataError("the features flow has not run") from error
        except (OSError, ValueError) as error:
            raise NoDataError(f"they cannot be read: {error}") from error

    def _score(self, scorer: ModelScorer | None, routes: tuple[str, ...], outside: Outside) -> RoutingTable:
        settings, states = self._settings, {}
        for packed in load_fingerprints(self._path):
            try:
                found: Fingerprint = unpack(packed, -(2**62), 2**62)
            except RefusedError as error:
                logger.warning("a fingerprint in %s cannot be read: %s", self._path, error.reason)
                continue
            states[found.host] = HostState(found, found.time_us, 0)
        if not states:
            raise ValueError(f"{self._path} holds none that can be read")
        fleet = build_fleet(settings.service, states, settings.max_categories, outside=outside)
        return build_table(score_fleet(fleet, scorer), routes, 0.0)
