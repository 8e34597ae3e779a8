"""Columns of the lake as plain numbers."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def numbers(values: pd.Series) -> NDArray[np.float64]:
    """A column of numbers as float64, shape (rows,): NaN where it is null."""
    return values.to_numpy(dtype=np.float64, na_value=np.nan)
