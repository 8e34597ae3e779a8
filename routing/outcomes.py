"""Reads the outcomes of requests from the proxies' access log; the guard judges predictions by them."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.accesslog.envoy import fallback_of, parse_line
from fingerpost.accesslog.rotation import Position
from fingerpost.accesslog.tail import LogTail
from fingerpost.arrays import Ints
from fingerpost.categoriser import Categoriser
from fingerpost.category import CategoryTable
from fingerpost.errors import RefusedError
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.request_status import failed, measures
from fingerpost.routing.guard import Outcomes
from fingerpost.routing.picker_table import Predictions

_ATTRIBUTES = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")
# Lines read at a time; of a log that grows faster the rest is passed over.
MAX_LINES = 20_000
_ANY_TIME = 2**62


class OutcomeLog:
    """Follows the access log from its end.

    Args:
        path: need not be there yet.
    """

    def __init__(self, path: Path, service: str) -> None:
        self._path, self._service = path, service
        self._tail = self._at_end()
        self._categoriser = Categoriser(CategoryTable())
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        # Requests that were not predicted, by the picker's reason.
        self.fallbacks: Counter[str] = Counter()

    def close(self) -> None:
        self._tail.close()

    def ended(self, predictions: Predictions, versions: Sequence[str]) -> Outcomes:
        """The requests that the log tells of since the last call, at the predictions' hosts and in their categories.

        Args:
            versions: model versions that are judged; the first is taken for that of lines that name none. Of requests
                that were sent by other versions, only whether they succeeded is of interest.

        Returns:
            `arm` is the place in `versions`. Requests that say nothing of their host are left out: the client left, or
            it was refused for what it asked (4xx).
        """
        hosts = {name: place for place, name in enumerate(predictions.hosts)}
        arms = {name: place for place, name in enumerate(versions)}
        rows: list[dict[str, Any]] = []
        lines = list(islice(self._tail.lines(), MAX_LINES))
        if len(lines) == MAX_LINES:
            self._tail.close()
            self._tail = self._at_end()
        for line in lines:
            try:
                row = parse_line(line, self._service)
            except RefusedError:
                continue
            if reason := fallback_of(line):
                self.fallbacks[reason] += 1
            status = row["status"]
            judged = row["host"] in hosts and isinstance(status, int) and (failed(status) or measures(status))
            if judged and not refusal(row, REQUEST_RECORD, 0, _ANY_TIME):
                rows.append(row)
        return Outcomes(
            np.array([hosts[row["host"]] for row in rows], dtype=np.int64),
            self._categories(rows, predictions),
            _numbers(rows, "service_time_s"),
            _numbers(rows, "inflight"),
            np.array([failed(row["status"]) for row in rows], dtype=bool),
            np.array([arms.get(row["model_version"] or versions[0], -1) for row in rows], dtype=np.int64),
        )

    def _categories(self, rows: list[dict[str, Any]], predictions: Predictions) -> Ints:
        """The place of each row's category in the predictions'; -1 where they have none for it."""
        if self._names != (predictions.categories, predictions.routes):
            self._names = (predictions.categories, predictions.routes)
            self._categoriser = Categoriser(CategoryTable.from_names(predictions.categories, predictions.routes))
        if not rows:
            return np.zeros(0, dtype=np.int64)
        places = {name: place for place, name in enumerate(predictions.categories)}
        of_table = np.array([places.get(name, -1) for name in self._categoriser.table.names], dtype=np.int64)
        return of_table[self._categoriser.assign(*([row[name] for row in rows] for name in _ATTRIBUTES))]

    def _at_end(self) -> LogTail:
        try:
            about = self._path.stat()
        except OSError:
            return LogTail(self._path)
        return LogTail(self._path, Position(about.st_ino, about.st_size))


def _numbers(rows: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], dtype=np.float64)
