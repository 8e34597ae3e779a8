"""The Evidently report: distances column by column, quality of the predictions, and data tests."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.abtest.drift.frames import MIX, MODEL_COLUMNS, TRAFFIC_COLUMNS, by_requests
from fingerpost.features.definition import TARGETS
from fingerpost.shown import plotly_label

# A value is far outside where it is ten times what the reference's extremes are, or a tenth.
_FAR = math.log(10)
# The page holds all that it shows, and is to have no way to anything else.
_POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; form-action 'none'; base-uri 'none'\">"
)


@dataclass(frozen=True)
class Column:
    """One checked column; `distance` is NaN where it could not be told.

    Args:
        counts_alone: whether drift of this column alone is drift.
    """

    name: str
    method: str
    distance: float
    threshold: float
    counts_alone: bool

    @property
    def drifted(self) -> bool:
        return self.distance > self.threshold


@dataclass(frozen=True)
class DataTest:
    """A data test, with Evidently's words for it."""

    name: str
    passed: bool
    description: str


@dataclass(frozen=True)
class Limits:
    """Thresholds, from the settings of the same names."""

    distance: float
    min_rows: int
    max_missing: float
    max_outside: float


def run_report(
    reference: pd.DataFrame, current: pd.DataFrame, limits: Limits, name: str, tags: list[str]
) -> tuple[list[Column], list[DataTest], Any]:
    """Compares two frames of `checked_frames`.

    Distances are Wasserstein's in units of the reference's standard deviation, for text Jensen and Shannon's: unlike
    probabilities they do not grow with the number of rows. Rows are drawn by their requests.

    Returns:
        Columns, data tests, and Evidently's snapshot, to be saved.
    """
    from evidently import DataDefinition, Dataset, Regression, Report

    wide = [
        *MODEL_COLUMNS,
        *TRAFFIC_COLUMNS,
        *(f"{kind}_{each}" for each in TARGETS for kind in ("actual", "forecast")),
    ]
    sides = [_shown(by_requests(frame)[wide]) for frame in (reference, current)]
    usable = [
        column for column in (*MODEL_COLUMNS, *TRAFFIC_COLUMNS) if all(side[column].notna().any() for side in sides)
    ]
    numeric = [column for column in wide if column not in MIX]
    definition = DataDefinition(
        numerical_columns=numeric,
        categorical_columns=list(MIX),
        regression=[Regression(name=each, target=f"actual_{each}", prediction=f"forecast_{each}") for each in TARGETS],
    )
    report = Report(
        [*_quality_metrics(sides[0], sides[1], limits), *_drift_metrics(usable, limits), *_regression_metrics(sides)],
        include_tests=True,
        tags=tags,
    )
    snapshot = report.run(*(Dataset.from_pandas(side, definition) for side in reversed(sides)), name=name)
    found = snapshot.dict()
    columns = [
        Column(
            metric["config"]["column"],
            metric["config"]["method"],
            float(metric["value"]),
            limits.distance,
            metric["config"]["column"] in MODEL_COLUMNS,
        )
        for metric in found["metrics"]
        if metric["config"]["type"].endswith("ValueDrift")
    ]
    tests = [
        DataTest(test["name"], test["status"] == "SUCCESS", test["description"])
        for test in found["tests"]
        if not test["metric_config"]["params"]["type"].endswith("ValueDrift")
    ]
    return columns, tests, snapshot


def page(snapshot: Any) -> str:
    """Evidently's page of a snapshot, as one HTML file that loads and sends nothing."""
    return str(snapshot.get_html_str(as_iframe=False)).replace("<head>", f"<head>{_POLICY}", 1)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names as pages may hold them: Evidently writes them into a script, as they are."""
    return frame.assign(**{column: frame[column].map(plotly_label) for column in MIX})


def _drift_metrics(usable: list[str], limits: Limits) -> list[Any]:
    from evidently.metrics import ValueDrift

    return [
        ValueDrift(column=column, method="jensenshannon" if column in MIX else "wasserstein", threshold=limits.distance)
        for column in usable
    ]


def _quality_metrics(reference: pd.DataFrame, current: pd.DataFrame, limits: Limits) -> list[Any]:
    from evidently.metrics import MissingValueCount, OutRangeValueCount, RowCount
    from evidently.tests import gte, lte

    metrics: list[Any] = [RowCount(tests=[gte(limits.min_rows)])]
    for target in TARGETS:
        column = f"actual_{target}"
        allowed = float(reference[column].isna().mean()) + limits.max_missing
        metrics.append(MissingValueCount(column=column, share_tests=[lte(allowed)]))
        if reference[column].notna().any() and current[column].notna().any():
            low, high = float(reference[column].min()) - _FAR, float(reference[column].max()) + _FAR
            metrics.append(
                OutRangeValueCount(column=column, left=low, right=high, share_tests=[lte(limits.max_outside)])
            )
    return metrics


def _regression_metrics(sides: list[pd.DataFrame]) -> list[Any]:
    from evidently.metrics import MAE, MeanError

    found = []
    for target in TARGETS:
        errors = [side[f"actual_{target}"] - side[f"forecast_{target}"] for side in sides]
        if all(np.isfinite(error).any() for error in errors):
            # Without tests: what an error may be is what the residual's distance and the skill say.
            found += [MAE(regression_name=target, mean_tests=[]), MeanError(regression_name=target, mean_tests=[])]
    return found
