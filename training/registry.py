"""What the MLflow registry says of the versions there are: one registered model a service."""

import posixpath
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fingerpost.aliases import CHALLENGER, CHAMPION, version_of
from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG, experiment_from_json
from fingerpost.settings import Settings
from fingerpost.shown import markdown_text
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.fit import DEFAULT_PARAMS
from fingerpost.training.inspection import inspect_once
from fingerpost.training.manifest import ABOUT, MAX_ABOUT_BYTES, DamagedModelError, read_about

# Where in a version's run the model is that all evidence is of; it has not seen the rows it was scored on.
SCORED = "scored"
# Where MLflow keeps the files of a version.
SAVED_AS = "bundle"
_SAVED = f"data/{SAVED_AS}"


class NoModelError(FingerpostError):
    """A version in the registry is not one of this program's models."""


def description(tracking_url: str, model_name: str, model_version: str) -> str:
    """What `describe` said of a version; empty: nothing yet."""
    import mlflow

    return mlflow.MlflowClient(tracking_url).get_model_version(model_name, model_version).description or ""


def describe(tracking_url: str, model_name: str, model_version: str, text: str) -> None:
    """Says of a version, where people look for it, what it is worth."""
    import mlflow

    mlflow.MlflowClient(tracking_url).update_model_version(model_name, model_version, description=markdown_text(text))


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
        if running and running.end_us > clock_us() and running.challenger == present:
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


def load_version(settings: Settings, model_version: str) -> ModelBundle:
    """Fetches and loads a version of the service's model.

    Raises:
        FingerpostError: it is no Fingerpost model, of another format or other features, or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-model-") as folder:
        fetch_version(settings.mlflow, settings.model_name, model_version, Path(folder))
        inspect_once(Path(folder), settings.home)
        return ModelBundle.load(Path(folder))


def load_scored(settings: Settings, run_id: str) -> ModelBundle | None:
    """The model that a version was scored by, before it learned the rows it was scored on; None: there is none.

    Raises:
        FingerpostError: see `load_version`.
    """
    import mlflow

    if not mlflow.MlflowClient(settings.mlflow).list_artifacts(run_id, SCORED):
        return None
    with tempfile.TemporaryDirectory(prefix="fingerpost-scored-") as folder:
        _fetch(settings.mlflow, f"runs:/{run_id}", SCORED, Path(folder))
        inspect_once(Path(folder), settings.home)
        return ModelBundle.load(Path(folder))


def fetch_version(tracking_url: str, model_name: str, model_version: str, folder: Path) -> None:
    """Fetches the files of a version into a folder: `bundle.json` and what it names, and nothing else.

    Raises:
        FingerpostError: it is no Fingerpost model, of another format or other features, or a file is too large.
        mlflow.exceptions.MlflowException, OSError: the registry does not answer, or files cannot be written.
    """
    try:
        _fetch(tracking_url, f"models:/{model_name}/{model_version}", _SAVED, folder)
    except NoModelError as error:
        raise NoModelError(f"version {model_version} of {model_name} is not a Fingerpost model: {error}") from error


def _fetch(tracking_url: str, uri: str, place: str, folder: Path) -> None:
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    mlflow.set_tracking_uri(tracking_url)
    artifacts = get_artifact_repository(uri, tracking_uri=tracking_url)
    found = {posixpath.basename(each.path): each.file_size for each in artifacts.list_artifacts(place)}
    if ABOUT not in found:
        raise NoModelError(f"it has no {place}/{ABOUT}")

    def take(name: str, most_bytes: int) -> None:
        if name not in found:
            raise DamagedModelError(f"{name} is missing")
        if (found[name] or 0) > most_bytes:
            raise DamagedModelError(f"{name} has {found[name]} bytes, at most {most_bytes} are fetched")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            shutil.move(artifacts.download_artifacts(f"{place}/{name}", part), folder / name)

    take(ABOUT, MAX_ABOUT_BYTES)
    for name, entry in read_about(folder).files.items():
        take(name, entry.size)


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
