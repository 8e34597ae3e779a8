"""Computes how many pairs an experiment needs from the variance between time slots; called before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.abtest.experiment.guardrails import Rules, shown_of_latency
from fingerpost.abtest.experiment.pairs import paired_differences, switchback_pairs
from fingerpost.abtest.experiment.verdict import PRIMARY
from fingerpost.arrays import Floats
from fingerpost.errors import NoDataError
from fingerpost.experiment import Experiment

_MIN_PILOT_PAIRS = 8
# How far beyond the planned pairs is looked for the number that would do.
_FURTHER = 4
_MAX_SIMULATED = 2000


@dataclass(frozen=True)
class Power:
    """What an experiment would find of a true effect.

    Args:
        effect: relative change of latency, such as -0.05.
        found: probability that it is found within the planned pairs.
        pairs: pairs within which it is found with the wanted power; None if they are more than looked at.
    """

    effect: float
    found: float
    pairs: int | None


@dataclass(frozen=True)
class Plan:
    """What experiments of so many pairs can find.

    Args:
        spread: standard deviation of the log ratio of latency within a pair, where both slots have the same arm.
        pilot_pairs: pairs it was measured on; 0 if it was given.
        needs: by effect.
    """

    spread: float
    pilot_pairs: int
    planned: int
    power: float
    alpha: float
    needs: tuple[Power, ...]


def pilot_differences(records: pd.DataFrame, slot_s: float, washout_s: float, service: str) -> Floats:
    """Log ratios of latency between neighbouring slots in which nothing was tried, shape (pairs,).

    Args:
        records: as for `switchback_pairs`, of a time with one policy; their arms do not matter.

    Raises:
        NoDataError: there are fewer than 8 pairs.
    """
    begin, end = (int(records["time_us"].iloc[each]) for each in (0, -1)) if len(records) else (1, 1)
    pairs = max(1, min(50_000, int((end - begin) / 1e6 / (2 * slot_s))))
    trial = Experiment("pilot", service, "champion", "challenger", max(begin, 1), slot_s, washout_s, pairs)
    begun = records["time_us"] - (records["duration_s"].astype("float64").fillna(0.0) * 1e6).astype("int64")
    arms = [trial.arm_at(int(each)) for each in begun]
    differences, _ = paired_differences(switchback_pairs(records.assign(arm=arms), trial, end), PRIMARY)
    if len(differences) < _MIN_PILOT_PAIRS:
        raise NoDataError(
            f"{len(differences)} pairs of slots with enough requests are too few to tell how much slots differ anyway: "
            f"measure for longer, take shorter slots, or give their spread"
        )
    return differences


def plan(
    differences: Floats,
    effects: Sequence[float],
    rules: Rules,
    planned: int,
    power: float = 0.8,
    runs: int = 400,
    seed: int = 7,
    pilot_pairs: int | None = None,
) -> Plan:
    """Simulates experiments of the very kind that will be run, with differences drawn from those given.

    Args:
        differences: log ratios of pairs without an effect; their signs are drawn anew, as the arms' order will be.
        effects: relative changes of latency, each above -1 and not 0.
        planned: pairs of the experiment.
        power: wanted probability.
    """
    rng = np.random.default_rng(seed)
    longest = min(max(planned * _FURTHER, 100), max(planned, _MAX_SIMULATED))
    drawn = rng.choice(np.abs(differences), (runs, longest)) * rng.choice((-1.0, 1.0), (runs, longest))
    needs = tuple(_power(drawn, effect, rules, planned, power) for effect in effects)
    measured = len(differences) if pilot_pairs is None else pilot_pairs
    return Plan(float(np.sqrt(np.mean(np.square(differences)))), measured, planned, power, rules.alpha, needs)


def _power(drawn: NDArray[np.float64], effect: float, rules: Rules, planned: int, power: float) -> Power:
    found = shown_of_latency(drawn + np.log1p(effect), rules)["better" if effect < 0 else "worse"]
    by_now = np.maximum.accumulate(found, axis=1).mean(axis=0)
    enough = np.flatnonzero(by_now >= power)
    reached = float(by_now[min(planned, len(by_now)) - 1])
    return Power(effect, reached, int(enough[0]) + 1 if len(enough) else None)
