"""Replays, request by request, the choices of the router with another model's predictions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.clock import US
from fingerpost.features.windows import in_flight_at, numbers
from fingerpost.routing.cost import choice_probabilities, cost_at, exploration_weight
from fingerpost.routing.picker_table import picker_cells
from fingerpost.settings import Settings


@dataclass(frozen=True)
class Choices:
    """The probability with which a policy sends each request to each host.

    Args:
        hosts: names, in the order of the columns.
        probability: shape (requests, hosts); each known row sums to 1, NaN where nothing was predicted at the time.
    """

    hosts: tuple[str, ...]
    probability: Floats


def replayed_choices(
    records: pd.DataFrame, predictions: pd.DataFrame, side: str, settings: Settings, max_age_s: float
) -> Choices:
    """The router's rule on the predictions of each request's time: least cost at the load of that moment.

    The load is counted from the records themselves: what had begun on a host and not ended. The exploration share is
    the router's own.

    Args:
        records: `time_us` (when they ended), `duration_s`, `host`, `category`; all the traffic, not a sample.
        predictions: the logs of champion and challenger, with `file` and `time_us`.
        side: whose predictions: `champion` or `challenger`.
        max_age_s: predictions older than this are not used.
    """
    hosts = tuple(sorted(set(predictions["host"]) | set(records["host"])))
    ended = records["time_us"].to_numpy(np.int64)
    duration = numbers(records["duration_s"])
    begun = ended - np.round(np.nan_to_num(duration) * US).astype(np.int64)
    probability = np.full((len(records), len(hosts)), np.nan)
    named = records["host"].to_numpy(dtype=object)
    load = np.stack([in_flight_at(begun, begun[named == host], ended[named == host]) for host in hosts], axis=1)
    logs = [part for _, part in predictions.groupby("file", sort=False)]
    logs.sort(key=lambda part: int(part["time_us"].max()))
    # A log is in force from when its youngest fingerprint was made until the next one is.
    known_us = np.array([int(part["time_us"].max()) for part in logs], dtype=np.int64)
    place = np.searchsorted(known_us, begun, side="right") - 1
    category = records["category"].to_numpy(dtype=object)
    for number, part in enumerate(logs):
        of = (place == number) & (begun - known_us[number] <= max_age_s * US)
        if of.any():
            probability[of] = _least_cost(part, side, hosts, category[of], load[of], settings)
    return Choices(hosts, probability)


def _least_cost(
    log: pd.DataFrame,
    side: str,
    hosts: tuple[str, ...],
    category: NDArray[np.object_],
    load: Ints,
    settings: Settings,
) -> Floats:
    def matrix(target: str) -> pd.DataFrame:
        return log.pivot_table(index="category", columns="host", values=f"{side}_{target}", aggfunc="last")

    rate = matrix("throughput_rps")
    latency = matrix("latency_p50_s").reindex(index=rate.index, columns=rate.columns)
    known_rate, known_latency = rate.to_numpy(np.float64), latency.to_numpy(np.float64)
    success, weights = np.ones(rate.shape), np.ones(rate.shape[1])
    # Logs of before hosts' slots were kept have none.
    slots = log.groupby("host")["slots"].last().reindex(rate.columns).to_numpy(np.float64) if "slots" in log else np.nan
    slope, offset = picker_cells(known_rate, known_latency, success, weights, settings, slots)
    row = rate.index.get_indexer(pd.Index(category))
    column = np.array([hosts.index(name) for name in rate.columns], dtype=np.int64)
    found = np.full((len(category), len(hosts)), np.nan)
    known = row >= 0
    cost = cost_at(slope[row[known], :-1], offset[row[known], :-1], load[np.ix_(known, column)])
    # How much was known of each cell when is not in the log: all that are near enough are explored alike.
    idle = cost_at(slope[row[known], :-1], offset[row[known], :-1], 0.0)
    weight = exploration_weight(idle, np.ones(idle.shape), settings.exploration_within)
    chosen = choice_probabilities(cost, settings.exploration, weight)
    # Hosts without a prediction get nothing; where no host can serve, the router would fall back: all stays unknown.
    found[known] = np.where(np.isnan(chosen[:, :1]), np.nan, 0.0)
    found[np.ix_(known, column)] = chosen
    return found
