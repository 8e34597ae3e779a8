"""Measures time slices: what requests cost, how many failed, and which categories they were of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.features.windows import numbers, record_weights
from fingerpost.request_status import CLIENT_GONE
from fingerpost.request_status import failed as has_failed

GEOMEAN = "latency_geomean_s"
RAW_MEAN = "latency_mean_s"
P99 = "latency_p99_s"
METRICS = (GEOMEAN, RAW_MEAN, "latency_p50_s", P99, "error_rate", "throughput_rps", "predicted_cost")
# A request that failed costs as much as the slowest of a thousand.
_CAP_QUANTILE = 0.999
# A category with fewer requests in a slot says nothing of it there.
_MIN_OF_CATEGORY = 5
# Categories beyond these are taken together: what is tested for each grows with their number.
MAX_CATEGORIES = 64
OTHERS = "(others)"


@dataclass(frozen=True)
class CategoryTable:
    """Sums by slot and category, each of shape (slots, categories).

    Args:
        names: of the categories, those with the most requests first.
        requests: number of records.
        weight: number of requests that the records stand for.
        failed: of these, requests that failed.
        measured, logs: requests whose cost is known, and the sum of the costs' logs.
    """

    names: tuple[str, ...]
    requests: Ints
    weight: Floats
    failed: Floats
    measured: Floats
    logs: Floats


def request_costs(records: pd.DataFrame, group: Ints, groups: int) -> Floats:
    """Latency, with a cap for requests that failed or that their client gave up, seconds; NaN where it is not known.

    The cap is the 99.9% quantile of all durations in the group, or the request's own duration if that is longer: a
    version that breaks slow requests off, or fails fast, must not look faster. It is common to both arms of a group.

    Args:
        records: `status`, `duration_s`, and if known `weight`.
        group: number of the pair of each record, 0..groups, shape (records,).
    """
    duration, weight = numbers(records["duration_s"]), record_weights(records)
    known = np.isfinite(duration)
    cap = weighted_quantiles(duration[known], weight[known], group[known], groups, _CAP_QUANTILE)
    unserved = lost(records)
    return np.where(unserved, np.fmax(duration, cap[group]), duration)


def lost(records: pd.DataFrame) -> NDArray[np.bool_]:
    """Which requests got no answer: those that failed at the server, and those that their client gave up."""
    status = records["status"].to_numpy(np.int64)
    return np.asarray(has_failed(status) | (status == CLIENT_GONE))


def measure_slots(
    records: pd.DataFrame, place: Ints, count: int, length_s: float | Floats, costs: Floats | None = None
) -> pd.DataFrame:
    """Metrics of slots but for the geometric mean, which depends on the pair.

    Sampled records count as often as their weight says.

    Args:
        records: `status`, `duration_s`, and if known `predicted_cost` and `weight`.
        place: the slot of each record, 0..count, shape (records,).
        length_s: length of the slots, or of each, seconds.
        costs: of `request_costs`; None: latency is that of requests that were answered.

    Returns:
        A row a slot: METRICS but `latency_geomean_s`, `requests` and `measured`, the number of records, and of those
        with a latency; and `weight`, the number of requests that the records stand for.
    """
    failed, weight = lost(records), record_weights(records)

    def total(values: Floats) -> Floats:
        return np.bincount(place, weights=values, minlength=count).astype(np.float64)

    stood_for = total(weight)
    table = pd.DataFrame({"requests": np.bincount(place, minlength=count), "weight": stood_for})
    table["throughput_rps"] = stood_for / length_s
    table["error_rate"] = safe_ratio(total(weight * failed), stood_for)
    duration = np.where(failed, np.nan, numbers(records["duration_s"])) if costs is None else costs
    known = np.isfinite(duration)
    table["measured"] = np.bincount(place[known], minlength=count)
    table[RAW_MEAN] = safe_ratio(total(np.where(known, weight * duration, 0.0)), total(weight * known))
    for name, share in (("latency_p50_s", 0.5), (P99, 0.99)):
        table[name] = weighted_quantiles(duration[known], weight[known], place[known], count, share)
    table["predicted_cost"] = np.nan
    if "predicted_cost" in records:
        predicted = numbers(records["predicted_cost"])
        said = np.isfinite(predicted)
        table["predicted_cost"] = safe_ratio(total(np.where(said, weight * predicted, 0.0)), total(weight * said))
    return table


def category_table(records: pd.DataFrame, place: Ints, count: int, costs: Floats) -> CategoryTable:
    """Counts and sums of log costs by slot and category; records without `category` are all of one.

    Args:
        place: the slot of each record, 0..count, shape (records,).
        costs: of `request_costs`.
    """
    names, code = category_codes(records)
    cell, cells = place * len(names) + code, count * len(names)
    weight = record_weights(records)
    known = np.isfinite(costs) & (costs > 0)

    def total(values: Floats | None) -> Floats:
        return np.bincount(cell, weights=values, minlength=cells).astype(np.float64).reshape(count, len(names))

    logs = np.log(np.where(known, costs, 1.0))
    return CategoryTable(
        names,
        total(None).astype(np.int64),
        total(weight),
        total(weight * lost(records)),
        total(weight * known),
        total(weight * known * logs),
    )


def category_codes(records: pd.DataFrame) -> tuple[tuple[str, ...], Ints]:
    """Names of the busiest categories, and the place of each record's among them; the rest are `OTHERS`."""
    if "category" not in records or records.empty:
        return ("",), np.zeros(len(records), dtype=np.int64)
    code, found = pd.factorize(records["category"].to_numpy(dtype=object), use_na_sentinel=False)
    # The busiest first; of equally busy ones that which came first, so that the order does not depend on chance.
    order = np.argsort(-np.bincount(code, minlength=len(found)), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    names = [str(found[each]) for each in order[:MAX_CATEGORIES]]
    if len(order) > MAX_CATEGORIES:
        names[-1] = OTHERS
    return tuple(names), np.minimum(rank[code], len(names) - 1)


def geometric_means(table: CategoryTable) -> Floats:
    """Geometric mean latency of each arm at the pair's common mix of categories, seconds, shape (pairs, 2).

    Each category is compared with itself: its mean log in one slot less that in the other, weighted by
    `n m / (n + m)` of its requests in both, which is least squares with a level for each category. So neither another
    mix of requests nor the levels of categories enter the difference. NaN where no category is in both slots.
    """
    measured, logs = (each.reshape(-1, 2, each.shape[1]) for each in (table.measured, table.logs))
    common = safe_ratio(measured.prod(axis=1), measured.sum(axis=1))
    common = np.where(np.isfinite(common), common, 0.0)
    means = np.where(measured > 0, safe_ratio(logs, measured), 0.0)
    return np.exp(safe_ratio((common[:, None, :] * means).sum(axis=2), common.sum(axis=1)[:, None]))


def by_category(table: CategoryTable) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Geometric mean latency, seconds, and share of lost requests of each category, each of shape (pairs, 2).

    NaN where one of the slots has fewer than 5 of its requests.
    """
    enough = table.requests.reshape(-1, 2, len(table.names)).min(axis=1, keepdims=True) >= _MIN_OF_CATEGORY
    means = np.exp(safe_ratio(table.logs, table.measured)).reshape(-1, 2, len(table.names))
    failed = safe_ratio(table.failed, table.weight).reshape(-1, 2, len(table.names))
    latency, errors = np.where(enough, means, np.nan), np.where(enough, failed, np.nan)
    return (
        {name: latency[:, :, place] for place, name in enumerate(table.names)},
        {name: errors[:, :, place] for place, name in enumerate(table.names)},
    )


def offered(table: CategoryTable) -> Floats:
    """Log of the requests, and of the work, that arrived in one slot of each pair over that in the other: (pairs, 2).

    Of the two the requests are counted better, the work says more where the mix changes. Work is the number of requests
    times the geometric mean cost of their category in all pairs before; 0 where none is known yet.
    """
    shape = (-1, 2, len(table.names))
    logs, measured = (each.reshape(shape).sum(axis=1) for each in (table.logs, table.measured))
    past = safe_ratio(np.cumsum(logs, axis=0) - logs, np.cumsum(measured, axis=0) - measured)
    level = np.where(np.isfinite(past), np.exp(past), 0.0)
    work = (table.weight.reshape(shape) * level[:, None, :]).sum(axis=2)
    both = np.stack([table.weight.reshape(shape).sum(axis=2), work], axis=1)
    ratio = safe_ratio(both[:, :, 1], both[:, :, 0])
    return np.log(np.where(ratio > 0, ratio, 1.0))


def weighted_quantiles(values: Floats, weight: Floats, place: Ints, count: int, share: float) -> Floats:
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


def typical(values: dict[str, Floats], metrics: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The medians of each metric's two columns, over the rows that have both; NaN where none has."""
    found = {}
    for name in metrics:
        known = values[name][np.isfinite(values[name]).all(axis=1)]
        middle = np.median(known, axis=0) if len(known) else np.full(2, np.nan)
        found[name] = (float(middle[0]), float(middle[1]))
    return found
