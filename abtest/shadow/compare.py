"""Champion and challenger by what they predicted for the same cells, before the challenger routes anything."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from fingerpost.abtest.experiment.confidence import (
    Estimate,
    clustered_mean,
    paired_sequence,
    time_blocks,
)
from fingerpost.abtest.results import ComparisonResult
from fingerpost.arrays import Floats, safe_ratio
from fingerpost.clock import US
from fingerpost.experiment import ALIASES, CHALLENGER, CHAMPION
from fingerpost.features.definition import TARGETS
from fingerpost.features.windows import numbers
from fingerpost.routing.cost import routing_cost
from fingerpost.telemetry.windows import LATENCY_SHARES
from fingerpost.training.calibration import PROMISED

MIN_ROWS, MIN_EFFECTIVE, MIN_SHADOW_BLOCKS = 100, 50, 3
# Of mean errors on a log scale between two versions.
_USUAL_DIFFERENCE = 0.02
_MAX_NAMES = 100


@dataclass(frozen=True)
class Comparison:
    """Errors of both on the same rows.

    Args:
        rows: outcomes compared.
        champion, challenger: mean error (`shadow_errors`), or mean regret.
        naive: the same of the cell's last window, where there was one; NaN for regret.
        difference: challenger less champion; below 0 the challenger is better.
        skill: 1 - challenger / champion; above 0 the challenger is better.
    """

    rows: int
    champion: float
    challenger: float
    naive: float
    difference: Estimate
    skill: float


@dataclass(frozen=True)
class ShadowReport:
    """What shadow scoring says.

    Args:
        status: of the challenger, by its errors over all targets; `insufficient`: too few outcomes to tell.
        reason: the same as a sentence.
        versions: of champion and challenger; empty without predictions.
        rows, blocks: outcomes, and blocks of a fixed length that are over and have some.
        errors: by target, and `all`, the mean over the targets.
        regret: (true cost of the host that a model would choose) / (that of the best) - 1, over windows and categories
            that traffic reached on several hosts.
        by_host, by_category: the names with the most outcomes, each with its errors (`all` targets).
        regret_by_category: the same of regret.
    """

    status: Literal["better", "worse", "no difference", "insufficient"]
    reason: str
    versions: tuple[str, str]
    rows: int
    blocks: int
    errors: Mapping[str, Comparison] = field(default_factory=dict)
    regret: Comparison | None = None
    by_host: Mapping[str, Comparison] = field(default_factory=dict)
    by_category: Mapping[str, Comparison] = field(default_factory=dict)
    regret_by_category: Mapping[str, Comparison] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; numbers that are not finite are None."""
        return dict(to_jsonable_python(self, inf_nan_mode="null"))

    def result(self) -> ComparisonResult:
        """The result that is logged, and read by the promotion's gates.

        Raises:
            FingerpostError: there are too few outcomes to tell anything.
        """
        champion, challenger = self.versions
        about = {"verdict": self.status, "samples": self.rows, "champion": champion, "challenger": challenger}
        return ComparisonResult.read({**self.to_json(), **about})


def compare(
    joined: pd.DataFrame, latency_weight: float = 0.0, alpha: float = 0.05, block_s: float = 600.0
) -> ShadowReport:
    """Compares the latest two versions in `shadow_join.join_outcomes`.

    Errors are weighted by the rows' weights, and paired: both models predict the same rows, so what is common to them
    cancels. What decides is the sequence of the differences of blocks of a fixed length, which holds at every look;
    all other intervals are over blocks of the time so far, and hold at one.

    Args:
        block_s: length of the blocks that decide, seconds; longer than errors depend on each other.
        latency_weight: of the routing cost, see `fingerpost.routing.cost`.
    """
    if joined.empty:
        return ShadowReport("insufficient", "no prediction has an outcome yet", ("", ""), 0, 0)
    last = joined.iloc[int(joined["time_us"].to_numpy(np.int64).argmax())]
    versions = (str(last["champion_version"]), str(last["challenger_version"]))
    same = (joined["champion_version"] == versions[0]) & (joined["challenger_version"] == versions[1])
    rows = joined[same].reset_index(drop=True)
    errors = prediction_errors(rows)
    block = time_blocks(rows["end_us"])
    weight = rows["weight"].to_numpy(np.float64)
    by_target = {
        target: _comparison({side: errors[side][:, place] for side in errors}, block, weight, alpha)
        for place, target in enumerate(TARGETS)
    }
    overall = {side: _row_means(errors[side]) for side in errors}
    by_target["all"] = replace(
        _comparison(overall, block, weight, alpha),
        difference=_sequence(rows["end_us"], overall, weight, alpha, block_s),
    )
    regrets = regret_table(rows, latency_weight)
    regret_values = {side: regrets[side].to_numpy(np.float64) for side in ALIASES}
    regret_block = time_blocks(regrets["end_us"]) if len(regrets) else np.zeros(0, dtype=np.int64)
    effective = float(weight.sum() ** 2 / max(float(np.square(weight).sum()), 1e-300))
    status, reason = _status(by_target["all"], effective)
    return ShadowReport(
        status,
        reason,
        versions,
        len(rows),
        by_target["all"].difference.blocks,
        by_target,
        _comparison(regret_values, regret_block, np.ones(len(regrets)), alpha),
        _by(rows["host"], overall, block, weight, alpha),
        _by(rows["category"], overall, block, weight, alpha),
        _by(regrets["category"], regret_values, regret_block, np.ones(len(regrets)), alpha),
    )


def regret_table(rows: pd.DataFrame, latency_weight: float = 0.0) -> pd.DataFrame:
    """`end_us`, `category`, `champion`, `challenger`: the regret of the host that each would have chosen.

    Cost is that of the next request at the host's load, by throughput, or by median latency where no throughput was
    measured. Only hosts that traffic reached can be compared: a lower bound of what could have been gained.
    """
    target = "throughput_rps" if np.isfinite(numbers(rows["actual_throughput_rps"])).any() else "latency_p50_s"

    def cost(side: str) -> Floats:
        if target == "latency_p50_s":
            return numbers(rows[f"{side}_{target}"])
        rate, latency = numbers(rows[f"{side}_throughput_rps"]), numbers(rows[f"{side}_latency_p50_s"])
        return routing_cost(numbers(rows["inflight"]), rate, latency, 1.0, latency_weight)

    costs = {"true": cost("actual"), **{side: cost(side) for side in ALIASES}}
    known = np.isfinite(np.stack(list(costs.values()))).all(axis=0)
    table = pd.DataFrame({"end_us": rows["end_us"], "category": rows["category"], **costs})
    table = table[pd.Series(known)].reset_index(drop=True)
    keys = ["end_us", "category"]
    groups = table.groupby(keys, sort=True)
    found = pd.DataFrame({"hosts": groups.size(), "best": groups["true"].min()})
    for side in ALIASES:
        found[side] = table.loc[groups[side].idxmin()].set_index(keys)["true"] / found["best"] - 1
    return found[found["hosts"] > 1].reset_index()


def _sequence(
    end_us: pd.Series, overall: Mapping[str, Floats], weight: Floats, alpha: float, block_s: float
) -> Estimate:
    """The difference of errors by blocks that are over, as a confidence sequence of their centre.

    It takes block means that are as often above their centre as below, and independent: of errors that depend on each
    other over 5 minutes, blocks of 10 minutes are nearly so.
    """
    span = round(block_s * US)
    block = end_us.to_numpy(np.int64) // span
    difference = overall[CHALLENGER] - overall[CHAMPION]
    over = np.isfinite(difference) & (weight > 0) & (block < block.max())
    names, place = np.unique(block[over], return_inverse=True)
    total, stood_for = (np.bincount(place, weights=each[over]) for each in (weight * np.nan_to_num(difference), weight))
    found = paired_sequence(safe_ratio(total, stood_for), alpha, _USUAL_DIFFERENCE)
    if not len(names):
        return Estimate(math.nan, math.nan, math.nan, 0)
    return Estimate(float(found.centre[-1]), float(found.lower[-1]), float(found.upper[-1]), len(names))


def _comparison(values: Mapping[str, Floats], block: NDArray[np.int64], weight: Floats, alpha: float) -> Comparison:
    means = {side: clustered_mean(each, block, weight, alpha).value for side, each in values.items()}
    difference = clustered_mean(values["challenger"] - values["champion"], block, weight, alpha)
    rows = int((np.isfinite(values["champion"]) & (weight > 0)).sum())
    skill = 1 - means["challenger"] / means["champion"] if means["champion"] > 0 else math.nan
    return Comparison(rows, means["champion"], means["challenger"], means.get("naive", math.nan), difference, skill)


def _by(
    names: pd.Series, values: Mapping[str, Floats], block: NDArray[np.int64], weight: Floats, alpha: float
) -> dict[str, Comparison]:
    found = {}
    for name in names.value_counts().index[:_MAX_NAMES]:
        of = (names == name).to_numpy()
        found[str(name)] = _comparison({side: each[of] for side, each in values.items()}, block[of], weight[of], alpha)
    return found


def _status(
    overall: Comparison, effective: float
) -> tuple[Literal["better", "worse", "no difference", "insufficient"], str]:
    difference = overall.difference
    if overall.rows < MIN_ROWS or effective < MIN_EFFECTIVE or difference.blocks < MIN_SHADOW_BLOCKS:
        return "insufficient", (
            f"{overall.rows} outcomes, worth {effective:.0f} of equal weight, in {difference.blocks} blocks of time "
            f"are too few: at least {MIN_ROWS}, {MIN_EFFECTIVE} and {MIN_SHADOW_BLOCKS} are needed"
        )
    interval = f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    if difference.high < 0:
        return "better", f"its mean error is lower: {interval}"
    if difference.low > 0:
        return "worse", f"its mean error is higher: {interval}"
    return "no difference", f"mean errors cannot be told apart: {interval}"


def _row_means(errors: Floats) -> Floats:
    known = np.isfinite(errors)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(known, errors, 0.0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
        )


TAIL = "latency_p99_s"
_MIN_WIDTH = 1e-9


def prediction_errors(rows: pd.DataFrame) -> dict[str, Floats]:
    """Of `champion`, `challenger` and `naive` the losses, each of shape (rows, TARGETS), on a log scale.

    Throughput and median latency: |log predicted - log measured|. p99: `tail_loss`, since a window of few requests has
    no p99 to compare with: what 99 of 100 requests stay under is well above all that most of them measured.

    Args:
        rows: of `shadow_join.join_outcomes`.

    Returns:
        NaN where champion or challenger cannot be compared: both are judged by the same outcomes.
    """
    actual = _logs(rows, "actual", TARGETS)
    marks = _logs(rows, "actual", tuple(LATENCY_SHARES))
    tail, errors = TARGETS.index(TAIL), {}
    for side in (*ALIASES, "naive"):
        predicted = _logs(rows, side, TARGETS)
        errors[side] = np.abs(predicted - actual)
        errors[side][:, tail] = tail_loss(marks, predicted[:, tail])
    both = np.isfinite(errors[CHAMPION]) & np.isfinite(errors[CHALLENGER])
    return {side: np.where(both, values, np.nan) for side, values in errors.items()}


def tail_loss(marks: Floats, predicted: Floats, share: float = PROMISED[TAIL]) -> Floats:
    """Twice the mean pinball loss of a predicted quantile over the requests of each window.

    The pinball loss is least, on average, for the true quantile, however few requests a window has (Koenker and
    Bassett, Regression quantiles, 1978); where the share is 0.5, twice of it is the absolute error. The durations of a
    window are taken to lie, on a log scale, evenly between its marks; those below p50 at p50, since all predictions
    above it gain alike by how far below they are; those above p99 at p99.

    Args:
        marks: logs of p50, p90, p99, shape (n, 3), not falling.
        predicted: logs, shape (n,).
        share: that of requests which should lie under the prediction, 0..1.
    """
    points = np.column_stack([marks[:, :1], marks, marks[:, -1:]])
    shares = np.diff([0.0, *LATENCY_SHARES.values(), 1.0])
    low, high = points[:, :-1], points[:, 1:]
    middle, value = (low + high) / 2, predicted[:, None]
    width = np.maximum(high - low, _MIN_WIDTH)
    within = np.square(high - value) / (2 * width)
    above = np.where(value <= low, middle - value, np.where(value >= high, 0.0, within))
    below = above - (middle - value)
    return np.asarray(2 * ((share * above + (1 - share) * below) * shares).sum(axis=1))


def _logs(rows: pd.DataFrame, side: str, names: tuple[str, ...]) -> Floats:
    values = np.stack([numbers(rows[f"{side}_{name}"]) for name in names], axis=1)
    return np.log(np.where(values > 0, values, np.nan))
