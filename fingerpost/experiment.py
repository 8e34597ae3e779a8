"""An experiment by switchback: which of two model versions routes a service's requests, slot of time by slot of time.

Whoever knows the experiment knows the arm of every moment: the engine, which serves that arm's table, and the
evaluation, which reads the log. Nothing has to be switched by hand, and replicas agree by the clock.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
# Those of further challengers, which need no alias: the experiment names their versions.
MAX_CHALLENGERS = 4
TREATMENTS = (TREATMENT, *(f"{TREATMENT}-{number}" for number in range(2, MAX_CHALLENGERS + 1)))
_MAX_SLOTS = 100_000
_MAX_STEPS = 10
_MAX_ONE_IN = 1000


@dataclass(frozen=True)
class Step:
    """A part of an experiment in which the challenger routes one slot in so many.

    Each pair is followed by slots of the champion alone, until as many slots have passed as `one_in` says.

    Args:
        pairs: pairs of slots in it.
        one_in: 2: the arms take turns; 20: the challenger has a twentieth of the time.
        slot_s: length of its slots, seconds.
    """

    pairs: int
    one_in: int
    slot_s: float

    @property
    def slot_us(self) -> float:
        """Length of a slot, microseconds."""
        return self.slot_s * US

    @property
    def period_us(self) -> float:
        """From one pair's beginning to the next one's, microseconds."""
        return self.one_in * self.slot_us


@dataclass(frozen=True)
class Experiment:
    """Champion against challenger in alternating slots, each pair of slots in random order.

    Several challengers take turns by pairs, each with the champion beside it: all are compared with the same version,
    by the same coin.

    Both arms of a pair lie side by side in time, so what changes slowly (traffic, other tenants) meets both alike:
    randomised blocks, as in Bojinov, Simchi-Levi and Zhao, Design and Analysis of Switchback Experiments, 2023.

    Args:
        id: its name; also the seed of the order.
        service: the service whose requests are routed.
        champion, challenger: the model versions of the arms.
        begin_us: when the first slot begins, microseconds since 1970.
        slot_s: length of a slot, seconds.
        washout_s: what is left out at the beginning of each slot, while requests of the one before are still served; of
            a shorter slot at most half.
        pairs: number of pairs of slots at the most, those of the steps among them.
        steps: what comes first, each `[pairs, one_in, slot_s]` of `Step`: a new version begins with few, short slots.
        one_in: share of the challenger's slots after the steps; see `Step`.
        until_us: when the champion takes over, unless somebody who looked at the experiment has set it later by then,
            microseconds since 1970; 0: never.
        purpose: `compare` champion and challenger; or `watch`: the challenger is the champion of before, kept to judge
            a promotion by.
        others: versions of further challengers, whose arms are `TREATMENTS` after the first.
        out: arms of challengers that were found to be worse: in their slots the champion routes.

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
    steps: tuple[tuple[int, int, float], ...] = ()
    one_in: int = 2
    until_us: int = 0
    purpose: str = "compare"
    others: tuple[str, ...] = ()
    out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.steps, list):
            object.__setattr__(
                self, "steps", tuple(tuple(each) if isinstance(each, list) else each for each in self.steps)
            )
        for name in ("others", "out"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        checks = {
            "id": isinstance(self.id, str) and is_name(self.id),
            "service": isinstance(self.service, str) and is_name(self.service),
            "champion": isinstance(self.champion, str) and self.champion != "",
            "challenger": isinstance(self.challenger, str) and self.challenger not in ("", self.champion),
            "begin_us": _is_number(self.begin_us) and self.begin_us > 0,
            "slot_s": _is_number(self.slot_s) and 1 <= self.slot_s <= 86_400,
            "washout_s": _is_number(self.washout_s) and 0 <= self.washout_s < self.slot_s,
            "pairs": _is_number(self.pairs) and 1 <= self.pairs <= _MAX_SLOTS // 2,
            "steps": _are_steps(self.steps, self.pairs),
            "one_in": _is_number(self.one_in) and 2 <= self.one_in <= _MAX_ONE_IN,
            "until_us": _is_number(self.until_us) and self.until_us >= 0,
            "purpose": self.purpose in ("compare", "watch"),
            "others": _are_versions(self.others, {self.champion, self.challenger}, self.purpose),
            "out": isinstance(self.out, tuple) and set(self.out) <= set(TREATMENTS),
        }
        for name, good in checks.items():
            if not good:
                raise FingerpostError(f"an experiment cannot have {name} = {getattr(self, name)!r}"[:300])

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms of all challengers."""
        return TREATMENTS[: 1 + len(self.others)]

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms, the champion's first."""
        return CONTROL, *self.treatments

    def treatment_of(self, pair: int) -> str:
        """The challenger's arm that a pair compares with the champion's."""
        return self.treatments[pair % len(self.treatments)]

    @property
    def parts(self) -> tuple[Step, ...]:
        """The steps, and what comes after them."""
        steps = [Step(int(pairs), int(one_in), min(slot_s, self.slot_s)) for pairs, one_in, slot_s in self.steps]
        return *steps, Step(self.pairs - sum(each.pairs for each in steps), self.one_in, self.slot_s)

    @property
    def end_us(self) -> int:
        """When the last slot and what follows it ends."""
        return self.begin_us + round(sum(each.pairs * each.period_us for each in self.parts))

    def slot_at(self, time_us: int) -> int | None:
        """The number of the slot that a moment lies in; None outside the experiment and between pairs."""
        if not self.begin_us <= time_us < self.end_us:
            return None
        since, first = float(time_us - self.begin_us), 0
        for part in self.parts:
            if since < part.pairs * part.period_us:
                pair, within = divmod(since, part.period_us)
                pair, second = min(int(pair), part.pairs - 1), int(within / part.slot_us)
                return 2 * (first + pair) + second if second < 2 else None
            since, first = since - part.pairs * part.period_us, first + part.pairs
        return 2 * self.pairs - 1 if self.parts[-1].one_in == 2 else None

    def slot_in_force(self, time_us: int) -> int | None:
        """The slot whose arm routes at a moment; None: the champion does, as after `until_us`."""
        return None if self.until_us and time_us >= self.until_us else self.slot_at(time_us)

    def slot_begin_us(self, slot: int) -> int:
        """When a slot begins; of the number after the last one, when the experiment ends."""
        pair, second = divmod(slot, 2)
        since, first = 0.0, 0
        for part in self.parts:
            if pair < first + part.pairs:
                return self.begin_us + round(since + (pair - first) * part.period_us + second * part.slot_us)
            since, first = since + part.pairs * part.period_us, first + part.pairs
        return self.end_us

    def slot_length_s(self, slot: int) -> float:
        """How long a slot is, seconds."""
        first = 0
        for part in self.parts:
            first += part.pairs
            if slot // 2 < first:
                return part.slot_s
        return self.slot_s

    def next_change_us(self, time_us: int) -> int:
        """When another slot begins or one ends, after a moment; that moment itself once the experiment is over."""
        if time_us < self.begin_us:
            return self.begin_us
        if time_us >= self.end_us:
            return time_us
        since, first = float(time_us - self.begin_us), 0.0
        for part in self.parts:
            if since < part.pairs * part.period_us:
                pair, within = divmod(since, part.period_us)
                edge = min(part.period_us, (int(within / part.slot_us) + 1) * part.slot_us)
                edge = part.period_us if within >= 2 * part.slot_us else edge
                return self.begin_us + math.ceil(first + pair * part.period_us + edge)
            since, first = since - part.pairs * part.period_us, first + part.pairs * part.period_us
        return self.end_us

    def arm_of(self, slot: int) -> str:
        """The arm of a slot: `champion` or a challenger's; each pair has both, the first drawn by a hash."""
        pair, second = divmod(slot, 2)
        drawn = hashlib.sha256(f"{self.id}/{pair}".encode()).digest()[0] & 1
        return (CONTROL, self.treatment_of(pair))[drawn ^ second]

    def arm_at(self, time_us: int) -> str:
        """The arm in force at a moment; the champion outside the experiment."""
        slot = self.slot_at(time_us)
        arm = CONTROL if slot is None else self.arm_of(slot)
        return CONTROL if arm in self.out else arm

    def version_of(self, arm: str) -> str:
        """The model version of an arm."""
        return dict(zip(self.arms, (self.champion, self.challenger, *self.others), strict=True))[arm]

    def to_json(self) -> str:
        """As it lies in the registry: engines of before a field was there read what does without it."""
        return json.dumps(self.to_note(), sort_keys=True)

    def to_note(self) -> dict[str, Any]:
        """The fields that are not as they are by default."""
        plain = {each.name: each.default for each in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


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


def _are_versions(others: object, compared: set[str], purpose: str) -> bool:
    """Whether these are versions of further challengers, each another one."""
    if not isinstance(others, tuple) or not all(isinstance(each, str) and each for each in others):
        return False
    apart = len({*others}) == len(others) and not compared & {*others}
    return apart and len(others) < MAX_CHALLENGERS and (not others or purpose == "compare")


def _are_steps(steps: object, pairs: object) -> bool:
    """Whether these are steps that leave some of the pairs for what comes after them."""
    if not isinstance(steps, tuple) or len(steps) > _MAX_STEPS or not _is_number(pairs):
        return False
    for each in steps:
        if not isinstance(each, tuple) or len(each) != 3 or not all(map(_is_number, each)):
            return False
        count, one_in, slot_s = each
        if not (count == int(count) >= 1 and one_in == int(one_in) and 2 <= one_in <= _MAX_ONE_IN and slot_s >= 1):
            return False
    return sum(int(each[0]) for each in steps) < pairs  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
