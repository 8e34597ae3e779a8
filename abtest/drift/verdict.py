"""From report to verdict: has the world changed since the model was trained, and is the data fit to judge by."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.abtest.drift.frames import CELL, LEVEL, RESIDUALS, Predict, checked_frames
from fingerpost.abtest.drift.live import LiveSign
from fingerpost.abtest.drift.report import Column, DataTest, Limits, run_report
from fingerpost.abtest.results import DRIFT, NO_DRIFT, TOO_LITTLE, DriftResult
from fingerpost.features.definition import NAIVE, TARGETS, naive_column
from fingerpost.settings import Settings
from fingerpost.training.evaluate import log_mae

# Signs of live errors that a result tells; those that were found come first.
_MAX_LIVE = 20
_MAX_SIGNS = 3
# Below this share of the reference's hosts, what is measured is not the fleet.
_MIN_HOSTS = 0.5


@dataclass(frozen=True)
class CellShift:
    """A cell that changed.

    Args:
        quantity: `throughput_rps` itself, or `error of TARGET`: of the model.
        ratio: median now over median then; of an error, that of actual over predicted.
    """

    host: str
    category: str
    quantity: str
    ratio: float

    def text(self) -> str:
        return f"{self.host} at {self.category!r}: {self.quantity} is {self.ratio:.2f} times what it was"


@dataclass
class DriftVerdict:
    """What a drift report comes to.

    Args:
        verdict: drift, no drift, or too little data.
        reasons: of drift, in words.
        skill: of the model on the rows now, target by target; None where it cannot be told.
        skill_then: mean over the targets when it was registered.
        skill_fell: whether the mean fell by more than `skill_fall`.
        live: live errors against the interval of the tested windows: the first sign.
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
    live: list[LiveSign] = field(default_factory=list)
    snapshot: Any = None

    @property
    def retrain(self) -> bool:
        """Whether it asks for a new training."""
        return self.verdict == DRIFT or self.skill_fell

    def result(self) -> DriftResult:
        """The result that is logged, and read by the promotion's gates."""
        failed = [test.description for test in self.tests if not test.passed]
        passed = not failed if self.tests else None
        columns = [{**asdict(each), "drifted": each.drifted} for each in self.columns]
        names = ("model_name", "model_version", "verdict", "reasons", "rows", "span", "retrain", "cells_looked_at")
        return DriftResult.model_validate({
            "format": 1,
            **{name: getattr(self, name) for name in (*names, "skill", "skill_then", "skill_fell")},
            "data": {"passed": passed, "failed": failed, "tests": len(self.tests)},
            "columns": columns,
            "cells": [asdict(each) for each in self.cells[:100]],
            "cells_changed": len(self.cells),
            "live": [{**asdict(each), "found": each.found} for each in self.live[:_MAX_LIVE]],
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
    live: Sequence[LiveSign] = (),
) -> DriftVerdict:
    """Compares the rows a model was trained on with those since.

    It is drift if live errors say so, whatever rows there are since; if throughput or the model's errors drifted as a
    whole, if more than `drift_cell_share` of the cells
    changed by more than `drift_cell_ratio`, or if at least `drift_share` of all columns drifted.

    Args:
        reference, current: training rows.
        predict_log: the model.
        learned_until: the last time it learned from; the reference's rows after it were only tested on.
        skill_then: its mean skill when it was registered.
        live: of `live_signs`.
    """
    rows = {"reference": len(reference), "current": len(current)}
    found = DriftVerdict(settings.model_name, model_version, TOO_LITTLE, [], rows, _span(reference, current))
    found.live = list(live)
    signs = [each.text() for each in found.live if each.found][:_MAX_SIGNS]
    if min(rows.values()) < settings.drift_min_rows:
        found.verdict = DRIFT if signs else TOO_LITTLE
        few = f"{rows['current']} rows since {rows['reference']} before, {settings.drift_min_rows} needed"
        found.reasons = [*signs, few]
        return found
    before, now = checked_frames(reference, current, predict_log, settings.drift_max_rows, learned_until)
    limits = Limits(
        settings.drift_distance, settings.drift_min_rows, settings.drift_max_missing, settings.drift_max_outside
    )
    name = f"{settings.service} version {model_version}"
    found.columns, found.tests, found.snapshot = run_report(before, now, limits, name, [model_version])
    found.tests.append(_hosts_test(reference, current))
    found.cells, found.cells_looked_at = shifted_cells(before, now, settings.drift_cell_ratio)
    found.reasons = [*signs, *_reasons(found, settings)]
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
        reasons.append(f"{len(changed)} of {found.cells_looked_at} cells changed: {shifts_in_words(found.cells)}")
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


_MIN_WINDOWS = 10
_MAX_CELLS = 5000
# Of all cells together: chance of calling one changed that is not.
_MAX_CHANCE = 0.001


def shifted_cells(reference: pd.DataFrame, current: pd.DataFrame, ratio: float) -> tuple[list[CellShift], int]:
    """Cells whose throughput, or the model's error on it, changed by more than a ratio, and not by chance.

    The test is that of Mann and Whitney (1947) at Bonferroni's level; windows of a cell depend on each other, so the
    ratio is asked for as well. Cells need 10 windows on both sides; of more than 5000 the busiest are looked at.

    Args:
        reference, current: of `checked_frames`.

    Returns:
        The changed cells, most changed first, and how many cells were looked at.
    """
    from scipy.stats import mannwhitneyu

    before = {str(cell): rows for cell, rows in reference.groupby(CELL)}
    counts = current.groupby(CELL).size().sort_values(ascending=False)
    names = [cell for cell, count in counts.items() if count >= _MIN_WINDOWS and str(cell) in before][:_MAX_CELLS]
    now = {str(cell): rows for cell, rows in current.groupby(CELL)}
    found: list[CellShift] = []
    looked = 0
    for cell in names:
        then, since = before[str(cell)], now[str(cell)]
        if len(then) < _MIN_WINDOWS:
            continue
        looked += 1
        host, category = str(then["host"].iloc[0]), str(then["category"].iloc[0])
        for column in (LEVEL, *RESIDUALS):
            old, new = (side[column].dropna().to_numpy(np.float64) for side in (then, since))
            if min(len(old), len(new)) < _MIN_WINDOWS:
                continue
            shift = float(np.median(new) - np.median(old))
            if abs(shift) <= math.log(ratio):
                continue
            if mannwhitneyu(old, new).pvalue < _MAX_CHANCE / (len(names) * (1 + len(RESIDUALS))):
                quantity = "throughput_rps" if column == LEVEL else f"error of {column.removeprefix('residual_')}"
                found.append(CellShift(host, category, quantity, math.exp(shift)))
    found.sort(key=lambda each: -abs(math.log(each.ratio)))
    return found, looked


def shifts_in_words(shifts: list[CellShift], most: int = 3) -> str:
    """The changed categories with their hosts, the most changed first, in words."""
    grouped: dict[tuple[str, str], list[CellShift]] = {}
    for each in shifts:
        grouped.setdefault((each.category, each.quantity), []).append(each)
    parts = []
    for (category, quantity), cells in list(grouped.items())[:most]:
        middle = float(np.median([each.ratio for each in cells]))
        hosts = ", ".join(sorted({each.host for each in cells})[:8])
        parts.append(f"{quantity} of {category!r} on {hosts} is {middle:.2f} times what it was")
    more = len(grouped) - most
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
