"""Tells whether what one arm left behind reaches into the next time slice, and lengthens the wash-out if it does."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.abtest.experiment.slots import category_codes, request_costs
from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.features.windows import record_weights

# A wash-out is doubled at most to half of a slot.
_MOST_OF_SLOT = 0.5
_MIN_SLOTS, _MIN_REQUESTS = 8, 5
# Standard errors between slots that change the arm and slots that keep it; looked at after every pair.
_CERTAIN = 4.0


def washouts(
    records: pd.DataFrame, slot: Ints, within_s: Floats, treated: NDArray[np.bool_], changed: NDArray[np.bool_],
    slot_s: Floats, washout_s: float,
) -> Floats:  # fmt: skip
    """The wash-out of each pair, seconds, chosen by the pairs before it alone, shape (pairs,).

    The order within pairs is drawn, so some slots follow one of their own arm and some one of the other. Where an arm
    leaves queues behind, a slot that changes the arm begins nearer to the other arm's latency than it goes on; one that
    keeps the arm does not. Latency just after the wash-out less that of the rest of the slot, with the sign of the
    arm, is compared between both kinds. Once they differ by 4 standard errors the wash-out doubles from the next pair
    on, to half of a slot at most. A pair's own outcome does not choose what of it counts, so sequences stay valid.

    Args:
        records: of all slots, as for `request_costs`, and if known `category`.
        slot: the slot of each record, 0..2 * pairs.
        within_s: when each record's request began within its slot, seconds.
        treated: whether a slot's arm is the challenger, shape (2 * pairs,).
        changed: whether the slot before had the other arm, shape (2 * pairs,).
        slot_s: length of each pair's slots, seconds, shape (pairs,); of a short one at most half is left out.
    """
    pairs, longest = len(treated) // 2, _MOST_OF_SLOT * slot_s
    chosen = np.minimum(washout_s, longest)
    steps = [washout_s]
    while steps[-1] > 0 and 2 * steps[-1] <= longest.max(initial=0.0):
        steps.append(2 * steps[-1])
    if len(steps) == 1 or not len(records):
        return chosen
    residual, weight = _residuals(records, slot // 2, pairs), record_weights(records)
    step = 0
    certain = [
        _certain(_leftovers(residual, weight, slot, within_s, each, len(treated)), treated, changed) for each in steps
    ]
    for pair in range(1, pairs):
        if step + 1 < len(steps) and certain[step][pair - 1]:
            step += 1
        chosen[pair] = min(steps[step], longest[pair])
    return np.asarray(chosen)


def _residuals(records: pd.DataFrame, pair: Ints, pairs: int) -> Floats:
    """Log cost of each request less the mean of its category in the pair; NaN where it is not known."""
    costs = request_costs(records, pair, pairs)
    names, code = category_codes(records)
    known = np.isfinite(costs) & (costs > 0)
    logs, weight = np.log(np.where(known, costs, 1.0)), record_weights(records) * known
    cell, cells = pair * len(names) + code, pairs * len(names)
    total, count = (np.bincount(cell, weights=each, minlength=cells) for each in (weight * logs, weight))
    return np.where(known, logs - safe_ratio(total, count)[cell], np.nan)


def _leftovers(residual: Floats, weight: Floats, slot: Ints, within_s: Floats, washout_s: float, slots: int) -> Floats:
    """Mean residual of the first stretch after the wash-out, as long as it, less that of the rest; shape (slots,)."""

    def mean(of: NDArray[np.bool_]) -> Floats:
        of = of & np.isfinite(residual)
        total, stood_for, requests = (
            np.bincount(slot[of], weights=each, minlength=slots) for each in ((weight * residual)[of], weight[of], None)
        )
        return np.where(requests >= _MIN_REQUESTS, safe_ratio(total, stood_for), np.nan)

    return mean((within_s >= washout_s) & (within_s < 2 * washout_s)) - mean(within_s >= 2 * washout_s)


def _certain(leftover: Floats, treated: NDArray[np.bool_], changed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """After each pair, whether slots that change the arm begin otherwise than those that keep it."""
    signed = np.where(treated, leftover, -leftover)

    def moments(of: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        of = of & np.isfinite(signed)
        values = np.where(of, signed, 0.0)
        count = np.cumsum(of)[1::2].astype(np.float64)
        mean = safe_ratio(np.cumsum(values)[1::2], count)
        square = safe_ratio(np.cumsum(np.square(values))[1::2], count)
        return count, mean, safe_ratio(np.maximum(square - np.square(mean), 0.0), count)

    (moved, there, error), (stayed, here, other) = moments(changed), moments(~changed)
    enough = np.minimum(moved, stayed) >= _MIN_SLOTS
    with np.errstate(invalid="ignore"):
        return np.asarray(enough & (np.abs(there - here) > _CERTAIN * np.sqrt(error + other)))
