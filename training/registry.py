"""What the MLflow registry says of the versions there are: one registered model a service."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerpost.aliases import CHALLENGER, CHAMPION, version_of
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG, experiment_from_json
from training.bundle import ModelBundle
from training.fit import DEFAULT_PARAMS

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Where in a version's run the model is that all evidence is of; it has not seen the rows it was scored on.
SCORED = "scored"


def description(tracking_url: str, model_name: str, model_version: str) -> str:
    """What `describe` said of a version; empty: nothing yet."""
    import mlflow

    return mlflow.MlflowClient(tracking_url).get_model_version(model_name, model_version).description or ""


def describe(tracking_url: str, model_name: str, model_version: str, text: str) -> None:
    """Says of a version, where people look for it, what it is worth."""
    import mlflow

    mlflow.MlflowClient(tracking_url).update_model_version(model_name, model_version, description=text)


def set_champion(tracking_url: str, model_name: str, model_version: str) -> None:
    """Points the alias `champion` at a version."""
    import mlflow

    client = mlflow.MlflowClient(tracking_url)
    client.set_registered_model_alias(model_name, CHAMPION, model_version)


def set_challenger(tracking_url: str, model_name: str, model_version: str, urgent: bool) -> str | None:
    """Points the alias `challenger` at a version, unless another is in a running experiment.

    Args:
        urgent: also then: the world has changed since that other one was trained.

    Returns:
        None, or the version that stays challenger.
    """
    import mlflow

    client = mlflow.MlflowClient(tracking_url)
    text = client.get_registered_model(model_name).tags.get(EXPERIMENT_TAG)
    if text and not urgent:
        try:
            running = experiment_from_json(text)
        except FingerpostError:
            running = None
        present = version_of(client, model_name, CHALLENGER)
        if running and running.end_us > time.time_ns() // 1000 and running.challenger == present:
            return running.challenger
    client.set_registered_model_alias(model_name, CHALLENGER, model_version)
    return None


def champion_version(tracking_url: str, model_name: str) -> str | None:
    """The version the alias `champion` points at, or None."""
    import mlflow

    return version_of(mlflow.MlflowClient(tracking_url), model_name, CHAMPION)


def challenger_version(tracking_url: str, model_name: str) -> str | None:
    """The version the alias `challenger` points at, or None."""
    import mlflow

    return version_of(mlflow.MlflowClient(tracking_url), model_name, CHALLENGER)


def load_version(tracking_url: str, model_name: str, model_version: str) -> ModelBundle:
    """Fetches and loads one version."""
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    model = mlflow.pyfunc.load_model(f"models:/{model_name}/{model_version}")
    bundle = model.get_raw_model()
    if not isinstance(bundle, ModelBundle):
        raise TypeError(f"version {model_version} of {model_name} is not a Fingerpost model")
    return bundle


def load_scored(client: "MlflowClient", run_id: str) -> ModelBundle | None:
    """The model that a version was scored by, before it learned the rows it was scored on; None: there is none."""
    with tempfile.TemporaryDirectory(prefix="fingerpost-scored-") as folder:
        if not client.list_artifacts(run_id, SCORED):
            return None
        return ModelBundle.load(Path(client.download_artifacts(run_id, SCORED, folder)))


def champion_params(tracking_url: str, model_name: str) -> dict[str, Any] | None:
    """The parameters that the champion was trained with, or None: no champion, or not all are there."""
    import mlflow

    version_number = champion_version(tracking_url, model_name)
    if version_number is None:
        return None
    client = mlflow.MlflowClient(tracking_url)
    run_id = client.get_model_version(model_name, version_number).run_id
    logged = client.get_run(str(run_id)).data.params
    try:
        return {name: type(default)(float(logged[name])) for name, default in DEFAULT_PARAMS.items()}
    except (KeyError, ValueError):
        return None
