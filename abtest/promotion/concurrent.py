"""Compares the promoted version with the champion of before, which keeps a share of the time slices for that.

Both serve within seconds of each other, in an order that is drawn: what the time of day, a campaign or an outage does
meets both alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from fingerpost.abtest.experiment.guardrails import shown_harm
from fingerpost.abtest.experiment.pairs import MIN_REQUESTS, Pairs, differences_of, paired_differences
from fingerpost.abtest.experiment.slots import GEOMEAN, P99
from fingerpost.abtest.experiment.store import begin_us_of, usual_rate_rps
from fingerpost.abtest.results import read_time
from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.settings import Settings
from fingerpost.training.registry import Registry

# At first both take turns, since the one that is known to be good has half; then it has one slot in so many.
TURNS, ONE_IN = 30, 10
# Probability that a version which is no different is ever rolled back, for each of the three guardrails.
ALPHA = 0.005
_WASHOUT_SHARE = 0.25
_LONGEST_SLOT_S = 120.0
_GROSS, _GROSS_PAIRS = 10.0, 3


@dataclass(frozen=True)
class Guardrail:
    """One quantity of both versions.

    Args:
        former, present: medians over the slots; of failed requests, means.
        change: what its limit is for: the ratio, or the rise of the share.
        broken: it is certainly worse, and by more than the limit as far as is known.
    """

    former: float
    present: float
    change: float
    limit: float
    broken: bool


@dataclass(frozen=True)
class WatchReading:
    """All guardrails; `enough`: whether there were pairs enough to tell."""

    pairs: int
    skipped: Mapping[str, int]
    errors: Guardrail
    latency: Guardrail
    p99: Guardrail
    enough: bool

    @property
    def broken(self) -> list[str]:
        """The broken guardrails, in words."""
        found = []
        if self.errors.broken:
            found.append(
                f"{self.errors.present:.2%} of the requests fail, {self.errors.former:.2%} by the version before"
            )
        if self.latency.broken:
            found.append(f"latency is {self.latency.change:.2f} times that of the version before")
        if self.p99.broken:
            found.append(f"p99 is {self.p99.change:.2f} times that of the version before")
        return found


# Evidence of alpha 0.005 needs eleven pairs that all point the same way.
_MIN_PAIRS = 11


def read_watch(pairs: Pairs, settings: Settings) -> WatchReading:
    """Compares both versions in the pairs so far.

    Args:
        pairs: the present champion is the control, the former one the treatment.
    """
    rises, _ = differences_of(pairs.values["error_rate"][:, ::-1], logs=False)
    limit = settings.watch_error_rise
    mean = float(rises.mean()) if len(rises) else float("nan")
    shares = pairs.values["error_rate"].mean(axis=0) if len(pairs) else np.full(2, np.nan)
    failing = bool(errors_shown(rises, limit).any())
    return WatchReading(
        len(pairs),
        pairs.skipped,
        Guardrail(float(shares[1]), float(shares[0]), mean, limit, failing),
        _ratio(pairs, GEOMEAN, settings.watch_latency_ratio),
        _ratio(pairs, P99, settings.watch_p99_ratio),
        enough=len(pairs) >= _MIN_PAIRS,
    )


def errors_shown(rises: Floats, limit: float) -> Any:
    """After each pair, whether the present version fails more requests for certain, and by more than the limit.

    A rise of ten times the limit in three pairs running needs no statistics.

    Args:
        rises: share of failed requests of the present version less that of the former one, shape (..., pairs).
    """
    mean = np.cumsum(rises, axis=-1) / np.arange(1, rises.shape[-1] + 1)
    gross = rises > _GROSS * limit
    in_a_row = np.zeros(rises.shape, dtype=bool)
    for end in range(_GROSS_PAIRS, rises.shape[-1] + 1):
        in_a_row[..., end - 1] = gross[..., end - _GROSS_PAIRS : end].all(axis=-1)
    return in_a_row | (shown_harm(rises, 0.0, ALPHA, limit) & (mean > limit))


def _ratio(pairs: Pairs, metric: str, limit: float) -> Guardrail:
    differences, places = paired_differences(pairs, metric)
    if not len(places):
        return Guardrail(float("nan"), float("nan"), float("nan"), limit, False)
    present, former = (float(each) for each in np.median(pairs.values[metric][places], axis=0))
    broken = bool(shown_harm(-differences, float(np.log(limit)), ALPHA).any())
    return Guardrail(former, present, float(np.exp(-np.median(differences))), limit, broken)


def begin_watch(settings: Settings, registry: Registry, watch: Mapping[str, Any], now_us: int) -> None:
    """Gives the former champion its slots: it is the challenger of an experiment that is a watch.

    Asked again while the same watch is on, it changes nothing.
    """
    version, previous, until = str(watch["version"]), str(watch["previous"]), read_time(watch["until"])
    if until is None or registry.version(previous) is None:
        return
    experiment = watch_of(settings, version, previous, until, now_us, usual_rate_rps(settings, now_us))
    with registry.lock():
        registry.set_challenger(previous)
        registry.set_note(EXPERIMENT_TAG, experiment.to_note())


def watch_of(
    settings: Settings, version: str, previous: str, until: datetime, now_us: int, rate_rps: float
) -> Experiment:
    """The experiment by which a promotion is watched, with slots long enough for requests to be compared.

    Args:
        rate_rps: requests a second.
    """
    slot_s = watch_slot_s(settings.watch_slot_s, rate_rps)
    begin_us = begin_us_of(settings, now_us)
    left_s = max(until.timestamp() - begin_us / US, 2 * slot_s)
    turns = max(1, min(TURNS, int(left_s / (2 * slot_s))))
    rest = int((left_s - turns * 2 * slot_s) / (ONE_IN * slot_s))
    return Experiment(
        f"watch-v{version}-{begin_us // US}",
        settings.service,
        version,
        previous,
        begin_us,
        slot_s,
        _WASHOUT_SHARE * slot_s,
        turns + rest,
        steps=((turns, 2, slot_s),) if rest else (),
        one_in=ONE_IN if rest else 2,
        purpose="watch",
    )


def watch_slot_s(shortest_s: float, rate_rps: float) -> float:
    """Length of the watch's slots, seconds: twice the requests that a slot needs, at a rate of requests a second."""
    needed_s = 2 * MIN_REQUESTS / rate_rps / (1 - _WASHOUT_SHARE) if rate_rps > 0 else _LONGEST_SLOT_S
    return float(np.clip(needed_s, shortest_s, max(shortest_s, _LONGEST_SLOT_S)))
