"""What became of requests, from the access log: service times by host and category, to judge predictions by."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fingerpost.categorise import Categoriser
from fingerpost.category import OTHER, SEPARATOR, CategoryTable
from fingerpost.errors import RefusedError
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.status import measures
from fleet.envoy_log import parse_line
from fleet.tail import LogTail, Position
from routing.picker_table import Predictions

Floats = NDArray[np.float64]
_ATTRIBUTES = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")
# Lines read at a time; of a log that grows faster the rest is passed over.
MOST_LINES = 20_000
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

    def close(self) -> None:
        self._tail.close()

    def sums(self, predictions: Predictions) -> tuple[Floats, Floats]:
        """Sums of service times, seconds, and numbers of requests since the last call, shape (hosts, categories).

        Requests count that a host answered, not with an error of its own, and that found a free slot there: waiting in
        line says nothing of the work, and there is more of it at hosts that are sent more.
        """
        hosts = {name: place for place, name in enumerate(predictions.hosts)}
        shape = (len(hosts), len(predictions.categories))
        rows, places = [], []
        lines = list(islice(self._tail.lines(), MOST_LINES))
        if len(lines) == MOST_LINES:
            self._tail.close()
            self._tail = self._at_end()
        for line in lines:
            try:
                row = parse_line(line, self._service)
            except RefusedError:
                continue
            if refusal(row, REQUEST_RECORD, 0, _ANY_TIME):
                continue
            place = hosts.get(row["host"])
            if place is not None and _tells(row, float(predictions.slots[place])):
                rows.append(row)
                places.append(place)
        total, count = np.zeros(shape), np.zeros(shape)
        if rows:
            places_of = self._categories(predictions)
            category = places_of[self._categoriser.assign(*([row[name] for row in rows] for name in _ATTRIBUTES))]
            known = category >= 0
            cell = (np.array(places)[known], category[known])
            np.add.at(total, cell, np.array([row["service_time_s"] for row in rows])[known])
            np.add.at(count, cell, 1)
        return total, count

    def _categories(self, predictions: Predictions) -> NDArray[np.int64]:
        """The place in the predictions' categories of each of the categoriser's; -1 where they have none for it."""
        if self._names != (predictions.categories, predictions.routes):
            self._names = (predictions.categories, predictions.routes)
            keys = tuple(tuple(name.split(SEPARATOR)) for name in predictions.categories if name != OTHER)
            self._categoriser = Categoriser(CategoryTable(keys, predictions.routes))
        places = {name: place for place, name in enumerate(predictions.categories)}
        return np.array([places.get(name, -1) for name in self._categoriser.table.names])

    def _at_end(self) -> LogTail:
        try:
            about = self._path.stat()
        except OSError:
            return LogTail(self._path)
        return LogTail(self._path, Position(about.st_ino, about.st_size))


def _tells(row: dict[str, object], slots: float) -> bool:
    status, took, inflight = row["status"], row["service_time_s"], row["inflight"]
    return (
        isinstance(status, int)
        and measures(status)
        and isinstance(took, float)
        and 0 < took < float("inf")
        and (inflight is None or (isinstance(inflight, int | float) and inflight < slots))
        and isinstance(row["bytes_in"], int)
        and isinstance(row["method"], str)
    )
