"""Follows the aliases in the model registry and fetches their versions, in a separate process.

MLflow takes seconds and hundreds of MB to import, and may answer late: none of it happens where requests are served.
The results lie in files (`fingerpost.serving.model_files`), so they outlive the registry and the engine.
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

from fingerpost.environment import apply_tool_environment
from fingerpost.errors import FingerpostError
from fingerpost.experiment import ALIASES, CHAMPION, EXPERIMENT_TAG, experiment_from_json
from fingerpost.logs import configure_logs
from fingerpost.masking import described
from fingerpost.serving.model_files import UNFINISHED, AliasState, ModelFiles, ResolvedAlias, write_to_disk
from fingerpost.settings import Settings, get_settings
from fingerpost.training.inspection import inspect_files, is_inspected
from fingerpost.training.registry import NoModelError, Registry

logger = logging.getLogger(__name__)
_MAX_EXPERIMENT = 10_000
_NICE = 10
_FIRST_PAUSE_S = 5.0
_MAX_PAUSE_S = 600.0
_MAX_WHY = 500


class Refused:
    """Versions whose files cannot be used; fetched again after a pause that doubles each time."""

    def __init__(self, first_s: float = _FIRST_PAUSE_S, most_s: float = _MAX_PAUSE_S) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._known: dict[tuple[str, str], tuple[str, float, float]] = {}

    def why(self, service: str, folder: str) -> str | None:
        """Why it cannot be used, while it is not to be fetched again."""
        why, until_s, _ = self._known.get((service, folder), ("", 0.0, 0.0))
        return why if time.monotonic() < until_s else None

    def note(self, service: str, folder: str, why: str) -> None:
        pause_s = min(2 * self._known.get((service, folder), ("", 0.0, self._first_s / 2))[2], self._most_s)
        self._known[service, folder] = (why, time.monotonic() + pause_s, pause_s)

    def forget(self, service: str, folder: str) -> None:
        self._known.pop((service, folder), None)


def sync_aliases(settings: Settings, files: ModelFiles, service: str, refused: Refused | None = None) -> None:
    """Writes the state of a service's aliases, with their versions fetched.

    Args:
        refused: versions that earlier calls could not use.

    Raises:
        mlflow.exceptions.MlflowException, OSError: the registry does not answer, or the files cannot be written.
    """
    registry = Registry(settings.model_copy(update={"service": service}))
    entries: dict[str, Any] = {alias: registry.entry_of(alias) for alias in ALIASES}
    if settings.model_version and service == settings.service:
        entries[CHAMPION] = registry.version(settings.model_version)
        if entries[CHAMPION] is None:
            raise NoModelError(f"{registry.name} has no version {settings.model_version} (FINGERPOST_MODEL_VERSION)")
    # An experiment that cannot be read is passed on all the same: whoever serves it says what is wrong with it.
    experiment = registry.tags().get(EXPERIMENT_TAG, "")[:_MAX_EXPERIMENT] or None
    others = _other_challengers(experiment)
    entries.update({version: registry.version(version) for version in others})
    aliases: dict[str, ResolvedAlias] = {}
    problems: dict[str, None] = {}
    refused, refetched = refused or Refused(), False
    for alias, entry in entries.items():
        if entry is None:
            continue
        # A registry made anew counts from 1 again: the number alone does not tell which model it is.
        version, folder = str(entry.version), f"{entry.version}-{entry.creation_timestamp}"
        why = refused.why(service, folder)
        if why is None and not is_inspected(files.folder(service) / folder):
            why = _fetch(registry, version, files.folder(service) / folder, refused)
            if why is None:
                files.prune(service)
                refetched = True
        if why is not None:
            problems[why] = None
        aliases[alias] = ResolvedAlias(version, folder if why is None else "")
    further = tuple(aliases.pop(version, ResolvedAlias(version, "")) for version in others)
    state = AliasState(
        others=further, known=True, problem="; ".join(problems) or None, experiment=experiment, **aliases
    )
    files.write_aliases(service, state, refetched)


def _other_challengers(experiment: str | None) -> tuple[str, ...]:
    """The versions of an experiment's further challengers; none of one that cannot be read."""
    try:
        return experiment_from_json(experiment).others if experiment else ()
    except FingerpostError:
        return ()


def _fetch(registry: Registry, version: str, target: Path, refused: Refused) -> str | None:
    """Fetches a version; returns why that could not be done, or None."""
    service, folder = target.parent.name, target.name
    try:
        fetch(registry, version, target)
    except Exception as error:  # a version without its artifact must not hide the other alias
        logger.warning("version %s of %s cannot be fetched: %s", version, registry.name, error)
        why = f"version {version} cannot be fetched: {described(error, _MAX_WHY)}"[:_MAX_WHY]
        if isinstance(error, FingerpostError):  # its files are bad; other errors mean that the registry is away
            refused.note(service, folder, why)
        return why
    refused.forget(service, folder)
    logger.info("model fetched", extra={"model": registry.name, "model_version": version})
    return None


def fetch(registry: Registry, version: str, target: Path) -> None:
    """Fetches the files of a version into a folder, read well, compiled and on disk, or not at all.

    Raises:
        FingerpostError: it is not a Fingerpost model, or one that cannot be used; the message says why.
        mlflow.exceptions.MlflowException, OSError: the registry does not answer, or files cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        registry.fetch(version, folder)
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
        for service in files.requested(settings.service):
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
