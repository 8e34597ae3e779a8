"""Request records as pairs: what each arm measured in the same stretch of time."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fingerpost.abtest.experiment.adjustment import adjusted
from fingerpost.abtest.experiment.carryover import washouts
from fingerpost.abtest.experiment.slots import (
    GEOMEAN,
    METRICS,
    by_category,
    category_table,
    geometric_means,
    measure_slots,
    offered,
    request_costs,
)
from fingerpost.arrays import Floats, Ints
from fingerpost.clock import US
from fingerpost.experiment import CONTROL, TREATMENT, Experiment
from fingerpost.features.windows import in_flight_at, numbers, record_weights

# Fewer requests than this say nothing of a slot.
MIN_REQUESTS = 20
# Share of a slot's requests that its arm must have routed: below, the router had not followed.
MIN_FOLLOWED = 0.9


@dataclass(frozen=True)
class Pairs:
    """Complete pairs in the order of time.

    Args:
        arms: names of the control and the treatment.
        begin_us: when each pair began, shape (n,).
        values: metric to what was measured, shape (n, 2), control first; NaN where it was not.
        requests: shape (n, 2).
        latency_of, errors_of: by category, its geometric mean latency and its share of failed requests in each slot,
            shape (n, 2); NaN where it had too few requests.
        covariates: treatment less control of what no arm can have touched: log of the requests that arrived, of their
            work by each category's mean cost in the pairs before, and of those in flight as the slot began; (n, 3).
        washout_s: what was left out at the beginning of each pair's slots, seconds, shape (n,); see `carryover`.
        skipped: why other pairs do not count: `too few requests`, `not followed` (requests were not routed by
            the slot's arm, such as while the engine was away).
        records, misrouted: how many requests lay in the slots, and how many of these another arm or policy had routed.
        without_arm: how many of the latter tell no arm at all: their records come from where no arm is known.
    """

    arms: tuple[str, str]
    begin_us: Ints
    values: dict[str, Floats]
    requests: Ints
    latency_of: dict[str, Floats] = field(default_factory=dict)
    errors_of: dict[str, Floats] = field(default_factory=dict)
    covariates: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    washout_s: Floats = field(default_factory=lambda: np.zeros(0))
    skipped: dict[str, int] = field(default_factory=dict)
    records: int = 0
    misrouted: int = 0
    without_arm: int = 0

    def __len__(self) -> int:
        return len(self.begin_us)


def switchback_pairs(records: pd.DataFrame, experiment: Experiment, until_us: int, treatment: str = TREATMENT) -> Pairs:
    """The pairs of slots that were over at a moment.

    A request belongs to the slot in which it was sent, since then it was decided where to. All requests of a slot
    count for its arm, whoever routed them, so that no outcome decides what is counted; a pair in which the router did
    not follow the experiment does not count at all.

    Args:
        records: `time_us` (when requests ended), `duration_s`, `status`, `arm`, and if known `category`,
            `predicted_cost` and `weight`.
        until_us: later slots are not over.
        treatment: the arm of the challenger whose pairs are wanted.
    """
    begun = _begun_us(records)
    slots = np.array([experiment.slot_begin_us(each) for each in range(2 * experiment.pairs)], dtype=np.int64)
    lengths = np.array([experiment.slot_length_s(each) for each in range(2 * experiment.pairs)])
    ends = slots + np.round(lengths * US).astype(np.int64)
    numbers_of = {arm: number for number, arm in enumerate(experiment.arms)}
    routing = np.array([numbers_of[experiment.arm_of(each)] for each in range(2 * experiment.pairs)], dtype=np.int64)
    # Where no slot comes directly before, the champion routed.
    before = np.concatenate(([0], np.where(ends[:-1] >= slots[1:], routing[:-1], 0)))
    ours = np.array([experiment.treatment_of(each // 2) == treatment for each in range(2 * experiment.pairs)])
    slots, lengths, ends, routing, before = (each[ours] for each in (slots, lengths, ends, routing, before))
    count = int((ends[1::2] <= until_us).sum())
    slots, ends, lengths = slots[: 2 * count], ends[: 2 * count], lengths[: 2 * count]
    arms, changed = routing[: 2 * count] > 0, (routing != before)[: 2 * count]
    slot = np.searchsorted(slots, begun, side="right") - 1
    of = slot >= 0
    of[of] = begun[of] < ends[slot[of]]
    within = (begun - slots[slot]) if count else begun
    inside, place, since_s = records[of], slot[of], within[of] / US
    washout_s = washouts(inside, place, since_s, arms, changed, lengths[::2], experiment.washout_s)
    counted = since_s >= washout_s[place // 2]
    chosen, place = inside[counted], place[counted]
    names = np.array([CONTROL, treatment], dtype=object)
    told = chosen["arm"].to_numpy(dtype=object)
    followed = (told == names[arms[place].astype(np.int64)]) if len(chosen) else np.zeros(0, dtype=bool)
    side = place // 2 * 2 + arms[place]
    routed = np.bincount(side, weights=followed * record_weights(chosen), minlength=2 * count).astype(np.float64)
    waiting = np.log1p(in_flight_at(slots, begun.astype(np.int64), records["time_us"].to_numpy(np.int64)))
    load = np.where(arms[::2], -1.0, 1.0) * (waiting[1::2] - waiting[::2])
    length_s = lengths - np.repeat(washout_s, 2)
    pairs = _paired((CONTROL, treatment), slots[::2], chosen, side, length_s, routed, load, washout_s)
    return replace(pairs, misrouted=int((~followed).sum()), without_arm=int(chosen["arm"].isna().sum()))


def block_pairs(records: pd.DataFrame, arms: tuple[str, str], block_s: float, until_us: int) -> Pairs:
    """Arms that ran side by side (`FINGERPOST_ARM_SHARES`), paired by blocks of time.

    Within a block, requests were dealt out by a hash; so where both arms have equal shares, either is as likely to
    have the better half. With other shares that holds only nearly. Arms share hosts here, so each feels the load that
    the other makes: a difference between policies comes out too small.

    Args:
        records: as for `switchback_pairs`.
        arms: control and treatment, as in the records' `arm`.
        block_s: length of a block, seconds.
        until_us: later blocks are not over.
    """
    begun = _begun_us(records)
    named = records["arm"].to_numpy(dtype=object)
    ours = (named == arms[0]) | (named == arms[1])
    span = round(block_s * US)
    block = begun // span
    done = ours & (block < until_us // span)
    chosen, block = records[done], block[done]
    blocks, place = np.unique(block, return_inverse=True)
    side = (named[done] == arms[1]).astype(np.int64)
    lengths, none = np.full(2 * len(blocks), block_s), np.zeros(len(blocks))
    return _paired(arms, blocks * span, chosen, 2 * place + side, lengths, None, none, none)


def paired_differences(pairs: Pairs, metric: str) -> tuple[Floats, Ints]:
    """Treatment less control, of logs except for `error_rate`; and the places of the pairs that have it.

    The geometric mean is adjusted by the covariates.
    """
    differences, places = differences_of(pairs.values[metric], logs=metric != "error_rate")
    if metric == GEOMEAN and len(pairs.covariates) == len(pairs):
        differences = adjusted(differences, pairs.covariates[places])
    return differences, places


def differences_of(values: Floats, logs: bool) -> tuple[Floats, Ints]:
    """The second column less the first, or the log of their ratio; and the places of the rows that have it."""
    if logs:
        values = np.log(np.where(values > 0, values, np.nan))
    difference = values[:, 1] - values[:, 0]
    places = np.flatnonzero(np.isfinite(difference))
    return difference[places], places


def _begun_us(records: pd.DataFrame) -> Floats:
    duration = numbers(records["duration_s"])
    ended = records["time_us"].to_numpy(np.int64)
    return np.asarray(ended - np.round(np.nan_to_num(duration) * US).astype(np.int64))


def _paired(
    arms: tuple[str, str],
    begin_us: Ints,
    records: pd.DataFrame,
    place: Ints,
    length_s: Floats,
    routed: Floats | None,
    load: Floats,
    washout_s: Floats,
) -> Pairs:
    """Measures pairs and keeps those that count.

    Args:
        place: the slot of each record, twice the number of its pair, and one more for the treatment.
        length_s: of each slot, seconds.
        routed: of the requests in each slot, those that its arm routed; None: all.
        load, washout_s: by pair, see `Pairs`.
    """
    count = len(begin_us)
    costs = request_costs(records, place // 2, count)
    table = measure_slots(records, place, 2 * count, length_s, costs)
    categories = category_table(records, place, 2 * count, costs)
    latency_of, errors_of = by_category(categories)
    requests = table["requests"].to_numpy(np.int64).reshape(-1, 2)
    few = (requests < MIN_REQUESTS).any(axis=1)
    stood_for = table["weight"].to_numpy(np.float64)
    arrived = stood_for if routed is None else routed
    followed = np.asarray((arrived >= MIN_FOLLOWED * stood_for).reshape(-1, 2).all(axis=1))
    skipped = Counter({"too few requests": int(few.sum()), "not followed": int((~few & ~followed).sum())})
    good = ~few & followed
    measured = {name: table[name].to_numpy(np.float64).reshape(-1, 2) for name in METRICS if name != GEOMEAN}
    measured = {GEOMEAN: geometric_means(categories), **measured}
    return Pairs(
        arms,
        begin_us[good],
        {name: values[good] for name, values in measured.items()},
        requests[good],
        {name: values[good] for name, values in latency_of.items()},
        {name: values[good] for name, values in errors_of.items()},
        np.column_stack([offered(categories), load])[good],
        washout_s[good],
        dict(+skipped),
        int(requests.sum()),
    )
