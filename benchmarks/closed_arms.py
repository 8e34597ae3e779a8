"""How soon an arm that does gross harm is closed, and how often one is that does none, by the engine's own code.

Requests are made one by one and come in the agents' batches. A slot's routing ends with it; nobody waits for the lake.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fingerpost.abtest.promotion.concurrent import watch_of
from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.closed_arms import HELD_S, closed_now, closing, confirmed, standing, suspects, withdrawn_us
from fingerpost.events import Event
from fingerpost.experiment import Experiment
from fingerpost.serving.gross_harm import HarmWatch, Requests
from fingerpost.settings import Settings

HARMS = ("all fail", "20% fail", "a third hangs for 15 s", "all 10 x as long")
NO_HARMS = ("nothing", "all of the service fails at times", "all of the service is slow at times")
_TYPICAL_S, _SPREAD, _FAILURES = 0.05, 1.0, 0.002
# From a batch's end until the engine has read it, and from there until the router has the other table, seconds: each
# a second of looking, at most.
_READ_S, _SERVED_S = 2.0, 1.5
# What befalls the whole service: how often an hour, and for how long, seconds.
_TROUBLES_AN_HOUR, _SHORTEST_S, _LONGEST_S = 6.0, 5.0, 60.0
# The traffic of before, which the first slots are compared with, seconds.
_BEFORE_S = 60.0
_PAUSE_S = 60.0
# Requests that take longer are not seen; and how long harm is followed, seconds.
_LONGEST_REQUEST_S, _LONGEST_RUN_S = 30.0, 1500.0


def measure_closed_arms(
    plan: Experiment, rate_rps: float, runs: int, null_runs: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Of an experiment and of a watch: by what the new version does, how many are closed for good, and how soon.

    Args:
        plan: the experiment.
    """
    settings, rows = Settings(), []
    until = datetime.fromtimestamp(plan.begin_us / US + settings.watch_s, UTC)
    watch = watch_of(settings, "2", "1", until, plan.begin_us, rate_rps)
    for name, each in (("experiment", plan), ("watch", watch)):
        for what in (*HARMS, *NO_HARMS):
            rng = np.random.default_rng(11)
            count = runs if what in HARMS else null_runs
            made = [_closed_s(each, what, rate_rps, rng, settings) for _ in range(count)]
            found = np.array([found for found in made if found is not None]).reshape(-1, 3)
            row = {
                "of": name,
                "what": what,
                "closed_for_good": round(len(found) / count, 4),
                **{key: _told(found[:, place]) for place, key in enumerate(("first_s", "for_good_s", "routed_s"))},
            }
            progress("  ".join(f"{key} {value}" for key, value in row.items()))
            rows.append(row)
    return rows


def _closed_s(
    plan: Experiment, what: str, rate_rps: float, rng: np.random.Generator, settings: Settings
) -> tuple[float, float, float] | None:
    """When an arm was closed for good; None: it never was.

    Returns:
        Seconds from the new version's first request to the first closing and to the last, and for how many of these
        it routed.
    """
    ends_s = min((plan.end_us - plan.begin_us) / US, _LONGEST_RUN_S if what in HARMS else 3600.0)
    begun = np.sort(rng.uniform(-_BEFORE_S, ends_s, round(rate_rps * (ends_s + _BEFORE_S))))
    planned = _treated(plan, begun)
    first_s = float(begun[planned].min())
    duration, lost = _made(what, begun, planned, rng)
    # What becomes of each request where the other version routes it.
    other_s, other_lost = (duration, lost) if what in NO_HARMS else _made("nothing", begun, ~planned, rng)
    watch = HarmWatch(settings.watch_error_rise if plan.purpose == "watch" else settings.max_error_increase)
    treated, told = planned.copy(), list[Event]()
    sent_s = -_BEFORE_S
    for at_s in np.arange(rng.uniform(0, settings.agent_batch_s), ends_s, settings.agent_batch_s):
        now_s = at_s + _READ_S
        now_us = plan.begin_us + round(now_s * US)
        near = slice(*np.searchsorted(begun, (sent_s - _LONGEST_REQUEST_S, at_s)))
        seconds = np.where(treated[near], duration[near], other_s[near])
        ended = begun[near] + seconds
        new = (ended >= sent_s) & (ended < at_s)
        sent_s = at_s
        failures = np.where(treated[near], lost[near], other_lost[near])
        ended_us = plan.begin_us + np.round(ended * US).astype(np.int64)
        watch.add(Requests(ended_us, seconds, failures, treated[near]).where(new))
        for each in standing(told, plan):
            if now_us < each.told_us + HELD_S * US and watch.refuted(each.told_us, now_us):
                told = [other for other in told if other.id != each.id] + [replace(each, withdrawn_us=now_us)]
        if confirmed(told, plan, now_us):
            closings = [(each.told_us - plan.begin_us) / US + _SERVED_S for each in standing(told, plan)]
            routed = treated & (begun < closings[-1])
            return closings[0] - first_s, closings[-1] - first_s, float(routed.sum() / rate_rps)
        opened_us = max((each.told_us + round(HELD_S * US) for each in standing(told, plan)), default=0)
        paused = now_us < withdrawn_us(told, plan) + _PAUSE_S * US
        why = None if paused or closed_now(told, plan, now_us) else watch.harm(now_us, opened_us)
        if why:
            told.append(closing(plan, why, now_us))
        after = begun >= now_s + _SERVED_S
        treated[after] = planned[after] & (not closed_now(told, plan, now_us))
    return None


def _told(values: Floats) -> list[float] | None:
    """Median and 90% quantile."""
    return [round(float(each), 1) for each in np.quantile(values, (0.5, 0.9))] if len(values) else None


def _treated(plan: Experiment, begun: Floats) -> Any:
    """Which requests the new version routes: of a watch those of the champion, between pairs too."""
    # Slices begin at multiples of this after the beginning, seconds.
    step_s = 0.1
    cell = np.floor(begun / step_s).astype(np.int64)
    cells, place = np.unique(cell, return_inverse=True)
    middles = [plan.begin_us + round((each + 0.5) * step_s * US) for each in cells.tolist()]
    arms = np.array([plan.arm_at(each) for each in middles], dtype=object)
    return (arms == suspects(plan)[0])[place] & (begun >= 0)


def _made(what: str, begun: Floats, treated: Any, rng: np.random.Generator) -> tuple[Floats, Any]:
    """Durations, seconds, and which requests fail."""
    count = len(begun)
    duration = _TYPICAL_S * np.exp(rng.normal(0, _SPREAD, count))
    lost = rng.random(count) < _FAILURES
    if what == "all fail":
        lost |= treated
    elif what == "20% fail":
        lost |= treated & (rng.random(count) < 0.2)
    elif what == "a third hangs for 15 s":
        hang = treated & (rng.random(count) < 1 / 3)
        lost, duration = lost | hang, np.where(hang, 15.0, duration)
    elif what == "all 10 x as long":
        duration = np.where(treated, 10 * duration, duration)
    elif what in NO_HARMS[1:]:
        trouble = np.zeros(count, dtype=bool)
        for _ in range(rng.poisson(_TROUBLES_AN_HOUR * (begun[-1] - begun[0]) / 3600)):
            since_s = rng.uniform(begun[0], begun[-1])
            trouble |= (begun >= since_s) & (begun < since_s + rng.uniform(_SHORTEST_S, _LONGEST_S))
        if what == NO_HARMS[1]:
            lost |= trouble & (rng.random(count) < 0.3)
        else:
            duration = np.where(trouble, 10 * duration, duration)
    return duration, lost
