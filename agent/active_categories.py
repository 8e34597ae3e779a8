"""Chooses the categories of an agent: the service's once published, until then those of its own traffic."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.categoriser import Categoriser
from fingerpost.category import CategoryTable, category_key, fit_categories, size_bucket

_MAX_KEYS = 8192
_REFIT_S = 60.0
# A host sees a part of the service's requests: fewer of them make a category of its own table.
_OWN_REQUESTS = 10
# A fit of our own is done again once so many times as many requests have come.
_GROWN = 1.5
# Share of requests in coarser categories from which on a fit of our own is done again.
_COARSE_SHARE = 0.05
_COLUMNS = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")


class ActiveCategories:
    """The categories in force, and what they fold.

    Args:
        published: file that the features step writes the service's table to; it need not exist.
        max_categories, min_requests, templates: of `fit_categories`, for a table of our own.
    """

    def __init__(self, published: Path, max_categories: int, min_requests: int, templates: Sequence[str] = ()) -> None:
        self._published = published
        self._stamp: tuple[int, int] | None = None
        self._limits = (max_categories, min(min_requests, _OWN_REQUESTS))
        self._templates = tuple(templates)
        self._keys: Counter[tuple[str, ...]] = Counter()
        self._fitted_s, self._fitted_requests = 0.0, 0
        self._categoriser = Categoriser(CategoryTable((), self._templates))
        self._since_fit = Counter[str]()
        self.counts: Counter[str] = Counter()

    @property
    def table(self) -> CategoryTable:
        return self._categoriser.table

    def assign(self, rows: list[dict[str, Any]]) -> NDArray[np.int32]:
        """The index of every record's category, shape (n,); counts those in another category than their own."""
        columns = {name: [row[name] for row in rows] for name in _COLUMNS}
        index, own = self._categoriser.assign_with_fit(**columns)
        coarse = len(rows) - int(own.sum())
        self.counts["requests"] += len(rows)
        self.counts["folded"] += coarse
        if self._stamp is None:
            self._since_fit.update(requests=len(rows), folded=coarse)
        return index

    def refresh(self) -> list[int] | None:
        """Looks for a newer table.

        Returns:
            If it is another: for each category of the old table the index of the new one that takes its requests.
        """
        table = self._read_published()
        if table is None and self._stamp is None and self._wants_fit():
            table = fit_categories(self._keys.items(), *self._limits, self._templates)
            self._fitted_s, self._fitted_requests = time.monotonic(), self._keys.total()
            self._since_fit.clear()
        if table is None or table.version == self.table.version:
            return None
        places = {name: place for place, name in enumerate(table.names)}
        mapping = [places[table.fold(name)] for name in self.table.names]
        self._categoriser = Categoriser(table)
        self.counts["tables"] += 1
        return mapping

    def _wants_fit(self) -> bool:
        """Whether a fit of our own would tell more requests apart: often at first, since little is known then."""
        known, seen = self._since_fit, self._keys.total()
        if not self.table.keys:
            return seen >= self._limits[1]
        return (
            (seen >= _GROWN * self._fitted_requests or time.monotonic() - self._fitted_s >= _REFIT_S)
            and known["requests"] >= self._limits[1]
            and known["folded"] > _COARSE_SHARE * known["requests"]
        )

    def note(self, rows: list[dict[str, Any]]) -> None:
        """Counts what comes, for a table of our own; the published one makes that needless."""
        if self._stamp is not None:
            return
        columns = {name: [row[name] for row in rows] for name in _COLUMNS}
        sizes = [size_bucket(size) for size in columns["bytes_in"]]
        for attributes, count in Counter(zip(*{**columns, "bytes_in": sizes}.values(), strict=True)).items():
            method, route, size, auth, agent, region = attributes
            self._keys[category_key(method, route, size, auth, agent, region)] += count
        if len(self._keys) > _MAX_KEYS:
            # The rarest half goes: a category that matters comes again.
            kept = self._keys.most_common(_MAX_KEYS // 2)
            self.counts["keys_dropped"] += len(self._keys) - len(kept)
            self._keys = Counter(dict(kept))

    def _read_published(self) -> CategoryTable | None:
        try:
            stat = self._published.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._stamp:
                return None
            table = CategoryTable.from_json(json.loads(self._published.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        self._stamp = stamp
        self._keys.clear()
        return table
