"""Request records as pairs: what each arm measured in the same stretch of time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.clock import US
from fingerpost.experiment import CONTROL, TREATMENT, Experiment
from fingerpost.features.windows import numbers, record_weights
from fingerpost.request_status import failed as has_failed

METRICS = (
    *("latency_mean_s", "latency_p50_s", "latency_p99_s"),
    *("error_rate", "throughput_rps", "predicted_cost"),
)
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
        skipped: why other pairs do not count: `too few requests`, `not followed` (requests were not routed by
            the slot's arm, such as while the engine was away).
        records, misrouted: how many requests lay in the slots, and how many of these another arm or policy had routed.
        without_arm: how many of the latter tell no arm at all: their records come from where no arm is known.
    """

    arms: tuple[str, str]
    begin_us: Ints
    values: dict[str, Floats]
    requests: Ints
    skipped: dict[str, int] = field(default_factory=dict)
    records: int = 0
    misrouted: int = 0
    without_arm: int = 0

    def __len__(self) -> int:
        return len(self.begin_us)


def switchback_pairs(records: pd.DataFrame, experiment: Experiment, until_us: int) -> Pairs:
    """The pairs of slots that were over at a moment.

    A request belongs to the slot in which it was sent, since then it was decided where to. All requests of a slot
    count for its arm, whoever routed them, so that no outcome decides what is counted; a pair in which the router did
    not follow the experiment does not count at all.

    Args:
        records: `time_us` (when requests ended), `duration_s`, `status`, `arm`, and if known `predicted_cost` and
            `weight`.
        until_us: later slots are not over.
    """
    begun = _begun_us(records)
    span = experiment.slot_s * US
    slot = np.floor((begun - experiment.begin_us) / span).astype(np.int64)
    within = begun - experiment.begin_us - slot * span
    done = min(2 * experiment.pairs, int(max(until_us - experiment.begin_us, 0) // span))
    count = done // 2
    counted = (slot >= 0) & (slot < 2 * count) & (within >= experiment.washout_s * US)
    arms = np.array([experiment.arm_of(each) == TREATMENT for each in range(2 * count)], dtype=np.int64)
    chosen = records[counted]
    place = slot[counted]
    names = np.array([CONTROL, TREATMENT], dtype=object)
    followed = (chosen["arm"].to_numpy(dtype=object) == names[arms[place]]) if len(chosen) else np.zeros(0, dtype=bool)
    side = place // 2 * 2 + arms[place]
    table = measure_slots(chosen, side, 2 * count, experiment.slot_s - experiment.washout_s)
    routed = np.bincount(side, weights=followed * record_weights(chosen), minlength=2 * count).astype(np.float64)
    begins = experiment.begin_us + np.round(np.arange(count) * 2 * span).astype(np.int64)
    pairs = _paired((CONTROL, TREATMENT), begins, table, routed, int((~followed).sum()))
    return replace(pairs, without_arm=int(chosen["arm"].isna().sum()))


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
    table = measure_slots(chosen, 2 * place + side, 2 * len(blocks), block_s)
    return _paired(arms, blocks * span, table, table["weight"].to_numpy(np.float64), 0)


def paired_differences(pairs: Pairs, metric: str) -> tuple[Floats, Ints]:
    """Treatment less control, of logs except for `error_rate`; and the places of the pairs that have it."""
    values = pairs.values[metric]
    if metric != "error_rate":
        values = np.log(np.where(values > 0, values, np.nan))
    difference = values[:, 1] - values[:, 0]
    places = np.flatnonzero(np.isfinite(difference))
    return difference[places], places


def _begun_us(records: pd.DataFrame) -> Floats:
    duration = numbers(records["duration_s"])
    ended = records["time_us"].to_numpy(np.int64)
    return np.asarray(ended - np.round(np.nan_to_num(duration) * US).astype(np.int64))


def measure_slots(records: pd.DataFrame, place: Ints, count: int, length_s: float) -> pd.DataFrame:
    """Metrics of slots; latency is that of requests that did not fail at the server.

    Sampled records count as often as their weight says.

    Args:
        records: `status`, `duration_s`, and if known `predicted_cost` and `weight`.
        place: the slot of each record, 0..count, shape (records,).
        length_s: length of a slot, seconds.

    Returns:
        A row a slot: METRICS, `requests` and `measured`, the number of records, and of those with a latency; and
        `weight`, the number of requests that the records stand for.
    """
    failed, weight = has_failed(records["status"].to_numpy(np.int64)), record_weights(records)

    def total(values: Floats) -> Floats:
        return np.bincount(place, weights=values, minlength=count).astype(np.float64)

    stood_for = total(weight)
    table = pd.DataFrame({"requests": np.bincount(place, minlength=count), "weight": stood_for})
    table["throughput_rps"] = stood_for / length_s
    table["error_rate"] = safe_ratio(total(weight * failed), stood_for)
    duration = np.where(failed, np.nan, numbers(records["duration_s"]))
    known = np.isfinite(duration)
    table["measured"] = np.bincount(place[known], minlength=count)
    table["latency_mean_s"] = safe_ratio(total(np.where(known, weight * duration, 0.0)), total(weight * known))
    for name, share in (("latency_p50_s", 0.5), ("latency_p99_s", 0.99)):
        table[name] = _quantiles(duration[known], weight[known], place[known], count, share)
    table["predicted_cost"] = np.nan
    if "predicted_cost" in records:
        costs = numbers(records["predicted_cost"])
        said = np.isfinite(costs)
        table["predicted_cost"] = safe_ratio(total(np.where(said, weight * costs, 0.0)), total(weight * said))
    return table


def _quantiles(values: Floats, weight: Floats, place: Ints, count: int, share: float) -> Floats:
    """A weighted quantile of every slot, shape (count,); NaN of one without values.

    Linear between order statistics. A value that stands for several requests stands in the middle of these; with equal
    weights it is the usual quantile, of positions 0 to 1.
    """
    order = np.lexsort((values, place))
    values, weight, place = values[order], weight[order], place[order]
    found = np.full(count, np.nan)
    edges = np.searchsorted(place, np.arange(count + 1))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if begin == end:
            continue
        middle = np.cumsum(weight[begin:end]) - weight[begin:end] / 2
        position = middle[0] + share * (middle[-1] - middle[0])
        found[place[begin]] = np.interp(position, middle, values[begin:end])
    return found


def _paired(arms: tuple[str, str], begin_us: Ints, table: pd.DataFrame, routed: Floats, misrouted: int) -> Pairs:
    requests = table["requests"].to_numpy(np.int64).reshape(-1, 2)
    few = (requests < MIN_REQUESTS).any(axis=1)
    stood_for = table["weight"].to_numpy(np.float64).reshape(-1, 2)
    followed = (routed.reshape(-1, 2) >= MIN_FOLLOWED * stood_for).all(axis=1)
    skipped = Counter({"too few requests": int(few.sum()), "not followed": int((~few & ~followed).sum())})
    good = ~few & followed
    values = {name: table[name].to_numpy(np.float64).reshape(-1, 2)[good] for name in METRICS}
    return Pairs(arms, begin_us[good], values, requests[good], dict(+skipped), int(requests.sum()), misrouted)


def typical_metrics(pairs: Pairs, metrics: Sequence[str] = METRICS) -> dict[str, tuple[float, float]]:
    """Each arm's median over its slots, control first; NaN where nothing was measured."""
    found = {}
    for name in metrics:
        known = pairs.values[name][np.isfinite(pairs.values[name]).all(axis=1)]
        middle = np.median(known, axis=0) if len(known) else np.full(2, np.nan)
        found[name] = (float(middle[0]), float(middle[1]))
    return found
