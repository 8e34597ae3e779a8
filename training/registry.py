"""The model registry: the versions of a service's model, aliases, tags and files.

A service has one registered model, with the aliases `champion` and `challenger`; notes are JSON tags of it. MLflow is
imported here and in `fingerpost.training.runs`, nowhere else.
"""

import contextlib
import json
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError
from fingerpost.experiment import ALIASES, CHALLENGER, CHAMPION, EXPERIMENT_TAG, Experiment, experiment_from_json
from fingerpost.locks import locked
from fingerpost.settings import Settings
from fingerpost.shown import markdown_text
from fingerpost.training.manifest import ABOUT, MAX_ABOUT_BYTES, DamagedModelError, read_about
from fingerpost.training.runs import MAX_TAG, RunStore

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

    from fingerpost.training.bundle import ModelBundle

HOLD_TAG, WATCH_TAG, FORMER_TAG = "fingerpost.hold", "fingerpost.watch", "fingerpost.former_champions"
# Of a version: promoted, rejected or rolled back. Of its run: the digest of the model's files.
OUTCOME_TAG, DIGEST_TAG = "fingerpost.fate", "fingerpost.model"
# Of a version: who serves by the verdict of its training, the model, the baseline, or which of how many categories.
VERDICT_TAG = "fingerpost.verdict"
# In the run of a version: the model that the evidence is of, which has not seen the rows it was scored on.
SCORED = "scored"
# Where MLflow keeps the files of a version.
SAVED_AS = "bundle"
# Error codes for a model, version, alias, run or tag that is not there.
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_MAX_FORMER = 20


class NoModelError(FingerpostError):
    """A version in the registry is not one of this program's models."""


class StaleEvidenceError(FingerpostError):
    """Another process changed the champion after the evidence was gathered."""


@contextlib.contextmanager
def none_if_missing() -> Iterator[None]:
    """Ignores MLflow's errors for what is not there; raises all others."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _MISSING:
            raise


class Registry(RunStore):
    """The registered model of one service and its runs.

    Every method asks MLflow anew and may raise its MlflowException.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._home = settings.home

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Locks aliases and tags against other processes of this machine: MLflow itself cannot compare and swap."""
        return locked(self._home / "locks" / f"{self.name}.lock")

    # Versions and aliases.

    def entry_of(self, alias: str) -> "ModelVersion | None":
        """MLflow's entry of the version that an alias points at, or None."""
        with none_if_missing():
            return self.client.get_model_version_by_alias(self.name, alias)
        return None

    def version_of(self, alias: str) -> str | None:
        """The version that an alias points at, or None."""
        entry = self.entry_of(alias)
        return None if entry is None else str(entry.version)

    def version(self, version: str) -> "ModelVersion | None":
        """MLflow's entry of a version, or None."""
        with none_if_missing():
            return self.client.get_model_version(self.name, version)
        return None

    def newest_version_s(self) -> float:
        """When the newest version was made, seconds since 1970; minus infinity where there is none."""
        versions = self.client.search_model_versions(f"name = '{self.name}'")
        return max((each.creation_timestamp / 1000 for each in versions), default=float("-inf"))

    def newer_than_champion(self) -> int:
        """How many versions were registered since the champion; all of them where there is none."""
        champion = int(self.version_of(CHAMPION) or 0)
        return len(self.versions_since(str(champion)))

    def versions_since(self, version: str) -> "list[ModelVersion]":
        """MLflow's entries of the versions that are newer than one, the newest first."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted((each for each in found if int(each.version) > int(version)), key=lambda each: -int(each.version))

    def offline_evidence(self, version: str) -> dict[str, Any] | None:
        """What the run that a version comes from says of it: its id, metrics and parameters; None: there is none."""
        run = self.training_run(version)
        if run is None:
            return None
        return {"run_id": run.info.run_id, "metrics": dict(run.data.metrics), "params": dict(run.data.params)}

    def set_champion(self, version: str) -> None:
        """Points `champion` at a version. It stops being challenger, and an experiment of other versions ends."""
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        self.drop_challenger(version)
        experiment = self.note(EXPERIMENT_TAG)
        if experiment and str(experiment.get("champion")) != version:
            self.set_note(EXPERIMENT_TAG, None)

    def swap_champion(self, expected: str | None, version: str, watch: Mapping[str, Any] | None) -> None:
        """Makes a version champion if `expected` still is, and keeps `expected` to go back to.

        Notes are written first: cut short before the alias is set, they are of a version that is not champion, and so
        without effect.

        Args:
            watch: note of the watch that begins.

        Raises:
            StaleEvidenceError: another version is champion by now, or the version itself.
        """
        with self.lock():
            present = self.version_of(CHAMPION)
            if present != expected:
                raise StaleEvidenceError(f"champion is version {present} by now, the evidence is against {expected}")
            if present == version:
                raise StaleEvidenceError(f"version {version} is champion already")
            if present is not None:
                self.set_former_champions([*(each for each in self.former_champions() if each != version), present])
                self.set_note(WATCH_TAG, watch)
            self.tag_version(version, OUTCOME_TAG, "promoted")
            self.set_champion(version)

    def set_challenger(self, version: str, urgent: bool = True) -> str | None:
        """Points `challenger` at a version, unless another one is in a running experiment.

        Args:
            urgent: replace also that one: the world has changed since it was trained.

        Returns:
            None, or the version that stays challenger.
        """
        if not urgent:
            running = None
            with contextlib.suppress(FingerpostError):
                running = self.experiment()
            if running and running.end_us > clock_us() and running.challenger == self.version_of(CHALLENGER):
                return running.challenger
        self.client.set_registered_model_alias(self.name, CHALLENGER, version)
        return None

    def drop_challenger(self, version: str) -> None:
        """Removes the alias `challenger` if it points at this version."""
        if self.version_of(CHALLENGER) == version:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def description(self, version: str) -> str:
        """The description of a version; empty where there is none."""
        return self.client.get_model_version(self.name, version).description or ""

    def describe(self, version: str, text: str) -> None:
        """Sets the description of a version."""
        self.client.update_model_version(self.name, version, description=markdown_text(text))

    def tag_version(self, version: str, tag: str, text: str) -> None:
        """Sets a tag of a version, if it is still there."""
        with none_if_missing():
            self.client.set_model_version_tag(self.name, version, tag, text[:MAX_TAG])

    def training_run(self, version: str) -> "MlflowRun | None":
        """The run that a version comes from, or None."""
        entry = self.version(version)
        with none_if_missing():
            return self.client.get_run(entry.run_id) if entry is not None and entry.run_id else None
        return None

    def find_by_digest(self, digest: str) -> str | None:
        """The version that a training run registered a model as, or None; marks runs as killed that never finished.

        Args:
            digest: of the model's files, the run's tag `DIGEST_TAG`.
        """
        for run in self.runs("training", f"tags.`{DIGEST_TAG}` = '{digest}'"):
            versions = self.client.search_model_versions(f"run_id = '{run.info.run_id}'")
            ready = [each.version for each in versions if each.name == self.name and each.status == "READY"]
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, "FINISHED" if ready else "KILLED")
            if ready:
                return str(ready[0])
        return None

    # Notes: tags of the registered model.

    def tags(self) -> dict[str, str]:
        """The registered model's tags; none where there is no such model."""
        with none_if_missing():
            return dict(self.client.get_registered_model(self.name).tags)
        return {}

    def note(self, tag: str) -> dict[str, Any] | None:
        """A tag that holds a JSON object, or None."""
        found = self._json_tag(tag)
        return found if isinstance(found, dict) else None

    def _json_tag(self, tag: str) -> Any:
        try:
            return json.loads(self.tags().get(tag, "null"))
        except ValueError:
            return None

    def set_note(self, tag: str, value: Mapping[str, Any] | list[Any] | None) -> None:
        """Writes a tag that holds JSON; None removes it."""
        if value is not None:
            self.client.set_registered_model_tag(self.name, tag, json.dumps(value, sort_keys=True))
            return
        with none_if_missing():
            self.client.delete_registered_model_tag(self.name, tag)

    def experiment(self) -> Experiment | None:
        """The running experiment, or None. It may be past its end: it stays until it is stopped.

        Raises:
            FingerpostError: the note is not an experiment; the message says why.
        """
        text = self.tags().get(EXPERIMENT_TAG)
        return experiment_from_json(text) if text else None

    def former_champions(self) -> list[str]:
        """Versions that were champion, the latest last; never the present one."""
        found, present = self._json_tag(FORMER_TAG), self.version_of(CHAMPION)
        return [str(each) for each in found if str(each) != present] if isinstance(found, list) else []

    def set_former_champions(self, versions: list[str]) -> None:
        """Keeps the latest of the versions that were champion."""
        self.set_note(FORMER_TAG, versions[-_MAX_FORMER:])

    def forget(self) -> None:
        """Removes both aliases and all notes; versions and runs stay."""
        with none_if_missing():
            for alias in ALIASES:
                self.client.delete_registered_model_alias(self.name, alias)
            for tag in (EXPERIMENT_TAG, WATCH_TAG, HOLD_TAG, FORMER_TAG):
                self.set_note(tag, None)

    # Files of models.

    def fetch(self, version: str, folder: Path) -> None:
        """Fetches the files of a version into a folder: `bundle.json` and what it names, and nothing else.

        Raises:
            FingerpostError: it is no Fingerpost model, of another format or other features, or a file is too large.
            OSError: files cannot be written.
        """
        try:
            self._fetch(f"models:/{self.name}/{version}", f"data/{SAVED_AS}", folder)
        except NoModelError as error:
            raise NoModelError(f"version {version} of {self.name} is not a Fingerpost model: {error}") from error

    def load(self, version: str) -> "ModelBundle":
        """Fetches, checks and loads a version.

        Raises:
            FingerpostError: it is no Fingerpost model, of another format or other features, or damaged.
        """
        return self._load(lambda folder: self.fetch(version, folder))

    def load_scored(self, run_id: str) -> "ModelBundle | None":
        """The model that a version was scored by, before it learned the rows it was scored on; None: there is none.

        Raises:
            FingerpostError: see `load`.
        """
        if not self.client.list_artifacts(run_id, SCORED):
            return None
        return self._load(lambda folder: self._fetch(f"runs:/{run_id}", SCORED, folder))

    def _load(self, fetch: Any) -> "ModelBundle":
        from fingerpost.training.bundle import ModelBundle
        from fingerpost.training.inspection import inspect_once

        with tempfile.TemporaryDirectory(prefix="fingerpost-model-") as folder:
            fetch(Path(folder))
            inspect_once(Path(folder), self._home)
            return ModelBundle.load(Path(folder))

    def _fetch(self, uri: str, place: str, folder: Path) -> None:
        artifacts = self.artifacts_of(uri)
        found = {posixpath.basename(each.path): each.file_size for each in artifacts.list_artifacts(place)}
        if ABOUT not in found:
            raise NoModelError(f"it has no {place}/{ABOUT}")

        def take(name: str, max_bytes: int) -> None:
            if name not in found:
                raise DamagedModelError(f"{name} is missing")
            if (found[name] or 0) > max_bytes:
                raise DamagedModelError(f"{name} has {found[name]} bytes, at most {max_bytes} are fetched")
            with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
                shutil.move(artifacts.download_artifacts(f"{place}/{name}", part), folder / name)

        take(ABOUT, MAX_ABOUT_BYTES)
        for name, entry in read_about(folder).files.items():
            take(name, entry.size)
