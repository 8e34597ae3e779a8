"""Fits LightGBM to the corrections of blended naive forecasts, with a loss that keeps monotone constraints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.errors import NoDataError
from fingerpost.features.definition import FEATURES, TARGETS, TIME_FEATURES
from fingerpost.training.bins import BINNING, Bins
from fingerpost.training.bundle import Blend, Encoder, ModelBundle
from fingerpost.training.loss import loss_of, quantile_objective
from fingerpost.workers import THREADS, Workers

DEFAULT_PARAMS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 24,
    "min_data_in_leaf": 80,
    "feature_fraction": 0.2,
    "bagging_fraction": 0.7,
    "lambda_l2": 5.0,
}
_FIXED: dict[str, Any] = {
    **BINNING,
    "metric": "None",
    "bagging_freq": 1,
    "boost_from_average": False,
    "min_data_per_group": 200,
}
ROUNDS = 300
_PATIENCE = 40
_MIN_ROUNDS = 20
# A tree sees at most about this many rows: more add time, and nothing to a tree of a few leaves.
_TREE_ROWS = 200_000
# Weight of a simulated cold start, beside a row that happened.
_COLD_START_WEIGHT = 0.5
# Columns that the weight of a training row is made of.
WEIGHT_COLUMNS = ("requests", "cold_start", "weight")
# Before this long there is no telling the time of day or week from the course of time.
_DAYS = {"day": 3.0, "week": 15.0}
# Physics: more requests on a host never make it faster; fewer cores never give more throughput.
_MONOTONE: dict[str, dict[str, int]] = {
    "latency": {"inflight": 1, "host_inflight": 1},
    "throughput": {"host_background_cores": -1, "host_cores": 1, "host_slots": 1},
}


@dataclass(frozen=True)
class TrainingSet:
    """What one target is learned from.

    Args:
        matrix: features, shape (n, features).
        outcome: logs of the target, shape (n,); all finite.
        weight: of each row, shape (n,).
    """

    matrix: Floats
    outcome: Floats
    weight: Floats


@dataclass(frozen=True)
class TargetPart:
    """Rows in bins, for boosters of one target to be fitted to, or stopped by.

    Args:
        blend: what is taken off the outcome.
        data: `lightgbm.Dataset`.
        count: of the rows.
    """

    blend: Blend
    data: Any
    count: int


@dataclass(frozen=True)
class _ToFit:
    """What all targets of a bundle are fitted to.

    Args:
        rows: WEIGHT_COLUMNS and the targets, ordered by time.
        bins: of their features.
        earlier: how many rows, the first, are fitted to find the number of rounds on the others.
        bags: boosters a target.
        rounds: of the targets for which it need not be found.
    """

    rows: pd.DataFrame
    bins: Bins
    earlier: int
    params: dict[str, Any]
    bags: int
    rounds: Mapping[str, int]


def training_set(rows: pd.DataFrame, matrix: Floats, target: str) -> TrainingSet:
    """The rows where a target was measured.

    Raises:
        NoDataError: it never was; of how many rows, and what it takes, is said.
    """
    outcome = rows[target].to_numpy(np.float64)
    known = np.isfinite(outcome)
    if not known.any():
        sampled = ", on hosts that were sampled then," if target == "throughput_rps" else ""
        raise NoDataError(
            f"{target} is known in none of the {len(rows)} windows of this part of the telemetry: it takes requests"
            f"{sampled} that were answered with a status of 100 to 399 and whose duration is known"
        )
    # A window of many requests is measured better; the gain flattens, since load differs within a window too. Rows of
    # which only a share was kept stand for the others.
    weight = np.log1p(rows["requests"].to_numpy(np.float64)[known]) * rows["weight"].to_numpy(np.float64)[known]
    weight = np.where(rows["cold_start"].to_numpy(bool)[known], _COLD_START_WEIGHT * weight, weight)
    return TrainingSet(matrix[known], outcome[known], weight)


def training_matrix(encoder: Encoder, rows: pd.DataFrame) -> Floats:
    """The encoded rows, without what this span of time cannot tell."""
    matrix = encoder.encode(rows)
    span_days = (rows["time"].max() - rows["time"].min()).total_seconds() / 86_400
    hidden = [name for name in TIME_FEATURES if span_days < _DAYS[name.split("_")[0]]]
    if span_days < _DAYS["day"]:
        hidden += ["host_known_s", "holiday"]
    matrix[:, [FEATURES.index(name) for name in hidden]] = np.nan
    return matrix


def target_part(
    bins: Bins, rows: pd.DataFrame, chosen: NDArray[np.bool_], target: str, blend: Blend | None = None
) -> TargetPart:
    """Those of some rows where a target was measured.

    Args:
        rows: WEIGHT_COLUMNS and the target, of the rows of `bins`.
        chosen: which of them, shape (rows,).
        blend: None: it is fitted to them.

    Raises:
        NoDataError: as `training_set`.
    """
    found = training_set(rows[chosen], bins.matrix[chosen], target)
    blend = blend or Blend.fit(found.matrix, found.outcome, target)
    places = np.flatnonzero(chosen & np.isfinite(rows[target].to_numpy(np.float64)))
    left = found.outcome - blend.predict(found.matrix, target)
    return TargetPart(blend, bins.part(places, left, found.weight), len(places))


def fit_booster(
    train: TrainingSet, blend: Blend, target: str, params: dict[str, Any], rounds: int = ROUNDS, seed: int = 7
) -> Any:
    """A booster of what the blend leaves of some rows; raises as `fit_part`."""
    bins, places = Bins(train.matrix, params["min_data_in_leaf"], 1), np.arange(len(train.outcome))
    left = train.outcome - blend.predict(train.matrix, target)
    part = TargetPart(blend, bins.part(places, left, train.weight), len(places))
    return fit_part(part, target, params, None, rounds, seed)


def fit_part(
    train: TargetPart,
    target: str,
    params: dict[str, Any],
    valid: TargetPart | None = None,
    rounds: int = ROUNDS,
    seed: int = 7,
) -> Any:
    """Fits one booster; with `valid`, of the same bins, stopped where that no longer gains.

    Returns:
        A `lightgbm.Booster`; its `best_iteration` is set where there is a `valid`.

    Raises:
        NoDataError: no feature tells the rows apart, or there are too few of them to be told apart.
    """
    import lightgbm

    loss = loss_of(target)
    callbacks: list[Callable[..., Any]] = []
    if valid is not None:
        callbacks = [lightgbm.early_stopping(_PATIENCE, verbose=False)]

    def measured(predicted: Floats, data: Any) -> tuple[str, float, bool]:
        return "loss", loss.measure(predicted, data.get_label(), data.get_weight()), False

    settings = {**_settings(params, train.count, seed), **_constraints(target), "objective": loss.objective}
    try:
        return lightgbm.train(
            settings,
            train.data,
            num_boost_round=rounds,
            valid_sets=[] if valid is None else [valid.data],
            feval=None if valid is None else measured,
            callbacks=callbacks,
        )
    except lightgbm.basic.LightGBMError as error:
        # It leaves out features by which rows cannot be split in two parts that are large enough.
        if "num_features()" not in str(error):
            raise
        raise NoDataError(
            f"{train.count} rows are too few, or too much alike, to learn {target} from: measure for longer, "
            "while the load changes"
        ) from error


def boosted(matrix: Floats, outcome: Floats, weight: Floats, params: dict[str, Any], rounds: int, seed: int) -> Any:
    """A booster of any features, shape (n, features), with the loss, but not the constraints, of `fit_booster`."""
    import lightgbm

    settings = _settings(params, len(outcome), seed)
    return lightgbm.train(settings, lightgbm.Dataset(matrix, outcome, weight=weight), num_boost_round=rounds)


def fit_bundle(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    params: dict[str, Any],
    targets: Sequence[str] = TARGETS,
    bags: int = 1,
    workers: Workers = THREADS,
) -> ModelBundle:
    """Fits all targets: how many rounds is found on the later rows, then all rows are learned for as many.

    Args:
        train, valid: training rows, the later ones in `valid`.
        bags: boosters a target, whose predictions are averaged.
        workers: who fits, a target each.
    """
    return fit_bundles([(train, valid, targets)], params, bags, workers)[0]


def fit_bundles(
    parts: Sequence[tuple[pd.DataFrame, pd.DataFrame, Sequence[str]]],
    params: dict[str, Any],
    bags: int = 1,
    workers: Workers = THREADS,
) -> list[ModelBundle]:
    """Fits several bundles, all their targets side by side, each as `fit_bundle` would.

    Args:
        parts: of each bundle: `train`, `valid` and `targets`.
    """
    whole = [(pd.concat([train, valid], ignore_index=True), len(train), targets) for train, valid, targets in parts]
    return _fit_all(whole, params, bags, {}, workers)


def refit_bundle(
    bundle: ModelBundle, rows: pd.DataFrame, params: dict[str, Any], workers: Workers = THREADS
) -> ModelBundle:
    """The same model, with as many rounds and the same shifts, learned from other rows: from all there are.

    What is held out to score a model is the latest there is, which the one that serves should know best.

    Args:
        rows: training rows, in order of time.
    """
    bags = len(next(iter(bundle.boosters.values())))
    rounds = {target: boosters[0].num_trees() for target, boosters in bundle.boosters.items()}
    whole = [(rows.reset_index(drop=True), len(rows), bundle.targets)]
    (refitted,) = _fit_all(whole, params, bags, rounds, workers)
    return replace(refitted, shifts=bundle.shifts)


def _fit_all(
    parts: Sequence[tuple[pd.DataFrame, int, Sequence[str]]],
    params: dict[str, Any],
    bags: int,
    rounds: Mapping[str, int],
    workers: Workers,
) -> list[ModelBundle]:
    encoders = [Encoder.fit(rows) for rows, _, _ in parts]
    shared = tuple(
        _ToFit(
            rows[[*WEIGHT_COLUMNS, *targets]],
            Bins(training_matrix(encoder, rows), params["min_data_in_leaf"]),
            *(earlier, params, bags, rounds),
        )
        for encoder, (rows, earlier, targets) in zip(encoders, parts, strict=True)
    )
    items = [(number, target) for number, (_, _, targets) in enumerate(parts) for target in targets]
    # A thread a booster, not many threads in one: beside other programs those wait for each other.
    fitted = dict(zip(items, workers.map(_fit_target, items, shared), strict=True))
    return [
        ModelBundle(
            {target: fitted[number, target][1] for target in targets},
            {target: fitted[number, target][0] for target in targets},
            encoder,
        )
        for number, (encoder, (_, _, targets)) in enumerate(zip(encoders, parts, strict=True))
    ]


def _fit_target(parts: tuple[_ToFit, ...], item: tuple[int, str]) -> tuple[Blend, list[Any]]:
    shared, target = parts[item[0]], item[1]
    rows, bins = shared.rows, shared.bins
    rounds = shared.rounds.get(target)
    if not rounds:
        earlier = np.arange(len(rows)) < shared.earlier
        early = target_part(bins, rows, earlier, target)
        late = target_part(bins, rows, ~earlier, target, early.blend)
        rounds = max(_MIN_ROUNDS, int(fit_part(early, target, shared.params, late).best_iteration))
    whole = target_part(bins, rows, np.ones(len(rows), dtype=np.bool_), target)
    seeds = range(7, 7 + shared.bags)
    return whole.blend, [fit_part(whole, target, shared.params, None, rounds, seed) for seed in seeds]


def _settings(params: dict[str, Any], rows: int, seed: int) -> dict[str, Any]:
    """LightGBM's settings; one thread, since a booster is fitted in a thread of its own."""
    bagging = min(params.get("bagging_fraction", 1.0), _TREE_ROWS / rows)
    chosen = {**_FIXED, **params, "bagging_fraction": bagging, "seed": seed, "objective": quantile_objective()}
    return {"num_threads": 1, **chosen}


def _constraints(target: str) -> dict[str, Any]:
    signs = _MONOTONE[target.split("_", maxsplit=1)[0]]
    return {"monotone_constraints": [signs.get(name, 0) for name in FEATURES]}
