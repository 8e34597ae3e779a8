"""The router's guard: sets predictions against what the access log says, and decides how far to trust them."""

import logging
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routing.guard import Evidence, compare, follow_trust, remember, slope_bounds
from routing.outcomes import OutcomeLog
from routing.picker_table import Predictions

_LOG = logging.getLogger("fingerpost.trust")
# A window has so many requests: few of them say little, and of that nothing shall be concluded in haste.
WINDOW_REQUESTS = 200
_MEMORY_S = 60.0
_NOTABLE = 0.05
Floats = NDArray[np.float64]


class TrustKeeper:
    """Judges the predictions in force.

    Args:
        log: the access log of the proxies.
        ceiling: the trust at the beginning, and the most there is: the setting `prediction_trust`.

    Attributes:
        trust: the exponent of the predictions now, see `routing.guard`.
    """

    def __init__(self, log: Path, service: str, ceiling: float) -> None:
        self._outcomes, self._ceiling = OutcomeLog(log, service), ceiling
        self._evidence: Evidence | None = None
        self._judged: Predictions | None = None
        self._seconds: Floats = np.zeros((0, 0))
        self._requests: Floats = np.zeros((0, 0))
        self._began_s = time.monotonic()
        self._share = 1.0
        self.trust = ceiling

    def close(self) -> None:
        self._outcomes.close()

    def look(self, predictions: Predictions) -> bool:
        """Reads what is new in the log; True if the trust has changed.

        Args:
            predictions: those that were in force since the last call.
        """
        self._take_up(predictions)
        seconds, requests = self._outcomes.sums(predictions)
        self._seconds, self._requests = self._seconds + seconds, self._requests + requests
        if self._requests.sum() < WINDOW_REQUESTS:
            return False
        window = compare(_work_s(predictions), self._seconds, self._requests)
        now_s = time.monotonic()
        keep = float(np.exp(-(now_s - self._began_s) / _MEMORY_S))
        self._evidence = remember(self._evidence, window, keep)
        count = int(self._requests.sum())
        self._begin(predictions)
        share = follow_trust(self._evidence, self._share)
        # Small steps are no news, but the ends are reached.
        if share == self._share or (abs(share - self._share) < _NOTABLE and 0 < share < 1):
            return False
        before, self._share, self.trust = self.trust, share, share * self._ceiling
        level = logging.WARNING if self.trust < before else logging.INFO
        low, high = slope_bounds(self._evidence.all)
        about = {
            **{"trust": round(self.trust, 3), "was": round(before, 3), "requests": count},
            "found": [round(low, 3), round(high, 3)],
        }
        _LOG.log(level, "prediction trust", extra={**about, "model_version": predictions.model_version})
        return True

    def _take_up(self, predictions: Predictions) -> None:
        """Of another model, other hosts or categories the evidence says nothing; the trust stays until it is judged."""
        old = self._judged
        same = old and (old.model_version, old.hosts, old.categories) == (
            predictions.model_version,
            predictions.hosts,
            predictions.categories,
        )
        if not same:
            self._evidence = None
            self._begin(predictions)
        self._judged = predictions

    def _begin(self, predictions: Predictions) -> None:
        self._seconds = np.zeros((len(predictions.hosts), len(predictions.categories)))
        self._requests = np.zeros_like(self._seconds)
        self._began_s = time.monotonic()


def _work_s(predictions: Predictions) -> Floats:
    """Predicted service times without waiting, shape (hosts, categories): slots / throughput.

    A host that does not tell its slots has none: how many requests it does at once must be known to say how long each
    takes, so nothing is judged there.
    """
    rate = predictions.throughput_rps.T
    usable = rate > 0
    return np.where(usable, predictions.slots[:, None] / np.where(usable, rate, 1.0), np.nan)
