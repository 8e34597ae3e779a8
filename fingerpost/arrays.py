"""Array types that every room shares, the division that tells what is not known, and the one decay by age."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Sums of weights below this are nothing: they fade, and never reach zero.
_TINY = 1e-9


def safe_ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part / whole, element by element; NaN where the whole is (almost) zero, negative or not known."""
    whole = np.asarray(whole)
    shape = np.broadcast_shapes(np.shape(part), whole.shape)
    return np.divide(part, whole, out=np.full(shape, np.nan), where=whole > _TINY)


def decayed(age_s: ArrayLike, halflife_s: ArrayLike) -> Floats:
    """Weights of observations by their age: 1 now, half after a half-life; seconds, any shapes that fit together."""
    return np.asarray(np.exp2(-np.asarray(age_s, dtype=np.float64) / np.asarray(halflife_s, dtype=np.float64)))


def significant(values: Floats, digits: int = 4) -> Floats:
    """Values to so many significant digits; NaN where not finite. More would make tables differ for nothing."""
    size = np.abs(values)
    known = np.isfinite(values) & (size > 0)
    power = np.floor(np.log10(size, out=np.zeros(values.shape), where=known))
    scale = 10.0 ** (digits - 1 - power)
    rounded = np.divide(np.round(values * scale), scale, out=np.zeros(values.shape), where=known)
    return np.where(known | (values == 0), rounded, np.nan)
