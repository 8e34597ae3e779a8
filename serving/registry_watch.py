"""Follows the aliases in the model registry and fetches what they point at; a process of its own.

MLflow takes seconds to import, hundreds of MB, and as long as it likes to answer: none of it happens where requests
are served. What is found lies in files (see `serving.model_files`), so it also outlives the registry and the engine.
"""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from fingerpost.aliases import ALIASES, CHAMPION, none_if_missing, pointed_at
from fingerpost.environment import apply_tool_environment
from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.logs import configure_logs
from fingerpost.settings import Settings, get_settings
from serving.model_files import Found, ModelFiles

logger = logging.getLogger(__name__)
_MOST_EXPERIMENT = 10_000
_NICE = 10


def look(settings: Settings, files: ModelFiles, service: str) -> None:
    """Writes down what a service's aliases point at, with the models fetched.

    Raises:
        mlflow.exceptions.MlflowException, OSError: the registry does not answer, or the files cannot be written.
    """
    import mlflow

    name = f"fingerpost-{service}"
    client = mlflow.MlflowClient(settings.mlflow)
    found = {alias: pointed_at(client, name, alias) for alias in ALIASES}
    if settings.model_version and service == settings.service:
        found[CHAMPION] = client.get_model_version(name, settings.model_version)
    aliases: dict[str, Found | None] = {}
    problems: list[str] = []
    for alias, version in found.items():
        aliases[alias] = None
        if version is not None:
            try:
                aliases[alias] = _fetched(settings, files, service, version)
            except Exception as error:  # a version without its artifact must not hide the other alias
                logger.warning("version %s of %s cannot be fetched: %s", version.version, name, error)
                problems.append(f"version {version.version} cannot be fetched: {type(error).__name__}: {error}"[:300])
                aliases[alias] = Found(str(version.version), "")
    experiment = _experiment(client, name)
    files.write_aliases(service, aliases, "; ".join(problems) or None, experiment=experiment)


def _experiment(client: Any, name: str) -> str | None:
    """The experiment's tag, unread: whoever serves it says what is wrong with it."""
    text = None
    with none_if_missing():
        text = client.get_registered_model(name).tags.get(EXPERIMENT_TAG)
    return str(text)[:_MOST_EXPERIMENT] if text else None


def _fetched(settings: Settings, files: ModelFiles, service: str, version: Any) -> Found:
    # A registry made anew counts from 1 again: the number alone does not tell which model it is.
    folder = f"{version.version}-{version.creation_timestamp}"
    target = files.folder(service) / folder
    if not (target / "bundle.json").exists():
        fetch(settings.mlflow, version.name, str(version.version), target)
        files.prune(service)
        logger.info("model fetched", extra={"model": version.name, "model_version": version.version})
    return Found(str(version.version), folder)


def fetch(tracking_url: str, name: str, version: str, target: Path) -> None:
    """Fetches the files of a model version into a folder, whole or not at all.

    Raises:
        FileNotFoundError: it is not a Fingerpost model.
    """
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
        mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=temporary)
        about = next(Path(temporary).rglob("bundle.json"), None)
        if about is None:
            raise FileNotFoundError(f"version {version} of {name} is not a Fingerpost model: it has no bundle.json")
        _compile(about.parent)
        shutil.rmtree(target, ignore_errors=True)
        about.parent.rename(target)


def _compile(folder: Path) -> None:
    """Compiles a fetched model's trees, so that no one who serves it has to."""
    from training.bundle import ModelBundle
    from training.compiled_trees import COMPILED, save_trees

    # What an artifact brings along under that name is not believed.
    (folder / COMPILED).unlink(missing_ok=True)
    try:
        save_trees(folder, ModelBundle.load(folder).boosters)
    except Exception as error:  # what is wrong with a model is said by whoever is to serve it
        (folder / COMPILED).unlink(missing_ok=True)
        logger.warning("the trees of a model cannot be compiled: %s: %s", type(error).__name__, error)


def main() -> None:
    """Looks every `model_poll_s` until standard input ends, which is when the engine does."""
    settings = get_settings()
    apply_tool_environment(settings)
    configure_logs(settings.log_level, settings.log_format)
    # A registry that is away is looked at again soon anyway.
    os.environ.update({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"})
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(_NICE)  # to import MLflow takes seconds of a core that requests may want
    files = ModelFiles(settings.home)
    while True:
        for service in files.wanted(settings.service):
            try:
                look(settings, files, service)
            except Exception as error:  # whatever is wrong with the registry, look again
                logger.warning("the registry cannot be looked at: %s: %s", type(error).__name__, error)
                files.note_problem(service, f"{type(error).__name__}: {error}"[:300])
        time.sleep(settings.model_poll_s)


def _end_with_the_engine() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
