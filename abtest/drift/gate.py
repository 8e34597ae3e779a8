"""The drift gate of one version: its training window from the registry, rows from the lake, the verdict into MLflow."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.abtest.drift.frames import split_rows
from fingerpost.abtest.drift.live import LIVE_TARGETS, LiveSign, live_signs
from fingerpost.abtest.drift.report import page
from fingerpost.abtest.drift.verdict import DriftVerdict, drift_verdict
from fingerpost.abtest.results import DRIFT
from fingerpost.clock import US, clock_us
from fingerpost.errors import NoDataError
from fingerpost.features.build import load_training_rows
from fingerpost.lake import LIVE_ERRORS, read_frame
from fingerpost.settings import Settings
from fingerpost.shown import markdown_text
from fingerpost.training.registry import Registry
from fingerpost.training.runs import VERDICT, HeldOutSkill

REPORT = "report.html"
_MAX_SNAPSHOTS = 200
_MAX_DOUBLINGS = 2
_WHO = ("model", "naive")


def check_drift(settings: Settings, model_version: str) -> tuple[DriftVerdict, str]:
    """Compares what a version was trained on with what came since; logs the verdict as a run in `MODEL-drift`.

    Returns:
        The verdict, and the id of its run.

    Raises:
        NoDataError: there are no features, or the version does not tell its training window.
        FingerpostError: the version's files cannot be used; the message says why.
    """
    registry = Registry(settings)
    run = registry.training_run(model_version)
    if run is None:
        raise NoDataError(f"{registry.name} has no version {model_version}, or not the run that made it")
    begin, learned_until, end = _window(run.data.params, settings.model_name, model_version)
    limits = (settings.max_training_rows, settings.training_recent_hours)
    rows = load_training_rows(settings.lake, settings.service, *limits)
    reference, current = split_rows(rows, begin, end, settings.drift_window_s)
    registered = registry.load(model_version)
    scored = registry.load_scored(run.info.run_id) or registered
    skill_then = HeldOutSkill.of(run.data.metrics, run.data.params).mean

    def predict_log(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        # The registered model has learned the rows it was scored on: what it says of those tells nothing of its errors.
        return (registered if rows["time"].min() > end else scored).predict_log(rows)

    tested = reference[reference["time"] > learned_until].tail(settings.drift_max_rows)
    live = live_rows(settings, model_version, end)
    signs = live_signs(tested, predict_log, live, settings.drift_live_ratio)
    about = (model_version, learned_until, skill_then, signs)
    verdict = drift_verdict(reference, current, predict_log, settings, *about)
    return verdict, _log(settings, registry, verdict)


def live_rows(settings: Settings, version: str, trained_until: datetime) -> pd.DataFrame:
    """What engines saw of a version's errors, of the latest `drift_window_s`; empty where it never was champion."""
    end_us = clock_us()
    begin_us = max(end_us - round(settings.drift_window_s * US), round(trained_until.timestamp() * US))
    columns = ("time", "version", "category", "requests", *(f"{who}_{each}" for who in _WHO for each in LIVE_TARGETS))
    rows = read_frame(settings.lake, LIVE_ERRORS, settings.service, begin_us, max(end_us, begin_us + 1), columns)
    return rows[rows["version"].astype(str) == version]


def _window(params: dict[str, Any], name: str, version: str) -> tuple[datetime, datetime, datetime]:
    """When the version's training rows begin and end, and when those end that it was tested on."""
    try:
        begin, learned_until, end = (
            datetime.fromisoformat(params[each]) for each in ("train_from", "train_to", "test_to")
        )
        return begin, learned_until, end
    except (KeyError, ValueError) as error:
        raise NoDataError(f"version {version} of {name} does not tell the window it was trained on") from error


def _log(settings: Settings, registry: Registry, verdict: DriftVerdict) -> str:
    tags = {
        "model_version": verdict.model_version,
        "verdict": verdict.verdict,
        "mlflow.note.content": "\n\n".join(map(markdown_text, verdict.reasons)) or verdict.verdict,
    }
    name = f"version {verdict.model_version}: {verdict.verdict}"
    with registry.run("drift", name, tags) as run:
        run.log(metrics=_metrics(verdict))
        if verdict.snapshot is not None:
            run.text(REPORT, page(verdict.snapshot))
            registry.tag_run(run.id, "report", "yes")
            _keep_snapshot(settings, verdict)
        run.json(VERDICT, verdict.to_json())
    return run.id


def _metrics(verdict: DriftVerdict) -> dict[str, float]:
    told = verdict.to_json()
    distances = {f"distance.{each['name']}": each["distance"] for each in told["columns"]}
    skills = {f"skill.{target}": value for target, value in verdict.skill.items()}
    counts = {
        "rows.reference": verdict.rows["reference"],
        "rows.current": verdict.rows["current"],
        "cells_changed": told["cells_changed"],
        "data_tests_failed": len(told["data"]["failed"]),
    }
    live = _live_metrics(verdict.live)
    found = {**distances, **skills, **counts, **live}
    return {name: float(value) for name, value in found.items() if value is not None}


def _live_metrics(signs: Sequence[LiveSign]) -> dict[str, float]:
    """Of all categories together, by target; and how many signs of drift there are."""
    whole = {each.target: each for each in signs if not each.category}
    values = {
        f"live.{name}.{target}": value
        for target, each in whole.items()
        for name, value in (("error", each.error), ("low", each.low), ("high", each.high))
    }
    return {**values, "live.signs": float(sum(each.found for each in signs))}


def workspace_path(settings: Settings) -> Path:
    """The Evidently workspace; `evidently ui --workspace PATH` shows it."""
    return settings.home / "evidently"


def _keep_snapshot(settings: Settings, verdict: DriftVerdict) -> None:
    """Adds the report to the workspace, and lets go of the oldest."""
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(workspace_path(settings)))
    project = next(iter(workspace.search_project(settings.model_name)), None)
    project = project or workspace.create_project(settings.model_name)
    workspace.add_run(project.id, verdict.snapshot, include_data=False)
    # Their ids begin with the time.
    for each in sorted(workspace.list_runs(project.id), key=str)[:-_MAX_SNAPSHOTS]:
        workspace.delete_run(project.id, each)


def retrain_reason(
    champion: DriftVerdict | None, challenger: DriftVerdict | None, newest_age_s: float, pause_s: float
) -> str | None:
    """Why a new version is to be trained, or None.

    Not while a challenger is there that does not drift, since it is the answer already, and not too often.
    """
    if champion is None or not champion.retrain or newest_age_s < pause_s:
        return None
    if challenger is not None and challenger.verdict != DRIFT:
        return None
    return "drift" if champion.verdict == DRIFT else "skill fell"


def retrain_pause_s(pause_s: float, unpromoted: int) -> float:
    """The least time between trainings that drift starts, seconds: training is asked for as often as it helps.

    It doubles with each version since the champion that was not promoted, up to fourfold; the first one is free.

    Args:
        pause_s: after a training that helped.
        unpromoted: versions that are newer than the champion.
    """
    return float(pause_s * 2 ** min(max(unpromoted - 1, 0), _MAX_DOUBLINGS))


def prune_reports(settings: Settings, keep: int = 48) -> int:
    """Removes the HTML of all but the newest reports that found no drift: of each, 4 MB; their verdicts stay.

    Returns:
        How many went.
    """
    registry = Registry(settings)
    old = registry.runs("drift", "tags.report = 'yes' and tags.verdict = 'no drift'")[keep:]
    for run in old:
        registry.delete_artifact(run, REPORT)
        registry.tag_run(run.info.run_id, "report", "removed")
    return len(old)
