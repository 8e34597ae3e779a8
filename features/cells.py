"""Which cells features are made of, and how what is known of hosts and categories becomes columns of them."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Ints

Array = NDArray[Any]


class Cells(Protocol):
    """n cells of a fleet of H hosts and C categories."""

    @property
    def count(self) -> int:
        """How many they are, n."""

    def of_cells(self, values: Array) -> Array:
        """The cells' values of all cells', shape (H, C) to (n,)."""

    def of_hosts(self, values: Array) -> Array:
        """Those of their hosts, shape (H,) to (n,)."""

    def of_categories(self, values: Array) -> Array:
        """Those of their categories, shape (C,) to (n,)."""

    def history(self, history: Array) -> Array:
        """Their histories, a column side by side, float64: shape (H, C, K) to (K, n)."""


@dataclass(frozen=True)
class ChosenCells:
    """Any cells.

    Args:
        host, category: indices, shape (n,).
    """

    host: Ints
    category: Ints

    @property
    def count(self) -> int:
        return len(self.host)

    def of_cells(self, values: Array) -> Array:
        return np.asarray(values[self.host, self.category])

    def of_hosts(self, values: Array) -> Array:
        return np.asarray(values[self.host])

    def of_categories(self, values: Array) -> Array:
        return np.asarray(values[self.category])

    def history(self, history: Array) -> Array:
        return np.ascontiguousarray(history[self.host, self.category].T, dtype=np.float64)


@dataclass(frozen=True)
class HostsCells:
    """All cells of the hosts from `begin` to before `end`, host by host: the same as those chosen, without look-ups.

    Args:
        categories: how many there are, C.
    """

    begin: int
    end: int
    categories: int

    @property
    def count(self) -> int:
        return (self.end - self.begin) * self.categories

    def of_cells(self, values: Array) -> Array:
        return values[self.begin : self.end].reshape(-1)

    def of_hosts(self, values: Array) -> Array:
        return np.repeat(values[self.begin : self.end], self.categories)

    def of_categories(self, values: Array) -> Array:
        return np.tile(values, self.end - self.begin)

    def history(self, history: Array) -> Array:
        part = history[self.begin : self.end]
        return np.ascontiguousarray(part.reshape(self.count, part.shape[2]).T, dtype=np.float64)
