"""Registers models in MLflow: every version with what it is made of and how good it is."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost import __version__
from fingerpost.features.definition import CATEGORICAL_FEATURES, FEATURES, OUTCOMES, schema_hash
from fingerpost.shown import csv_cell
from fingerpost.training.again import MODEL_TAG, model_digest, registered_before
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.candidate import Candidate
from fingerpost.training.evaluate import TargetScore, error_table
from fingerpost.training.model_card import render_model_card
from fingerpost.training.plots import all_plots
from fingerpost.training.registry import SAVED_AS, SCORED


def register(candidate: Candidate, tracking_url: str, model_name: str, service: str) -> str:
    """Logs a run with all evidence, registers the model; returns its version.

    The very same model is not registered twice: a training that was killed and is run again ends as if it had not been.
    """
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    with _saved(candidate.refitted) as model:
        digest = model_digest(model)
        before = registered_before(mlflow.MlflowClient(tracking_url), f"{model_name}-training", model_name, digest)
        if before:
            return before
        mlflow.set_experiment(f"{model_name}-training")
        commit = git_commit()
        tags = {
            "service": service,
            "schema_hash": schema_hash(),
            "git_commit": commit,
            MODEL_TAG: digest,
            # Where MLflow looks for the description of a run.
            "mlflow.note.content": render_model_card(candidate, service, commit),
        }
        with mlflow.start_run(run_name=f"{service} to {candidate.test['time'].max():%Y-%m-%d %H:%M:%S}", tags=tags):
            _log_evidence(candidate, service)
            return _log_model(model, candidate.refitted, candidate.test, model_name)


def _log_evidence(candidate: Candidate, service: str) -> None:
    import mlflow
    from mlflow.data.pandas_dataset import from_pandas

    mlflow.log_params({**candidate.tuning.params, **_data_window(candidate)})
    choices = {**candidate.ranking.metrics(), **candidate.replay.metrics()}
    mlflow.log_metrics({**_metrics(candidate.scores), **choices, **_coverage(candidate)})
    mlflow.log_dict({"features": list(FEATURES), "schema_hash": schema_hash()}, "features.json")
    for by in ("host", "category"):
        mlflow.log_text(_csv(error_table(candidate.bundle, candidate.test, by), by), f"errors_by_{by}.csv")
    ranking = candidate.ranks.groupby("category").mean(numeric_only=True).reset_index()
    mlflow.log_text(_csv(ranking, "category"), "ranking_by_category.csv")
    with _saved(candidate.bundle) as scored:
        mlflow.log_artifacts(str(scored), SCORED)
    for path, figure in all_plots(candidate).items():
        mlflow.log_figure(figure, path)
    for rows, context in ((candidate.train, "training"), (candidate.test, "evaluation")):
        dataset = from_pandas(_plain(rows[[*FEATURES, *OUTCOMES]]), name=f"{service}-features-{context}")
        mlflow.log_input(dataset, context=context)


def register_bundle(
    bundle: ModelBundle, rows: pd.DataFrame, tracking_url: str, model_name: str, params: dict[str, str]
) -> str:
    """Registers a model that no training here has made, without any evidence; returns the new version.

    Args:
        rows: some rows with FEATURES, for the signature.
        params: what it is made of.
    """
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    mlflow.set_experiment(f"{model_name}-training")
    with mlflow.start_run(run_name="registered by hand"), _saved(bundle) as model:
        mlflow.log_params(params)
        return _log_model(model, bundle, rows, model_name)


@contextlib.contextmanager
def _saved(bundle: ModelBundle) -> Iterator[Path]:
    """The folder a bundle is saved in while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="fingerpost-model-") as folder:
        bundle.save(Path(folder) / SAVED_AS)
        yield Path(folder) / SAVED_AS


def _log_model(saved: Path, bundle: ModelBundle, rows: pd.DataFrame, model_name: str) -> str:
    import mlflow
    from mlflow.models import infer_signature

    inputs = _plain(rows[list(FEATURES)])
    logged = mlflow.pyfunc.log_model(
        name="model",
        loader_module="fingerpost.training.pyfunc",
        data_path=str(saved),
        signature=infer_signature(inputs, bundle.predict(inputs)),
        # Given, not guessed: guessing imports everything anew and takes many seconds.
        pip_requirements=[f"{name}=={version(name)}" for name in ("fingerpost", "lightgbm", "numpy", "pandas")],
        registered_model_name=model_name,
    )
    return str(logged.registered_model_version)


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
        "rehearsed_rows": int(train["rehearsed"].sum()),
        "requests": int(train.loc[~train["rehearsed"], "requests"].sum()),
        "schema_hash": schema_hash(),
        "test_rows": len(test),
        "hosts": train["host"].nunique(),
        "categories": train["category"].nunique(),
        "window_s": candidate.window_s,
        "halflife_s": candidate.halflife_s,
    }


def _metrics(scores: dict[str, TargetScore]) -> dict[str, float]:
    metrics = {}
    for target, each in scores.items():
        metrics[f"{target}.skill"] = each.skill
        metrics[f"{target}.log_mae.model"] = each.model
        metrics.update({f"{target}.log_mae.{view}": error for view, error in each.naive.items()})
    return metrics
