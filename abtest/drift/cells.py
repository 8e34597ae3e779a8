"""Which hosts changed in which categories: whole distributions hide what a single cell shows."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fingerpost.abtest.drift.frames import CELL, LEVEL, RESIDUALS

_MIN_WINDOWS = 10
_MAX_CELLS = 5000
# Of all cells together: chance of calling one changed that is not.
_MAX_CHANCE = 0.001


@dataclass(frozen=True)
class CellShift:
    """A cell that changed.

    Args:
        quantity: `throughput_rps` itself, or `error of TARGET`: of the model.
        ratio: median now over median then; of an error, that of actual over predicted.
    """

    host: str
    category: str
    quantity: str
    ratio: float

    def text(self) -> str:
        return f"{self.host} at {self.category!r}: {self.quantity} is {self.ratio:.2f} times what it was"


def shifted_cells(reference: pd.DataFrame, current: pd.DataFrame, ratio: float) -> tuple[list[CellShift], int]:
    """Cells whose throughput, or the model's error on it, changed by more than a ratio, and not by chance.

    The test is that of Mann and Whitney (1947) at Bonferroni's level; windows of a cell depend on each other, so the
    ratio is asked for as well. Cells need 10 windows on both sides; of more than 5000 the busiest are looked at.

    Args:
        reference, current: of `checked_frames`.

    Returns:
        The changed cells, most changed first, and how many cells were looked at.
    """
    from scipy.stats import mannwhitneyu

    before = {str(cell): rows for cell, rows in reference.groupby(CELL)}
    counts = current.groupby(CELL).size().sort_values(ascending=False)
    names = [cell for cell, count in counts.items() if count >= _MIN_WINDOWS and str(cell) in before][:_MAX_CELLS]
    now = {str(cell): rows for cell, rows in current.groupby(CELL)}
    found: list[CellShift] = []
    looked = 0
    for cell in names:
        then, since = before[str(cell)], now[str(cell)]
        if len(then) < _MIN_WINDOWS:
            continue
        looked += 1
        host, category = str(then["host"].iloc[0]), str(then["category"].iloc[0])
        for column in (LEVEL, *RESIDUALS):
            old, new = (side[column].dropna().to_numpy(np.float64) for side in (then, since))
            if min(len(old), len(new)) < _MIN_WINDOWS:
                continue
            shift = float(np.median(new) - np.median(old))
            if abs(shift) <= math.log(ratio):
                continue
            if mannwhitneyu(old, new).pvalue < _MAX_CHANCE / (len(names) * (1 + len(RESIDUALS))):
                quantity = "throughput_rps" if column == LEVEL else f"error of {column.removeprefix('residual_')}"
                found.append(CellShift(host, category, quantity, math.exp(shift)))
    found.sort(key=lambda each: -abs(math.log(each.ratio)))
    return found, looked


def told(shifts: list[CellShift], most: int = 3) -> str:
    """The changed categories with their hosts, the most changed first, in words."""
    grouped: dict[tuple[str, str], list[CellShift]] = {}
    for each in shifts:
        grouped.setdefault((each.category, each.quantity), []).append(each)
    parts = []
    for (category, quantity), cells in list(grouped.items())[:most]:
        middle = float(np.median([each.ratio for each in cells]))
        hosts = ", ".join(sorted({each.host for each in cells})[:8])
        parts.append(f"{quantity} of {category!r} on {hosts} is {middle:.2f} times what it was")
    more = len(grouped) - most
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
