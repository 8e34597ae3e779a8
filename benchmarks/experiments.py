"""Experiments and watches on made time slices, judged by the product's own code: how often they are right, how soon.

Slices are made as sums by category, since the mean log of so many requests has a known distribution; those of the
watch, which looks at p99, request by request. Noise is measured as people see it: the standard deviation of the log
ratio of raw mean latency within a pair. What makes it differs by kind, and so does what can be taken out of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.closed_arms import measure_closed_arms
from benchmarks.interference import measure_interference
from benchmarks.sequences import measure_sequences
from fingerpost.abtest.experiment.adjustment import adjusted
from fingerpost.abtest.experiment.guardrails import Rules, shown_harm, shown_of_latency, within_margin
from fingerpost.abtest.experiment.slots import CategoryTable, geometric_means, offered
from fingerpost.abtest.experiment.store import first_steps, settle_us
from fingerpost.abtest.promotion.concurrent import ALPHA, errors_shown, watch_of
from fingerpost.abtest.promotion.policy import Policy
from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.experiment import TREATMENT, Experiment
from fingerpost.settings import Settings

KINDS = ("mix", "outbreaks", "load", "common")
NOISES = (0.2, 0.4, 0.7)
_BEGIN_US = 1_790_000_000 * US
# Mean latency of the categories, seconds, the share of the requests in each, and the spread of a category's logs.
_LEVELS = np.array([0.01, 0.02, 0.05, 0.1, 1.0])
_SHARES = np.array([0.4, 0.3, 0.15, 0.12, 0.03])
_SPREAD = 0.8
# What common shocks remain in every kind, and how long they last, seconds.
_REST, _LASTS_S = 0.05, 60.0
_OUTBREAK, _OUTBREAK_TIMES = 0.1, 30.0


@dataclass(frozen=True)
class Slices:
    """Made slices of many experiments, each array of shape (experiments, slots, ...).

    Args:
        requests: by category.
        logs: mean log latency by category.
        raw: mean latency of all requests, seconds.
    """

    requests: Floats
    logs: Floats
    raw: Floats


def schedule(settings: Settings, hours: float) -> Experiment:
    """An experiment as it is begun by default, with the pairs that fit into a time."""
    gate = Policy().experiment
    pairs = round(3600 * hours / settings.experiment_slot_s / 2)
    while True:
        steps = first_steps(gate.steps, settings.experiment_slot_s, pairs)
        made = Experiment(
            "made", "shop", "1", "2", _BEGIN_US, settings.experiment_slot_s, settings.experiment_washout_s, pairs, steps
        )
        if made.end_us <= _BEGIN_US + hours * 3600 * US:
            return made
        pairs -= 1


def make_slices(
    kind: str, strength: float, times_s: Any, lengths_s: Any, rate_rps: float, runs: int, rng: np.random.Generator
) -> Slices:
    """Slices in which nothing is tried.

    Args:
        kind: of noise. `mix`: the share of slow requests wanders. `outbreaks`: in a tenth of the slices some requests
            take 30 times as long. `load`: everything is slower where more arrives. `common`: all requests of a slice
            are slower or faster, for no reason that anybody sees.
        strength: how much of it.
        times_s, lengths_s: when each slice begins, and how long its requests are counted, seconds, shape (slots,).
    """
    slots = len(times_s)
    wander, common = (_wandering(rng, runs, times_s) for _ in range(2))
    shares = np.broadcast_to(_SHARES, (runs, slots, len(_SHARES))).copy()
    load = np.zeros((runs, slots))
    shock = _REST * common
    if kind == "mix":
        shares[..., -1] *= np.exp(strength * wander)
    elif kind == "load":
        load = 0.3 * wander
        shock = shock + strength * wander
    elif kind == "common":
        shock = strength * common
    shares = shares / np.maximum(shares.sum(axis=-1, keepdims=True), 1e-12)
    expected = rate_rps * lengths_s[:, None] * shares * np.exp(load)[..., None]
    requests = rng.poisson(expected).astype(np.float64)
    count = np.maximum(requests, 1.0)
    slow: Any = np.zeros((runs, slots))
    if kind == "outbreaks":
        slow = (rng.random((runs, slots)) < _OUTBREAK) * np.minimum(rng.exponential(strength, (runs, slots)), 0.5)
    struck = slow[..., None] + rng.normal(0, 1, requests.shape) * np.sqrt(slow * (1 - slow))[..., None] / np.sqrt(count)
    struck = np.clip(struck, 0.0, 1.0)
    logs = np.log(_LEVELS) - _SPREAD**2 / 2 + shock[..., None] + struck * np.log(_OUTBREAK_TIMES)
    logs = logs + rng.normal(0, 1, requests.shape) * _SPREAD / np.sqrt(count)
    variation = np.sqrt(np.expm1(_SPREAD**2) / count)
    means = _LEVELS * np.exp(shock)[..., None] * (1 + struck * (_OUTBREAK_TIMES - 1))
    means = means * np.maximum(1 + variation * rng.normal(0, 1, requests.shape), 0.05)
    raw = (requests * means).sum(axis=-1) / np.maximum(requests.sum(axis=-1), 1.0)
    return Slices(requests, logs, raw)


def _wandering(rng: np.random.Generator, runs: int, times_s: Floats) -> Floats:
    """Standard normal processes that forget, at some times, shape (runs, times)."""
    found = rng.normal(0, 1, (runs, len(times_s)))
    for place in range(1, len(times_s)):
        kept = np.exp(-(times_s[place] - times_s[place - 1]) / _LASTS_S)
        found[:, place] = kept * found[:, place - 1] + np.sqrt(1 - kept**2) * found[:, place]
    return found


def strength_of(kind: str, noise: float, rate_rps: float) -> float:
    """The strength at which pairs of slices of 25 s have this spread of raw means."""
    times_s = np.arange(400) * 30.0
    low, high = 0.0, 3.0
    for _ in range(14):
        middle = (low + high) / 2
        made = make_slices(kind, middle, times_s, np.full(400, 25.0), rate_rps, 20, np.random.default_rng(1))
        spread = np.diff(np.log(made.raw.reshape(20, 200, 2)), axis=-1).std()
        low, high = (middle, high) if spread < noise else (low, middle)
    return low


def measure_several(rate_rps: float, runs: int, challengers: int = 3) -> list[dict[str, Any]]:
    """Several equal challengers in one experiment of three hours, by kind of noise: how often one is called different.

    `alone` is how often that would be had each of them the whole of alpha.
    """
    settings, rules, rows = Settings(), Rules(), []
    single = schedule(settings, 3.0 / challengers)
    names = tuple(str(number) for number in range(3, 2 + challengers))
    steps = tuple((count * challengers, one_in, slot_s) for count, one_in, slot_s in single.steps)
    plan = replace(single, pairs=single.pairs * challengers, steps=steps, others=names)
    begins = np.array([plan.slot_begin_us(slot) for slot in range(2 * plan.pairs)])
    lengths = np.array([plan.slot_length_s(slot) for slot in range(2 * plan.pairs)])
    counted = lengths - np.minimum(plan.washout_s, lengths / 2)
    for kind in KINDS:
        rng = np.random.default_rng(40)
        strength = strength_of(kind, 0.4, rate_rps)
        drawn = make_slices(kind, strength, (begins - begins[0]) / US, counted, rate_rps, runs, rng)
        called = {share: np.zeros((runs, challengers), dtype=bool) for share in (1, challengers)}
        for place, arm in enumerate(plan.treatments):
            found = differences(drawn, plan, 0.0, arm)
            for share, by in called.items():
                shown = shown_of_latency(found, rules.shared(share))
                by[:, place] = (shown["better"] | shown["worse"]).any(axis=1)
        rows.append({
            "kind": kind,
            "raw_noise": 0.4,
            "challengers": challengers,
            "pairs_each": single.pairs,
            "any_equal_called_better_or_worse": round(float(called[challengers].any(axis=1).mean()), 4),
            "alone": round(float(called[1].any(axis=1).mean()), 4),
        })  # fmt: skip
    return rows


def differences(slices: Slices, experiment: Experiment, effect: float, arm: str = TREATMENT) -> Floats:
    """What the product makes of the pairs of an arm, challenger less champion, shape (experiments, pairs)."""
    treated = np.array([experiment.arm_of(slot) == arm for slot in range(2 * experiment.pairs)])
    ours = np.array([experiment.treatment_of(pair) == arm for pair in range(experiment.pairs)])
    order = np.argsort(treated.reshape(-1, 2), axis=1) + 2 * np.arange(experiment.pairs)[:, None]
    place = order[ours].ravel()
    logs = slices.logs + np.where(treated, np.log1p(effect), 0.0)[:, None]
    names = tuple(map(str, range(logs.shape[-1])))
    found, arrived = [], []
    for counts, means in zip(slices.requests[:, place], logs[:, place], strict=True):
        table = CategoryTable(names, counts.astype(np.int64), counts, 0 * counts, counts, counts * means)
        found.append(np.diff(np.log(geometric_means(table)), axis=1)[:, 0])
        arrived.append(offered(table))
    return adjusted(np.stack(found), np.stack(arrived))


def measure_power(rate_rps: float, runs: int, null_runs: int, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """By kind and noise: how often an effect of -5% is found within an hour, and no effect is called one."""
    settings, rules, rows = Settings(), Rules(), []
    hour, three = schedule(settings, 1.0), schedule(settings, 3.0)
    for kind in KINDS:
        for noise in NOISES:
            rng = np.random.default_rng(int(100 * noise))
            strength = strength_of(kind, noise, rate_rps)

            def made(experiment: Experiment, count: int, effect: float) -> Floats:
                begins = np.array([experiment.slot_begin_us(slot) for slot in range(2 * experiment.pairs)])
                lengths = np.array([experiment.slot_length_s(slot) for slot in range(2 * experiment.pairs)])
                counted = lengths - np.minimum(experiment.washout_s, lengths / 2)
                drawn = make_slices(kind, strength, (begins - begins[0]) / US, counted, rate_rps, count, rng)  # noqa: B023
                return differences(drawn, experiment, effect)

            null = made(three, null_runs, 0.0)
            shown = shown_of_latency(null, rules)
            better = shown_of_latency(made(hour, runs, -0.05), rules)["better"]
            worse = shown_of_latency(made(hour, runs, 0.05), rules)
            row = {
                "kind": kind,
                "raw_noise": noise,
                "noise_that_decides": round(float(null[:, 20:].std()), 3),
                "found_5_percent_in_60_min": round(float(better.any(axis=1).mean()), 3),
                "equal_called_better_or_worse": round(float((shown["better"] | shown["worse"]).any(axis=1).mean()), 4),
                "equal_not_worse_in_3_h": round(float(within_margin(null, rules).any(axis=1).mean()), 3),
                "equal_not_worse_minutes": _typical_minutes(within_margin(null, rules), three),
                "worse_5_percent_called_not_worse": round(float(worse["not worse"].any(axis=1).mean()), 4),
            }
            progress("  ".join(f"{name} {value}" for name, value in row.items()))
            rows.append(row)
    return rows


def _typical_minutes(met: Any, experiment: Experiment) -> float | None:
    """Minutes after which half of all experiments have met it; None: fewer ever do."""
    pair = np.where(met.any(axis=1), met.argmax(axis=1), experiment.pairs)
    middle = int(np.median(pair))
    return (
        None
        if middle >= experiment.pairs
        else round((experiment.slot_begin_us(2 * middle + 2) - _BEGIN_US) / US / 60, 1)
    )


def measure_watch(rate_rps: float, runs: int, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """By kind of change: how many of so many promotions are rolled back, and after which time."""
    settings, rows = Settings(), []
    until = datetime.fromtimestamp(_BEGIN_US / US, UTC)
    until = until.fromtimestamp(until.timestamp() + settings.watch_s, UTC)
    plan = watch_of(settings, "2", "1", until, _BEGIN_US, rate_rps)
    # Records must be in the lake, and the flow looks every minute.
    wait_s = settle_us(settings, ingested=True) / US + settings.compare_every_s / 2
    for change in ("none", "all 1.5 x", "p99 1.5 x", "errors +3%", "all fail"):
        for noise in NOISES:
            rng = np.random.default_rng(int(100 * noise) + 7)
            pair = np.array([_watched(plan, change, noise, rate_rps, rng, settings) for _ in range(runs)])
            ends_s = np.array(
                [(plan.slot_begin_us(2 * each + 1) - _BEGIN_US) / US + plan.slot_s for each in pair[pair >= 0]]
            )
            row = {
                "change": change,
                "common_noise": noise,
                "rolled_back": round(float((pair >= 0).mean()), 4),
                "seconds_p50": round(float(np.median(ends_s)) + wait_s, 0) if len(ends_s) else None,
                "seconds_p90": round(float(np.quantile(ends_s, 0.9)) + wait_s, 0) if len(ends_s) else None,
            }
            progress("  ".join(f"{name} {value}" for name, value in row.items()))
            rows.append(row)
    return rows


def _watched(
    plan: Experiment, change: str, noise: float, rate_rps: float, rng: np.random.Generator, settings: Settings
) -> int:
    """The pair, from 0, at which a promotion is rolled back; -1: it is kept."""
    slots = 2 * plan.pairs
    times_s = np.array([plan.slot_begin_us(slot) for slot in range(slots)]) / US
    requests = round(rate_rps * (plan.slot_s - plan.washout_s))
    common = noise / np.sqrt(2) * _wandering(rng, 1, times_s)[0]
    logs = np.log(0.05) + common[:, None] + rng.normal(0, 1, (slots, requests))
    present = np.array([plan.arm_of(slot) != TREATMENT for slot in range(slots)])
    failed = rng.random((slots, requests)) < 0.002
    if change == "all 1.5 x":
        logs[present] += np.log(1.5)
    elif change == "p99 1.5 x":
        tail = rng.random((slots, requests)) < 0.03
        # Requests that are 1.5 times as slow at the 99th percentile, and hardly any at the median.
        logs = np.where(
            tail & present[:, None], np.maximum(logs, common[:, None] + np.log(0.05) + 2.33 + np.log(1.5)), logs
        )
    elif change == "errors +3%":
        failed |= present[:, None] & (rng.random((slots, requests)) < 0.03)
    elif change == "all fail":
        failed |= present[:, None]
    cap = np.quantile(logs.reshape(plan.pairs, -1), 0.999, axis=1).repeat(2)[:, None]
    costs = np.where(failed, np.maximum(logs, cap), logs)

    def rise(values: Floats) -> Floats:
        sides = values.reshape(plan.pairs, 2)
        first = present.reshape(plan.pairs, 2)[:, 0]
        return np.where(first, sides[:, 0] - sides[:, 1], sides[:, 1] - sides[:, 0])

    met = (
        shown_harm(rise(costs.mean(axis=1)), np.log(settings.watch_latency_ratio), ALPHA)
        | shown_harm(rise(np.quantile(costs, 0.99, axis=1)), np.log(settings.watch_p99_ratio), ALPHA)
        | errors_shown(rise(failed.mean(axis=1)), settings.watch_error_rise)
    )
    return int(met.argmax()) if met.any() else -1


def measure_exposure() -> dict[str, Any]:
    """How much a version harms that fails every request, from its begin until it is stopped, by the shipped steps."""
    settings = Settings()
    plan = schedule(settings, 1.0)
    # Gross errors are told after two pairs, once their records are in the lake and the flow has looked.
    stopped_us = plan.slot_begin_us(3) + round(plan.slot_length_s(3) * US) + settle_us(settings, ingested=True)
    stopped_us += round(settings.compare_every_s * US)
    treated = [slot for slot in range(2 * plan.pairs) if plan.arm_of(slot) == TREATMENT]
    exposed_s = sum(plan.slot_length_s(slot) for slot in treated if plan.slot_begin_us(slot) < stopped_us)
    elapsed_s = (stopped_us - plan.begin_us) / US
    return {"stopped_after_s": elapsed_s, "exposed_s": exposed_s, "share_of_requests": round(exposed_s / elapsed_s, 3)}


def _few(watches: int) -> tuple[int, int]:
    """How many experiments are made request by request, with harm and without: each takes seconds."""
    return max(2, watches // 10), max(2, watches // 10)


def measure_experiments(
    rate_rps: float, runs: int, null_runs: int, watches: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """All of it."""
    return {
        "exposure": measure_exposure(),
        "sequences": measure_sequences(null_runs),
        "several": measure_several(rate_rps, null_runs),
        "interference": measure_interference(max(1, watches // 10), 300.0),
        "closed_arms": measure_closed_arms(schedule(Settings(), 1.0), rate_rps, *_few(watches), progress),
        "watch": measure_watch(rate_rps, watches, progress),
        "experiments": measure_power(rate_rps, runs, null_runs, progress),
    }
