"""Takes out of differences what covariates explain that no arm can have touched."""

import numpy as np

from fingerpost.abtest.experiment.confidence import past_scale
from fingerpost.arrays import Floats

# The slope is 0 before there are so many pairs, and drawn to 0 by as many as `_PRIOR_PAIRS`.
_LEAST_PAIRS, _PRIOR_PAIRS = 6, 2
_OUTLIER = 3.0


def adjusted(differences: Floats, covariates: Floats) -> Floats:
    """Differences less the part that covariates explain, by least squares on the pairs before each one.

    Both arms' covariates are known whatever the arms do: were the order of a pair drawn otherwise, its difference and
    its covariates would change sign together. The slope knows only earlier pairs. So without an effect the sign of
    what is left is still decided by the coin alone, and sequences hold exactly. (Deng, Xu, Kohavi and Walker, Improving
    the sensitivity of online controlled experiments by utilizing pre-experiment data, 2013.)

    Args:
        differences: in the order of time, shape (..., n).
        covariates: treatment less control, shape (..., n, k); what is not finite counts as no difference.
    """
    known = np.where(np.isfinite(covariates), covariates, 0.0)
    count, width = known.shape[-2:]
    if count <= _LEAST_PAIRS or not width:
        return differences
    reach = _OUTLIER * past_scale(differences, 0.1)
    seen = np.clip(differences, -reach, reach)
    products = np.einsum("...ni,...nj->...nij", known, known)
    before = _sum_before(products, -3)
    towards = _sum_before(known * seen[..., None], -2)
    number = np.arange(count, dtype=np.float64)
    # A ridge in the covariates' own units.
    shrink = _PRIOR_PAIRS / np.maximum(number, 1.0)
    diagonal = np.eye(width) * (before * shrink[:, None, None] + 1e-12)
    slope = np.linalg.solve(before + diagonal, towards[..., None])[..., 0]
    slope[..., :_LEAST_PAIRS, :] = 0.0
    return np.asarray(differences - (slope * known).sum(axis=-1))


def _sum_before(values: Floats, axis: int) -> Floats:
    """Sums of what came before each place along an axis."""
    return np.asarray(np.cumsum(values, axis=axis) - values)
