"""Splits by time, with a gap, so that no row's outcome lies in another part's past."""

import itertools

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.errors import NoDataError

MIN_PART_ROWS = 20


def time_split(times: pd.Series, later_share: float, gap: pd.Timedelta) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the earlier and the later rows, by their distinct times of prediction.

    Args:
        times: time of prediction of every row; its outcome is known one window later.
        later_share: share of the distinct times that is later, 0..1.
        gap: rows less than this before the first later time are in neither part; at least one window.

    Raises:
        NoDataError: a part would have fewer than 20 rows.
    """
    distinct = np.sort(times.unique())
    if len(distinct) < 2:
        raise NoDataError(f"telemetry of {len(distinct)} windows cannot be split by time: measure for longer")
    first_later = distinct[min(len(distinct) - 1, round(len(distinct) * (1 - later_share)))]
    earlier = (times <= first_later - gap).to_numpy()
    later = (times >= first_later).to_numpy()
    for name, part in (("earlier", earlier), ("later", later)):
        if part.sum() < MIN_PART_ROWS:
            raise NoDataError(
                f"only {part.sum()} rows in the {name} part of a split by time, {MIN_PART_ROWS} are needed: "
                "measure for longer"
            )
    return earlier, later


def purged_folds(times: pd.Series, folds: int, gap: pd.Timedelta) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks of earlier and later rows, fold by fold: the later parts follow each other, all before them is earlier.

    Time-series cross-validation, purged (Lopez de Prado, Advances in financial machine learning, 2018, chapter 7):
    between the two parts of a fold lies at least `gap`. The later parts together are the last half of the times.

    Raises:
        NoDataError: a part would have fewer than 20 rows.
    """
    distinct = np.sort(times.unique())
    edges = [round(len(distinct) * (0.5 + 0.5 * fold / folds)) for fold in range(folds + 1)]
    found = []
    for low, high in itertools.pairwise(edges):
        if low >= high or low < 1:
            raise NoDataError(f"telemetry of {len(distinct)} windows cannot be split into folds: measure for longer")
        earlier = (times <= distinct[low] - gap).to_numpy()
        later = (times.ge(distinct[low]) & times.le(distinct[high - 1])).to_numpy()
        for name, part in (("earlier", earlier), ("later", later)):
            if part.sum() < MIN_PART_ROWS:
                raise NoDataError(
                    f"only {part.sum()} rows in the {name} part of a fold, {MIN_PART_ROWS} needed: measure for longer"
                )
        found.append((earlier, later))
    return found
