"""The MLflow registry: one registered model a service, every version with what it is made of and how good it is."""

import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from features.definition import CATEGORICAL_FEATURES, FEATURES, NAIVE, TARGETS, naive_column, schema_hash
from training.bundle import ModelBundle
from training.evaluate import TargetScore, error_table
from training.plots import all_plots
from training.tune import Tuning

CHAMPION = "champion"


@dataclass(frozen=True)
class Candidate:
    """A trained model with its evidence.

    Args:
        train, test: the rows it was fitted to (validation included) and scored on.
        halflife_s, window_s: of the features.
    """

    bundle: ModelBundle
    tuning: Tuning
    scores: dict[str, TargetScore]
    train: pd.DataFrame
    test: pd.DataFrame
    window_s: float
    halflife_s: float


def register(candidate: Candidate, tracking_url: str, model_name: str, service: str) -> str:
    """Logs a run with all evidence, registers the model; returns the new version."""
    import mlflow
    from mlflow.data.pandas_dataset import from_pandas

    mlflow.set_tracking_uri(tracking_url)
    mlflow.set_experiment(f"{model_name}-training")
    with mlflow.start_run(
        run_name=f"{service} to {candidate.test['time'].max():%Y-%m-%d %H:%M:%S}",
        tags={"service": service, "schema_hash": schema_hash()},
    ):
        mlflow.log_params({**candidate.tuning.params, **_data_window(candidate)})
        mlflow.log_metrics(_metrics(candidate.scores))
        mlflow.log_dict({"features": list(FEATURES), "schema_hash": schema_hash()}, "features.json")
        for by in ("host", "category"):
            mlflow.log_text(
                error_table(candidate.bundle, candidate.test, by).to_csv(index=False), f"errors_by_{by}.csv"
            )
        for path, figure in all_plots(candidate.bundle, candidate.test, candidate.scores, candidate.tuning).items():
            mlflow.log_figure(figure, path)
        for rows, context in ((candidate.train, "training"), (candidate.test, "evaluation")):
            dataset = from_pandas(rows[[*FEATURES, *TARGETS]], name=f"{service}-features-{context}")
            mlflow.log_input(dataset, context=context)
        return _log_model(candidate, model_name)


def describe(tracking_url: str, model_name: str, model_version: str, text: str) -> None:
    """Says of a version, where people look for it, what it is worth."""
    import mlflow

    mlflow.MlflowClient(tracking_url).update_model_version(model_name, model_version, description=text)


def set_champion(tracking_url: str, model_name: str, model_version: str) -> None:
    """Points the alias `champion` at a version."""
    import mlflow

    client = mlflow.MlflowClient(tracking_url)
    client.set_registered_model_alias(model_name, CHAMPION, model_version)


def champion_version(tracking_url: str, model_name: str) -> str | None:
    """The version the alias `champion` points at, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.MlflowClient(tracking_url).get_model_version_by_alias(model_name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def load_version(tracking_url: str, model_name: str, model_version: str) -> ModelBundle:
    """Fetches and loads one version."""
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    model = mlflow.pyfunc.load_model(f"models:/{model_name}/{model_version}")
    bundle = model.get_raw_model()
    if not isinstance(bundle, ModelBundle):
        raise TypeError(f"version {model_version} of {model_name} is not a Fingerpost model")
    return bundle


def _log_model(candidate: Candidate, model_name: str) -> str:
    import mlflow
    from mlflow.models import infer_signature

    inputs = candidate.test[[*FEATURES, *(naive_column(view, target) for view in NAIVE for target in TARGETS)]]
    inputs = inputs.astype(dict.fromkeys(CATEGORICAL_FEATURES, object))
    with tempfile.TemporaryDirectory() as folder:
        candidate.bundle.save(Path(folder) / "bundle")
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="training.pyfunc",
            data_path=str(Path(folder) / "bundle"),
            signature=infer_signature(inputs, candidate.bundle.predict(inputs)),
            # Given, not guessed: guessing imports everything anew and takes many seconds.
            pip_requirements=[f"{name}=={version(name)}" for name in ("fingerpost", "lightgbm", "numpy", "pandas")],
            registered_model_name=model_name,
        )
    return str(logged.registered_model_version)


def _data_window(candidate: Candidate) -> dict[str, Any]:
    train, test = candidate.train, candidate.test
    return {
        "train_from": train["time"].min().isoformat(),
        "train_to": train["time"].max().isoformat(),
        "test_from": test["time"].min().isoformat(),
        "test_to": test["time"].max().isoformat(),
        "train_rows": len(train),
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
