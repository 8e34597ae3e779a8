"""The picker's table out of the engine's: costs instead of predictions, with the settings of this router."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats, Floats32
from fingerpost.category import OTHER
from fingerpost.errors import FingerpostError
from fingerpost.routing.cost import FAILURE_POWER, cost_terms, exploration_weight, service_time
from fingerpost.routing.guard import Bools, Correction
from fingerpost.routing.table_file import POLICIES, Arm, PickerSettings, PickerTable, arms_of_shares
from fingerpost.settings import Settings

# No request is sent for the sake of knowledge where it is likelier to fail than not.
_LEAST_SUCCESS = 0.5


def picker_settings(settings: Settings) -> PickerSettings:
    """The part of the settings that goes with every table."""
    return PickerSettings(
        settings.scan_limit,
        settings.sample_hosts,
        settings.fallback_choices,
        settings.exploration,
        settings.arm_by,
        settings.arm_header,
        settings.arm_seconds,
        settings.arm_salt,
    )


def picker_arms(settings: Settings, model_version: str, arm: str = "") -> tuple[Arm, ...]:
    """The arms that the settings name; if they name none one that predicts, and the hold-out of least request.

    Args:
        arm: of the experiment that the engine's table is of; it is the one arm's name where the settings name none.

    Raises:
        FingerpostError: a policy that pickers do not know, or no share above 0.
    """
    if not settings.arm_shares and settings.holdout > 0:
        predicted = Arm(arm or "main", "fingerpost", 0, 1.0, model_version)
        held_out = Arm("least_request", "least_request", 0, 1.0, model_version)
        return arms_of_shares([(predicted, 1 - settings.holdout), (held_out, settings.holdout)])
    shares = settings.arm_shares or {"fingerpost": 1.0}
    if unknown := set(shares) - set(POLICIES):
        raise FingerpostError(f"arm_shares: unknown policy {sorted(unknown)[0]!r}: use {', '.join(POLICIES)}")
    if not sum(shares.values()) > 0 or min(shares.values()) < 0:
        raise FingerpostError("arm_shares: shares must be at least 0, and one above it")
    if len(shares) == 1:
        name = arm if arm and not settings.arm_shares else "main"
        return (Arm(name, next(iter(shares)), 0, 1.0, model_version),)
    return arms_of_shares([(Arm(policy, policy, 0, 1.0, model_version), share) for policy, share in shares.items()])


@dataclass(frozen=True)
class Predictions:
    """What the engine says of a service.

    Args:
        arm: of the experiment that it is of, if any.
        weights, slots, inflight: of the hosts, shape (hosts,); slots, and requests in flight as last told, are NaN
            where a host does not tell them.
        throughput_rps, latency_s, success_rate: shape (categories, hosts); NaN where nothing can be said.
        evidence: requests that they are of, older ones weighing less, same shape; NaN where there were none.
    """

    version: str
    model_version: str
    expires_us: int
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    routes: tuple[str, ...]
    weights: Floats
    slots: Floats
    inflight: Floats
    throughput_rps: Floats
    latency_s: Floats
    success_rate: Floats
    evidence: Floats
    arm: str = ""


def predictions_from_json(data: Mapping[str, Any]) -> Predictions:
    """What the JSON of `GET /v1/services/{service}/table` says.

    Raises:
        FingerpostError: `data` is not such a table.
    """
    try:
        hosts = data["hosts"]
        names = tuple(str(host["name"]) for host in hosts)
        categories = tuple(str(name) for name in data["categories"])
        throughput, latency, success = (
            _matrix(data[name], len(categories), len(names))
            for name in ("throughput_rps", "latency_p50_s", "success_rate")
        )
        # Engines before this one do not tell it.
        evidence = (
            _matrix(data["evidence"], *throughput.shape) if "evidence" in data else np.full(throughput.shape, np.nan)
        )
        weights = np.array([host.get("weight", 1.0) for host in hosts], dtype=np.float64)
        slots, inflight = (
            np.array([host.get(name) for host in hosts], dtype=np.float64) for name in ("slots", "inflight")
        )
        expires_us = round(float(data["expires_at"]) * 1e6)
        routes, version = tuple(map(str, data["routes"])), str(data["version"])
        model_version, arm = str(data.get("model_version") or ""), str(data.get("arm") or "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FingerpostError(f"the engine's table does not fit: {error!r}") from error
    return Predictions(
        version,
        model_version,
        expires_us,
        names,
        categories,
        routes,
        weights,
        slots,
        inflight,
        throughput,
        latency,
        success,
        evidence,
        arm,
    )


def table_from_json(data: Mapping[str, Any], settings: Settings, created_us: int) -> PickerTable:
    """The picker's table out of the JSON of `GET /v1/services/{service}/table`.

    Raises:
        FingerpostError: `data` is not such a table.
    """
    return table_of(predictions_from_json(data), settings, created_us)


def table_of(
    predictions: Predictions, settings: Settings, created_us: int, correction: Correction | None = None
) -> PickerTable:
    """The picker's table out of what the engine says, corrected by what the guard found."""
    names, categories = predictions.hosts, predictions.categories
    if correction is not None:
        settings = settings.model_copy(update={"prediction_trust": correction.trust})
    slope, offset = picker_cells(
        *(predictions.throughput_rps, predictions.latency_s, predictions.success_rate),
        *(predictions.weights, settings, np.where(np.isfinite(predictions.inflight), predictions.slots, np.nan)),
    )
    if correction is not None:
        factor = correction.cost_factor.T.astype(np.float32)
        slope[:, :-1] *= factor
        offset[:, :-1] *= factor
    explore = explore_weights(slope + offset, predictions, settings.exploration_within, correction)
    fails = likely_failures(predictions, correction)
    explore, exploration = with_joining(explore, settings.exploration, slope, predictions.weights, fails)
    if OTHER not in categories:
        # Requests of no known category fall back; a row of nothing says so.
        categories = (*categories, OTHER)
        slope = np.concatenate([slope, np.full((1, len(names) + 1), np.inf, dtype=np.float32)])
        offset = np.concatenate([offset, np.zeros((1, len(names) + 1), dtype=np.float32)])
        explore = np.concatenate([explore, np.zeros((1, len(names) + 1), dtype=np.float32)])
    return PickerTable(
        predictions.version,
        created_us,
        predictions.expires_us,
        names,
        categories,
        predictions.routes,
        slope[None],
        offset[None],
        picker_arms(settings, predictions.model_version, predictions.arm),
        replace(picker_settings(settings), exploration=exploration),
        explore[None],
    )


def explore_weights(
    idle_cost: Floats32, predictions: Predictions, within: float, correction: Correction | None = None
) -> Floats32:
    """The weights for exploration (`cost.exploration_weight`): 0 also where a request would be likely to fail.

    Args:
        idle_cost: of a request where nothing is in flight, shape (categories, hosts + 1).

    Returns:
        Same shape; the last column is for hosts of which nothing is known.
    """
    evidence = np.append(predictions.evidence, np.zeros((len(idle_cost), 1)), axis=1)
    weights = exploration_weight(idle_cost, evidence, within)
    weights[:, :-1][likely_failures(predictions, correction)] = 0.0
    return weights.astype(np.float32)


def likely_failures(predictions: Predictions, correction: Correction | None) -> Bools:
    """Where a request is likelier to fail than to be served, shape (categories, hosts)."""
    fails = predictions.success_rate < _LEAST_SUCCESS
    if correction is not None:
        fails = fails | (correction.cost_factor.T >= _LEAST_SUCCESS**-FAILURE_POWER)
    return np.asarray(fails)


def with_joining(
    explore: Floats32, exploration: float, slope: Floats32, weights: Floats, fails: Bools
) -> tuple[Floats32, float]:
    """Sends hosts that are being ramped up a share of the requests of their own, whatever they are said to cost.

    By its cost alone a new host is left until all better ones are busy, and nothing is learned of it. So each gets its
    weight times an even share of every category; less, in proportion, of one in which it is slower than half of the
    hosts, and none where requests are likely to fail. It begins small, since caches are cold, and is no herd, since it
    does not depend on costs. To pickers it is exploration, with exact propensities; the rest of that goes on as before.

    Args:
        explore: weights for exploration, shape (categories, hosts + 1).
        exploration: share of the requests that is explored without it.
        slope: of the costs, which rise where a host's weight is low, same shape.
        weights: of the hosts, below 1 where they are being ramped up, shape (hosts,).
        fails: shape (categories, hosts).

    Returns:
        Weights, and the share of the requests that is explored in all.
    """
    joins = weights < 1
    if not joins.any() or not len(explore):
        return explore, exploration
    usable = np.isfinite(slope[:, :-1]) & (weights > 0)
    speed = np.where(usable, 1 / np.where(usable, slope[:, :-1] * weights, 1.0), np.nan)
    own = np.nan_to_num(np.minimum(speed / _medians(speed), 1.0)) * np.where(
        joins & ~fails, weights / len(weights), 0.0
    )
    most = float(own.sum(axis=1).max())
    whole = most + exploration * (1 - most)
    if whole <= 0:
        return explore, exploration
    others = np.where(joins, 0.0, explore[:, :-1])
    idle = np.where(usable & ~joins, speed, -np.inf)
    nobody = ~others.any(axis=1) & np.isfinite(idle).any(axis=1)
    others[nobody, idle[nobody].argmax(axis=1)] = 1.0
    total = others.sum(axis=1, keepdims=True)
    scale = (1 - own.sum(axis=1, keepdims=True) / whole) / np.where(total > 0, total, 1.0)
    made = np.concatenate([own / whole + others * scale, explore[:, -1:] * scale], axis=1)
    return np.clip(made, 0.0, 1.0).astype(np.float32), whole


def picker_cells(
    throughput_rps: Floats,
    latency_s: Floats,
    success_rate: Floats,
    weights: Floats,
    settings: Settings,
    slots: ArrayLike = np.nan,
) -> tuple[Floats32, Floats32]:
    """The cost's terms for every category and host, and a last column for hosts that are not in the table.

    Where nothing is known of a pair (NaN), and for unknown hosts, the category's median stands in: a new host gets its
    share of the traffic and is measured. A throughput of 0 says that the host cannot serve, and stays.

    Args:
        throughput_rps, latency_s, success_rate: shape (categories, hosts).
        weights: of the hosts, above 0 (slow start), shape (hosts,).
        slots: requests that the hosts work on at once, shape (hosts,); NaN where they do not tell, or do not tell how
            many are in flight. A request's own latency does not count where all are so: against a proxy's own few
            requests it would outweigh those that are there.

    Returns:
        Slope and offset, shape (categories, hosts + 1).
    """
    service = service_time(throughput_rps, latency_s, slots)
    rate, service, success = (
        np.concatenate([values, np.full((len(values), 1), np.nan)], axis=1)
        for values in (throughput_rps, service, success_rate)
    )
    rate, service = (_trusted(values, settings.prediction_trust) for values in (rate, service))
    success = np.where(np.isnan(success), 1.0, success)
    rate = rate * np.append(np.where(weights > 0, weights, 1.0), 1.0)
    slope, offset = cost_terms(rate, np.nan_to_num(service), success, settings.latency_weight)
    return slope.astype(np.float32), np.where(np.isfinite(slope), offset, 0.0).astype(np.float32)


def _trusted(values: Floats, trust: float) -> Floats:
    """Values with what is not known at the row's median, and their ratios to that raised to `trust`."""
    median = _medians(np.where(values > 0, values, np.nan))
    values = np.where(np.isnan(values), median, values)
    return np.where(values > 0, np.where(values > 0, values / median, 1.0) ** trust * median, values)


def _medians(values: Floats) -> Floats:
    """Medians of the known values of each row, shape (rows, 1); NaN where none is known."""
    none = np.isnan(values).all(axis=1, keepdims=True)
    return np.where(none, np.nan, np.nanmedian(np.where(none, 1.0, values), axis=1, keepdims=True))


def _matrix(rows: Sequence[Sequence[float | None]], categories: int, hosts: int) -> Floats:
    values = np.array(rows, dtype=np.float64).reshape(categories, hosts)
    return np.where(np.isinf(values), np.nan, values)
