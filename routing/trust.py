"""The router's guard: feeds `fingerpost.routing.guard` with what the access log says, and tells what it found."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.routing.guard import Correction, Guard
from fingerpost.routing.outcomes import OutcomeLog
from fingerpost.routing.picker_table import Predictions

_LOG = logging.getLogger("fingerpost.guard")
# Steps below this are no news to the table, of costs by their ratio; and of trust none to the log.
_NOTABLE_COST, _NOTABLE_TRUST = 0.02, 0.05
# Hosts are named in the log whose cost is so many times what was predicted, up or down.
_NOTABLE_HOST = 2.0
_MAX_NAMED = 20


def guard_file(table: Path) -> Path:
    """The file that keeps what the guard has found, beside that of the picker's table."""
    return table.with_name(f"{table.name}.guard.json")


def kept_trusts(table: Path) -> dict[str, float]:
    """The trust of every model version that the guard beside a table remembers; empty where there is none to read."""
    try:
        found = json.loads(guard_file(table).read_bytes())["trusts"]
        return {str(version): float(trust) for version, trust in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


class TrustKeeper:
    """Judges the predictions in force, those of each model version by themselves.

    Args:
        log: the access log of the proxies.
        ceiling: the most trust there is, and where it begins: the setting `prediction_trust`.

    Attributes:
        correction: what becomes of the predictions now; None until the first update.
    """

    def __init__(self, log: Path, service: str, ceiling: float) -> None:
        self._outcomes, self._guard, self._ceiling = OutcomeLog(log, service), Guard((), (), ceiling), ceiling
        self._version, self._requests = "", 0
        self._trust, self._named = ceiling, frozenset[str]()
        self.correction: Correction | None = None

    @property
    def trust(self) -> float:
        """The exponent of the predictions in force."""
        return self.correction.trust if self.correction else self._ceiling

    def close(self) -> None:
        self._outcomes.close()

    def correct(self, predictions: Predictions) -> Correction:
        """What becomes of other predictions than before, by what is known."""
        self._guard.align(predictions.hosts, predictions.categories)
        rate, slots = predictions.throughput_rps.T, predictions.slots
        self.correction = self._guard.correct(predictions.model_version, rate, slots, time.monotonic())
        if predictions.model_version != self._version:
            # What the log was told last is of another model.
            self._version, self._trust = predictions.model_version, self.correction.trust
        return self.correction

    def update(self, predictions: Predictions) -> bool:
        """Reads what is new in the log; True if the predictions are to be corrected otherwise.

        Args:
            predictions: those that were in force since the last call.
        """
        before = self.correction or self.correct(predictions)
        self._guard.align(predictions.hosts, predictions.categories)
        versions = (predictions.model_version, *(set(self._guard.trusts) - {predictions.model_version}))
        seen = self._outcomes.ended(predictions, versions)
        self._requests += len(seen.host)
        self._guard.observe(seen, versions, predictions.throughput_rps.T, predictions.slots, time.monotonic())
        after = self.correct(predictions)
        self._tell(predictions)
        if after.trust != before.trust or after.factor.shape != before.factor.shape:
            return True
        return bool(np.abs(np.log(after.cost_factor / before.cost_factor)).max(initial=0.0) > _NOTABLE_COST)

    def state(self) -> dict[str, Any]:
        """What the guard has found, for people and for the verdicts on experiments, as JSON.

        `trust` is of the model version in force, `trusts` of each that is remembered; `fallbacks` counts requests that
        were not predicted, by reason; `hosts` has those whose mean cost is corrected most, with `cost` (times what was
        predicted) and `success` (relative to the fleet's).
        """
        named = self._corrected_hosts()[:_MAX_NAMED]
        return {
            "time": time.time(),
            "model_version": self._version,
            "trust": round(self.trust, 4),
            "trusts": {name: round(trust, 4) for name, trust in self._guard.trusts.items()},
            "requests": self._requests,
            "fallbacks": dict(self._outcomes.fallbacks),
            "hosts": {name: {"cost": round(cost, 3), "success": round(success, 3)} for name, cost, success in named},
        }

    def _corrected_hosts(self) -> list[tuple[str, float, float]]:
        """Host, mean factor of its costs, success; the most corrected first."""
        found = self.correction
        if found is None:
            return []
        cost = np.exp(np.log(found.cost_factor).mean(axis=1)) if found.factor.size else np.ones(len(found.success))
        order = np.argsort(-np.abs(np.log(cost)), kind="stable")
        return [(self._guard.hosts[place], float(cost[place]), float(found.success[place])) for place in order]

    def _tell(self, predictions: Predictions) -> None:
        """A line in the log where trust has changed, and one where other hosts are far from what was predicted."""
        about = {"model_version": predictions.model_version, "arm": predictions.arm, "requests": self._requests}
        if self._trust != self.trust and (abs(self.trust - self._trust) >= _NOTABLE_TRUST or self.trust in (0.0, 1.0)):
            level = logging.WARNING if self.trust < self._trust else logging.INFO
            extra = {"trust": round(self.trust, 3), "was": round(self._trust, 3), **about}
            _LOG.log(level, "prediction trust", extra=extra)
            self._trust = self.trust
        far = [each for each in self._corrected_hosts() if abs(np.log(each[1])) > np.log(_NOTABLE_HOST)]
        named = frozenset(name for name, _, _ in far)
        if named != self._named:
            costs = {name: round(cost, 2) for name, cost, _ in far[:_MAX_NAMED]}
            level = logging.WARNING if named - self._named else logging.INFO
            _LOG.log(level, "corrected hosts", extra={"hosts": json.dumps(costs), "count": len(far), **about})
            self._named = named
