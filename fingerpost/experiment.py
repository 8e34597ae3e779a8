"""An experiment by switchback: which of two model versions routes a service's requests, slot of time by slot of time.

Whoever knows the experiment knows the arm of every moment: the engine, which serves that arm's table, and the
evaluation, which reads the log. Nothing has to be switched by hand, and replicas agree by the clock.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.names import is_name

# Tag of the service's registered model under which the running experiment lies, as JSON.
EXPERIMENT_TAG = "fingerpost.experiment"
# Aliases of the versions of a service's registered model.
CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
# Arms are named as the aliases whose versions they route by.
CONTROL, TREATMENT = ALIASES
_MAX_SLOTS = 100_000


@dataclass(frozen=True)
class Experiment:
    """Champion against challenger in alternating slots, each pair of slots in random order.

    Both arms of a pair lie side by side in time, so what changes slowly (traffic, other tenants) meets both alike:
    randomised blocks, as in Bojinov, Simchi-Levi and Zhao, Design and Analysis of Switchback Experiments, 2023.

    Args:
        id: its name; also the seed of the order.
        service: the service whose requests are routed.
        champion, challenger: the model versions of the arms.
        begin_us: when the first slot begins, microseconds since 1970.
        slot_s: length of a slot, seconds.
        washout_s: what is left out at the beginning of each slot, while requests of the one before are still served.
        pairs: number of pairs of slots at the most.

    Raises:
        FingerpostError: a value is out of its range; the message names it.
    """

    id: str
    service: str
    champion: str
    challenger: str
    begin_us: int
    slot_s: float
    washout_s: float
    pairs: int

    def __post_init__(self) -> None:
        checks = {
            "id": isinstance(self.id, str) and is_name(self.id),
            "service": isinstance(self.service, str) and is_name(self.service),
            "champion": isinstance(self.champion, str) and self.champion != "",
            "challenger": isinstance(self.challenger, str) and self.challenger not in ("", self.champion),
            "begin_us": _is_number(self.begin_us) and self.begin_us > 0,
            "slot_s": _is_number(self.slot_s) and 1 <= self.slot_s <= 86_400,
            "washout_s": _is_number(self.washout_s) and 0 <= self.washout_s < self.slot_s,
            "pairs": _is_number(self.pairs) and 1 <= self.pairs <= _MAX_SLOTS // 2,
        }
        for name, good in checks.items():
            if not good:
                raise FingerpostError(f"an experiment cannot have {name} = {getattr(self, name)!r}"[:300])

    @property
    def end_us(self) -> int:
        """When the last slot ends."""
        return self.begin_us + round(2 * self.pairs * self.slot_s * US)

    def slot_at(self, time_us: int) -> int | None:
        """The number of the slot that a moment lies in; None outside the experiment."""
        if not self.begin_us <= time_us < self.end_us:
            return None
        return min(int((time_us - self.begin_us) / (self.slot_s * US)), 2 * self.pairs - 1)

    def slot_begin_us(self, slot: int) -> int:
        """When a slot begins."""
        return self.begin_us + round(slot * self.slot_s * US)

    def arm_of(self, slot: int) -> str:
        """The arm of a slot: `champion` or `challenger`; each pair has both, the first drawn by a hash."""
        pair, second = divmod(slot, 2)
        drawn = hashlib.sha256(f"{self.id}/{pair}".encode()).digest()[0] & 1
        return (CONTROL, TREATMENT)[drawn ^ second]

    def arm_at(self, time_us: int) -> str:
        """The arm in force at a moment; the champion outside the experiment."""
        slot = self.slot_at(time_us)
        return CONTROL if slot is None else self.arm_of(slot)

    def version_of(self, arm: str) -> str:
        """The model version of an arm."""
        return {CONTROL: self.champion, TREATMENT: self.challenger}[arm]

    def to_json(self) -> str:
        """As it lies in the registry."""
        return json.dumps(asdict(self), sort_keys=True)


def experiment_from_json(text: str) -> Experiment:
    """The experiment of `Experiment.to_json`.

    Raises:
        FingerpostError: it is not one; the message says why.
    """
    try:
        found: Any = json.loads(text)
        if not isinstance(found, Mapping):
            raise TypeError("it is not an object")
        return Experiment(**found)
    except (ValueError, TypeError) as error:
        raise FingerpostError(f"not an experiment: {error}"[:300]) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
