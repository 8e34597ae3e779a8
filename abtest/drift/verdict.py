"""From report to verdict: has the world changed since the model was trained, and is the data fit to judge by."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.abtest.drift.cells import CellShift, shifted_cells, told
from fingerpost.abtest.drift.frames import Predict, checked_frames
from fingerpost.abtest.drift.report import Column, DataTest, Limits, run_report
from fingerpost.abtest.results import DRIFT, NO_DRIFT, TOO_LITTLE, DriftResult
from fingerpost.features.definition import NAIVE, TARGETS, naive_column
from fingerpost.settings import Settings
from fingerpost.training.evaluate import log_mae

# Below this share of the reference's hosts, what is measured is not the fleet.
_MIN_HOSTS = 0.5


@dataclass
class DriftVerdict:
    """What a drift report comes to.

    Args:
        verdict: drift, no drift, or too little data.
        reasons: of drift, in words.
        skill: of the model on the rows now, target by target; None where it cannot be told.
        skill_then: mean over the targets when it was registered.
        skill_fell: whether the mean fell by more than `skill_fall`.
        snapshot: Evidently's, to be saved; not part of the JSON.
    """

    model_name: str
    model_version: str
    verdict: str
    reasons: list[str]
    rows: dict[str, int]
    span: dict[str, str]
    columns: list[Column] = field(default_factory=list)
    tests: list[DataTest] = field(default_factory=list)
    cells: list[CellShift] = field(default_factory=list)
    cells_looked_at: int = 0
    skill: dict[str, float | None] = field(default_factory=dict)
    skill_then: float | None = None
    skill_fell: bool = False
    snapshot: Any = None

    @property
    def retrain(self) -> bool:
        """Whether it asks for a new training."""
        return self.verdict == DRIFT or self.skill_fell

    def result(self) -> DriftResult:
        """The result that is logged, and read by the promotion's gates."""
        failed = [test.description for test in self.tests if not test.passed]
        passed = not failed if self.verdict != TOO_LITTLE else None
        columns = [{**asdict(each), "drifted": each.drifted} for each in self.columns]
        names = ("model_name", "model_version", "verdict", "reasons", "rows", "span", "retrain", "cells_looked_at")
        return DriftResult.model_validate({
            "format": 1,
            **{name: getattr(self, name) for name in (*names, "skill", "skill_then", "skill_fell")},
            "data": {"passed": passed, "failed": failed, "tests": len(self.tests)},
            "columns": columns,
            "cells": [asdict(each) for each in self.cells[:100]],
            "cells_changed": len(self.cells),
        })  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The plain values of the result."""
        return self.result().to_json()


def drift_verdict(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    predict_log: Predict,
    settings: Settings,
    model_version: str,
    learned_until: datetime,
    skill_then: float | None = None,
) -> DriftVerdict:
    """Compares the rows a model was trained on with those since.

    It is drift if throughput or the model's errors drifted as a whole, if more than `drift_cell_share` of the cells
    changed by more than `drift_cell_ratio`, or if at least `drift_share` of all columns drifted.

    Args:
        reference, current: training rows.
        predict_log: the model.
        learned_until: the last time it learned from; the reference's rows after it were only tested on.
        skill_then: its mean skill when it was registered.
    """
    rows = {"reference": len(reference), "current": len(current)}
    found = DriftVerdict(settings.model_name, model_version, TOO_LITTLE, [], rows, _span(reference, current))
    if min(rows.values()) < settings.drift_min_rows:
        found.reasons = [f"{rows['current']} rows since {rows['reference']} before, {settings.drift_min_rows} needed"]
        return found
    before, now = checked_frames(reference, current, predict_log, settings.drift_max_rows, learned_until)
    limits = Limits(
        settings.drift_distance, settings.drift_min_rows, settings.drift_max_missing, settings.drift_max_outside
    )
    name = f"{settings.service} version {model_version}"
    found.columns, found.tests, found.snapshot = run_report(before, now, limits, name, [model_version])
    found.tests.append(_hosts_test(reference, current))
    found.cells, found.cells_looked_at = shifted_cells(before, now, settings.drift_cell_ratio)
    found.reasons = _reasons(found, settings)
    found.verdict = DRIFT if found.reasons else NO_DRIFT
    found.skill = {target: _skill(now, target) for target in TARGETS}
    known = [value for value in found.skill.values() if value is not None]
    found.skill_then = skill_then
    if known and skill_then is not None:
        found.skill_fell = skill_then - sum(known) / len(known) > settings.skill_fall
    return found


def _reasons(found: DriftVerdict, settings: Settings) -> list[str]:
    reasons = [
        f"{each.name} drifted: distance {each.distance:.2f} > {each.threshold:g}"
        for each in found.columns
        if each.drifted and each.counts_alone
    ]
    drifted = [each.name for each in found.columns if each.drifted]
    if found.columns and len(drifted) >= settings.drift_share * len(found.columns):
        reasons.append(f"{len(drifted)} of {len(found.columns)} columns drifted: {', '.join(drifted)}")
    changed = {(each.host, each.category) for each in found.cells}
    if len(changed) > settings.drift_cell_share * found.cells_looked_at:
        reasons.append(f"{len(changed)} of {found.cells_looked_at} cells changed: {told(found.cells)}")
    return reasons


def _hosts_test(reference: pd.DataFrame, current: pd.DataFrame) -> DataTest:
    known = set(reference["host"].astype("str"))
    present = known & set(current["host"].astype("str"))
    share = len(present) / len(known)
    text = f"{len(present)} of {len(known)} hosts are heard of, at least {_MIN_HOSTS:.0%} needed"
    return DataTest("hosts heard of", share >= _MIN_HOSTS, text)


def _skill(now: pd.DataFrame, target: str) -> float | None:
    """1 - error / error of the best naive forecast, on rows the model has not seen."""
    actual = now[f"actual_{target}"]
    model = log_mae(actual, now[f"forecast_{target}"])
    naive = min(log_mae(actual, now[naive_column(view, target)]) for view in NAIVE)
    return _finite(1 - model / naive) if naive > 0 else None


def _span(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, str]:
    return {
        f"{name}_{edge}": getattr(rows["time"], pick)().isoformat()
        for name, rows in (("reference", reference), ("current", current))
        if not rows.empty
        for edge, pick in (("from", "min"), ("to", "max"))
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
