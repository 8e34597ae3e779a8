"""The category tables of services, as the features step wrote them into the lake."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from fingerpost.category import OTHER, SEPARATOR, CategoryTable
from fingerpost.features.build import load_categories
from fingerpost.lake import published_categories

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
_MAX_KEPT = 1000


class Categories:
    """Reads each service's table again when its file is another.

    Args:
        lake: the telemetry lake.
    """

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._kept: dict[str, tuple[float, int, CategoryTable | None]] = {}

    def table(self, service: str) -> CategoryTable | None:
        """The table; None if there is none, or if it cannot be read."""
        now = time.monotonic()
        looked, stamp, table = self._kept.get(service, (0.0, -1, None))
        if service in self._kept and now - looked < _LOOK_EVERY_S:
            return table
        try:
            found = published_categories(self._lake, service).stat().st_mtime_ns
            if found != stamp:
                table, stamp = load_categories(self._lake, service), found
        except FileNotFoundError:
            table, stamp = None, -1
        except (OSError, ValueError, TypeError) as error:
            logger.warning("the category table cannot be read: %s", error, extra={"service": service})
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[service] = (now, stamp, table)
        return table


def table_of_names(names: Sequence[str], routes: Sequence[str]) -> CategoryTable:
    """A table with the categories of a fleet, which assigns requests to them."""
    return CategoryTable(tuple(tuple(name.split(SEPARATOR)) for name in names if name != OTHER), tuple(routes))
