"""Follows the aliases in the model registry and fetches what they point at; a process of its own.

MLflow takes seconds to import, hundreds of MB, and as long as it likes to answer: none of it happens where requests
are served. What is found lies in files (`fingerpost.serving.model_files`), so it outlives the registry and the engine.
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
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.logs import configure_logs
from fingerpost.masking import described
from fingerpost.serving.model_files import UNFINISHED, Found, ModelFiles, write_to_disk
from fingerpost.settings import Settings, get_settings
from fingerpost.training.inspection import inspect_files, is_inspected

logger = logging.getLogger(__name__)
_MAX_EXPERIMENT = 10_000
_NICE = 10
_FIRST_PAUSE_S = 5.0
_MAX_PAUSE_S = 600.0
_MAX_WHY = 500


class Refused:
    """Versions whose files cannot be used: not fetched again at once, but after a pause that doubles each time."""

    def __init__(self, first_s: float = _FIRST_PAUSE_S, most_s: float = _MAX_PAUSE_S) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._told: dict[tuple[str, str], tuple[str, float, float]] = {}

    def why(self, service: str, folder: str) -> str | None:
        """Why it cannot be used, while it is not to be fetched again."""
        said, until_s, _ = self._told.get((service, folder), ("", 0.0, 0.0))
        return said if time.monotonic() < until_s else None

    def note(self, service: str, folder: str, why: str) -> None:
        pause_s = min(2 * self._told.get((service, folder), ("", 0.0, self._first_s / 2))[2], self._most_s)
        self._told[service, folder] = (why, time.monotonic() + pause_s, pause_s)

    def forget(self, service: str, folder: str) -> None:
        self._told.pop((service, folder), None)


def sync_aliases(settings: Settings, files: ModelFiles, service: str, refused: Refused | None = None) -> None:
    """Writes down what a service's aliases point at, with the models fetched.

    Args:
        refused: what was found out by earlier looks.

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
    refused, anew = refused or Refused(), False
    for alias, version in found.items():
        aliases[alias] = None
        if version is None:
            continue
        # A registry made anew counts from 1 again: the number alone does not tell which model it is.
        folder = f"{version.version}-{version.creation_timestamp}"
        why = refused.why(service, folder)
        if why is None and not is_inspected(files.folder(service) / folder):
            why = _fetch(settings, files, service, version, folder, refused)
            anew = anew or why is None
        if why is not None and why not in problems:
            problems.append(why)
        aliases[alias] = Found(str(version.version), folder if why is None else "")
    experiment = _experiment(client, name)
    files.write_aliases(service, aliases, "; ".join(problems) or None, experiment=experiment, anew=anew)


def _experiment(client: Any, name: str) -> str | None:
    """The experiment's tag, unread: whoever serves it says what is wrong with it."""
    text = None
    with none_if_missing():
        text = client.get_registered_model(name).tags.get(EXPERIMENT_TAG)
    return str(text)[:_MAX_EXPERIMENT] if text else None


def _fetch(
    settings: Settings, files: ModelFiles, service: str, version: Any, folder: str, refused: Refused
) -> str | None:
    """Fetches a version; why that could not be done, or None."""
    try:
        fetch(settings.mlflow, version.name, str(version.version), files.folder(service) / folder)
    except Exception as error:  # a version without its artifact must not hide the other alias
        logger.warning("version %s of %s cannot be fetched: %s", version.version, version.name, error)
        why = f"version {version.version} cannot be fetched: {described(error, _MAX_WHY)}"[:_MAX_WHY]
        if isinstance(error, FingerpostError):  # what is wrong with its files; not that the registry is away
            refused.note(service, folder, why)
        return why
    refused.forget(service, folder)
    files.prune(service)
    logger.info("model fetched", extra={"model": version.name, "model_version": version.version})
    return None


def fetch(tracking_url: str, name: str, version: str, target: Path) -> None:
    """Fetches the files of a model version into a folder, read well, compiled and on disk, or not at all.

    Raises:
        FingerpostError: it is not a Fingerpost model, or one that cannot be used; the message says why.
        mlflow.exceptions.MlflowException, OSError: the registry does not answer, or files cannot be written.
    """
    from fingerpost.training.registry import fetch_version

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        fetch_version(tracking_url, name, version, folder)
        inspect_files(folder)
        write_to_disk(folder)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)


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
    files, refused = ModelFiles(settings.home), Refused()
    files.remove_unfinished()
    while True:
        for service in files.wanted(settings.service):
            try:
                sync_aliases(settings, files, service, refused)
            except Exception as error:  # whatever is wrong with the registry, look again
                logger.warning("the registry cannot be looked at: %s: %s", type(error).__name__, error)
                files.note_problem(service, described(error))
        time.sleep(settings.model_poll_s)


def _end_with_the_engine() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
