"""Categories of whole columns of requests at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.category import SIZE_LIMITS, SIZE_NAMES, CategoryTable, category_key

_MAX_MEMORY = 65_536


class Categoriser:
    """Assigns categories of a table; a combination of attributes is looked up once and remembered.

    Args:
        table: the categories.
    """

    def __init__(self, table: CategoryTable) -> None:
        self.table = table
        self._index = {name: index for index, name in enumerate(table.names)}
        self._seen: dict[tuple[str, str, int, str, str, str], int] = {}

    def assign(
        self,
        method: Sequence[str],
        route: Sequence[str],
        bytes_in: ArrayLike,
        auth: Sequence[str],
        user_agent_class: Sequence[str],
        region: Sequence[str],
    ) -> NDArray[np.int32]:
        """The place of every request's category in `table.names`, shape (n,); all columns have n values."""
        return self.assign_with_fit(method, route, bytes_in, auth, user_agent_class, region)[0]

    def assign_with_fit(
        self,
        method: Sequence[str],
        route: Sequence[str],
        bytes_in: ArrayLike,
        auth: Sequence[str],
        user_agent_class: Sequence[str],
        region: Sequence[str],
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """As `assign`, and whether each category is the request's own: neither coarser, nor one that is but like it.

        At most 65,536 combinations are remembered; past that the memory begins anew.
        """
        sizes = np.searchsorted(SIZE_LIMITS, np.asarray(bytes_in, dtype=np.int64), side="right").tolist()
        seen, find = self._seen, self._find
        if len(seen) > _MAX_MEMORY:
            seen.clear()
        found = np.array(
            [
                seen[row] if row in seen else find(row)
                for row in zip(method, route, sizes, auth, user_agent_class, region, strict=True)
            ],
            dtype=np.int32,
        )
        own = found >= 0
        return np.where(own, found, ~found), own

    def _find(self, row: tuple[str, str, int, str, str, str]) -> int:
        method, route, size, auth, user_agent_class, region = row
        key = category_key(method, route, SIZE_NAMES[size], auth, user_agent_class, region)
        name = self.table.assign(key)
        place = self._index[name]
        # One number tells both: those of other categories than a request's own are below 0.
        index = self._seen[row] = place if self.table.is_own(key, name) else ~place
        return index
