"""A host's history as of a later time, out of its columns alone: as `History.columns` would give it."""

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats
from fingerpost.telemetry.history import HISTORY_COLUMNS, HISTORY_HOST_COLUMNS

_C = {name: place for place, name in enumerate(HISTORY_COLUMNS)}
_H = {name: place for place, name in enumerate(HISTORY_HOST_COLUMNS)}
_LN2 = np.log(2.0)


def extrapolate_history(
    cells: ArrayLike, host_values: ArrayLike, after_s: float, window_s: float, halflife_s: float
) -> tuple[Floats, Floats]:
    """What is known some time later of a host that has been silent since.

    Args:
        cells: HISTORY_COLUMNS as of the end of its last window, shape (R, K).
        host_values: HOST_COLUMNS as of then, shape (M,).
        after_s: seconds since, above 0.
        window_s, halflife_s: of the history, seconds.
    """
    now, host = np.array(cells, dtype=np.float64), np.array(host_values, dtype=np.float64)
    fade = 0.5 ** (after_s / halflife_s)
    mean_life_s = halflife_s / _LN2
    evidence, rate = now[:, _C["evidence"]].copy(), now[:, _C["rate_rps_ewma"]].copy()
    # An average stands for evidence / rate seconds now; these grow towards the mean life of an observation.
    span_s = np.divide(evidence, rate, out=np.full(len(rate), mean_life_s), where=rate > 0)
    grown_s = mean_life_s * (1 - np.maximum(1 - span_s / mean_life_s, 0.0) * fade)
    now[:, _C["evidence"]] = evidence * fade
    now[:, _C["rate_rps_ewma"]] = np.where(rate > 0, evidence * fade / grown_s, 0.0)
    now[:, _C["rate_rps_last"]] = 0.0
    now[:, _C["age_s"]] += after_s
    known_s = host[_H["host_known_s"]] + window_s
    begun, grown = (1 - 0.5 ** (each / halflife_s) for each in (known_s, known_s + after_s))
    host[_H["host_rate_rps_last"]] = 0.0
    if np.isfinite(known_s):
        host[_H["host_rate_rps_ewma"]] *= fade * begun / grown
    for name in ("host_sample_age_s", "host_age_s", "host_since_gap_s", "host_known_s"):
        host[_H[name]] += after_s
    return now, host
