"""Registers models in MLflow: every version with what it is made of and how good it is."""

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost import __version__
from fingerpost.experiment import CHAMPION
from fingerpost.features.definition import CATEGORICAL_FEATURES, FEATURES, OUTCOMES, schema_hash
from fingerpost.shown import csv_cell
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.candidate import Candidate
from fingerpost.training.evaluate import TargetScore, error_table
from fingerpost.training.fit import DEFAULT_PARAMS
from fingerpost.training.model_card import render_model_card
from fingerpost.training.plots import all_plots
from fingerpost.training.registry import DIGEST_TAG, SAVED_AS, SCORED, Registry
from fingerpost.training.runs import HeldOutSkill, Run

# So many rows tell the columns of all.
_NOTED_ROWS = 2000


def register(registry: Registry, candidate: Candidate, service: str) -> str:
    """Logs a run with all evidence and registers the model; returns its version.

    The very same model is not registered twice: a training that was killed and is run again ends as if it had not been.
    """
    with _saved(candidate.refitted) as model:
        digest = model_digest(model)
        before = registry.find_by_digest(digest)
        if before:
            return before
        commit = git_commit()
        tags = {
            "service": service,
            "schema_hash": schema_hash(),
            "git_commit": commit,
            DIGEST_TAG: digest,
            # Where MLflow looks for the description of a run.
            "mlflow.note.content": render_model_card(candidate, service, commit),
        }
        name = f"{service} to {candidate.test['time'].max():%Y-%m-%d %H:%M:%S}"
        with registry.run("training", name, tags) as run:
            _log_evidence(run, candidate, service)
            return _add_version(registry, run, model, candidate.refitted, candidate.test)


def register_bundle(registry: Registry, bundle: ModelBundle, rows: pd.DataFrame, params: dict[str, str]) -> str:
    """Registers a model that no training has made, without any evidence; returns the new version.

    Args:
        rows: some rows with FEATURES, for the signature.
        params: what it is made of.
    """
    with registry.run("training", "registered by hand", {}) as run, _saved(bundle) as model:
        run.log(params)
        return _add_version(registry, run, model, bundle, rows)


def model_digest(saved: Path) -> str:
    """A hash of all files that a model is saved as: the same for the same model of the same format."""
    digest = hashlib.sha256()
    for path in sorted(saved.iterdir()):
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _log_evidence(run: Run, candidate: Candidate, service: str) -> None:
    choices = {**candidate.ranking.metrics(), **candidate.replay.metrics()}
    held_out = HeldOutSkill(
        skill={target: each.skill for target, each in candidate.scores.items()}, rows=len(candidate.test)
    )
    run.log(
        {**candidate.tuning.params, **_data_window(candidate), **held_out.params()},
        {**held_out.metrics(), **_metrics(candidate.scores), **choices, **_coverage(candidate)},
    )
    run.json("features.json", {"features": list(FEATURES), "schema_hash": schema_hash()})
    for by in ("host", "category"):
        run.text(f"errors_by_{by}.csv", _csv(error_table(candidate.predicted, candidate.test, by), by))
    ranking = candidate.ranks.groupby("category").mean(numeric_only=True).reset_index()
    run.text("ranking_by_category.csv", _csv(ranking, "category"))
    with _saved(candidate.bundle) as scored:
        run.folder(SCORED, scored)
    for path, figure in all_plots(candidate).items():
        run.figure(path, figure)
    for rows, context in ((candidate.train, "training"), (candidate.test, "evaluation")):
        some = _plain(_some(rows)[[*FEATURES, *OUTCOMES]])
        run.dataset(some, f"{service}-features-{context}", context, len(rows))


@contextlib.contextmanager
def _saved(bundle: ModelBundle) -> Iterator[Path]:
    """The folder a bundle is saved in while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="fingerpost-model-") as folder:
        bundle.save(Path(folder) / SAVED_AS)
        yield Path(folder) / SAVED_AS


def _add_version(registry: Registry, run: Run, saved: Path, bundle: ModelBundle, rows: pd.DataFrame) -> str:
    requirements = [f"{name}=={version(name)}" for name in ("fingerpost", "lightgbm", "numpy", "pandas")]
    inputs = _plain(_some(rows)[list(FEATURES)])
    return registry.add_version(run, saved, requirements, inputs, bundle.predict(inputs))


def champion_params(registry: Registry) -> dict[str, Any] | None:
    """The parameters that the champion was trained with, or None: no champion, or not all are there."""
    champion = registry.version_of(CHAMPION)
    run = registry.training_run(champion) if champion else None
    try:
        logged = run.data.params if run else {}
        return {name: type(default)(float(logged[name])) for name, default in DEFAULT_PARAMS.items()}
    except (KeyError, ValueError):
        return None


def git_commit() -> str:
    """The commit this program runs from; its version where it was installed without a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return f"release {__version__}"
    return found.stdout.strip() if found.returncode == 0 else f"release {__version__}"


def _csv(table: pd.DataFrame, by: str) -> str:
    return str(table.assign(**{by: table[by].astype(str).map(csv_cell)}).to_csv(index=False))


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows evenly over all: MLflow looks at each value of what it notes the columns of, one by one."""
    return rows.iloc[:: max(1, -(-len(rows) // _NOTED_ROWS))]


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Features with plain text where they are categorical: what a client can send."""
    return rows.astype(dict.fromkeys(CATEGORICAL_FEATURES, object))


def _coverage(candidate: Candidate) -> dict[str, float]:
    return {
        f"{target}.share_under_{name}": value
        for target, each in candidate.coverage.items()
        for name, value in each.items()
        if name != "promised" and np.isfinite(value)
    }


def _data_window(candidate: Candidate) -> dict[str, Any]:
    train, test = candidate.train, candidate.test
    return {
        "train_from": train["time"].min().isoformat(),
        "train_to": train["time"].max().isoformat(),
        "test_from": test["time"].min().isoformat(),
        "test_to": test["time"].max().isoformat(),
        "train_rows": len(train),
        "cold_start_rows": int(train["cold_start"].sum()),
        "requests": int(train.loc[~train["cold_start"], "requests"].sum()),
        "schema_hash": schema_hash(),
        "hosts": train["host"].nunique(),
        "categories": train["category"].nunique(),
        "window_s": candidate.window_s,
        "halflife_s": candidate.halflife_s,
    }


def _metrics(scores: dict[str, TargetScore]) -> dict[str, float]:
    metrics = {}
    for target, each in scores.items():
        metrics[f"{target}.log_mae.model"] = each.model
        metrics.update({f"{target}.log_mae.{view}": error for view, error in each.naive.items()})
    return metrics
