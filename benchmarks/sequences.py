"""The sequence that decides at every pair, beside a test at a few planned looks, on made differences of pairs."""

from typing import Any

import numpy as np

from fingerpost.abtest.experiment.guardrails import Rules, shown_of_latency
from fingerpost.arrays import Floats

# Effects in standard deviations of a pair; planned pairs, and looks of the test in groups.
EFFECTS = (0.0, 0.2, 0.3, 0.5, 0.8)
PAIRS, LOOKS = 120, 5
# Of alpha, what a version that is no different may be called better by, as in the product.
_ALPHA = 0.04
# The sequence expects differences of about this size.
_SCALE = 0.1


def measure_sequences(runs: int) -> list[dict[str, Any]]:
    """By effect and tails of the differences: the share of experiments in which it is found, and pairs until then.

    The test in groups has the bounds of O'Brien and Fleming (1979), one-sided, and studentises by the sums of squares,
    which no coin of a pair changes.
    """
    rng, looks = np.random.default_rng(3), np.linspace(PAIRS / LOOKS, PAIRS, LOOKS).round().astype(int)
    bounds, rows = _bounds(rng, looks), []
    for tails in ("normal", "Student's t of 3"):
        for effect in EFFECTS:
            drawn = rng.normal(size=(runs, PAIRS)) if tails == "normal" else rng.standard_t(3, (runs, PAIRS)) / 3**0.5
            differences = drawn - effect
            sums, squares = np.cumsum(differences, axis=1)[:, looks - 1], np.cumsum(differences**2, axis=1)
            grouped = -sums / np.sqrt(squares[:, looks - 1]) > bounds
            always = shown_of_latency(_SCALE * differences, Rules())["better"]
            rows.append(
                {
                    "differences": tails,
                    "effect_in_sd": effect,
                    "sequence_found": round(float(always.any(axis=1).mean()), 3),
                    "sequence_pairs_mean": _pairs(always, np.arange(1, PAIRS + 1)),
                    "groups_found": round(float(grouped.any(axis=1).mean()), 3),
                    "groups_pairs_mean": _pairs(grouped, looks),
                }
            )
    return rows


def _bounds(rng: np.random.Generator, looks: Any) -> Floats:
    """What the standardised sum must be above at each look, from Brownian motions."""
    share = looks / PAIRS
    steps = rng.normal(size=(200_000, len(looks))) * np.sqrt(np.diff(share, prepend=0.0))
    highest = np.cumsum(steps, axis=1).max(axis=1)
    return np.asarray(np.quantile(highest, 1 - _ALPHA) / np.sqrt(share))


def _pairs(met: Any, at: Any) -> float:
    """Mean number of pairs until it is met; all of them where it never is."""
    return round(float(np.where(met.any(axis=1), at[met.argmax(axis=1)], PAIRS).mean()), 1)
