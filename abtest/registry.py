"""What MLflow knows of the versions beside the models: aliases, and our notes as tags of the registered model."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fingerpost.aliases import CHALLENGER, CHAMPION, none_if_missing, version_of
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.locks import locked
from fingerpost.settings import Settings

HOLD_TAG = "fingerpost.hold"
WATCH_TAG = "fingerpost.watch"
FORMER_TAG = "fingerpost.former_champions"
# Of a version: promoted, rejected, rolled back.
OUTCOME_TAG = "fingerpost.fate"
_MAX_FORMER = 20


class Registry:
    """One service's registered model. Every method asks MLflow anew, and may raise its MlflowException."""

    def __init__(self, settings: Settings) -> None:
        import mlflow

        self.name = settings.model_name
        self.client = mlflow.MlflowClient(settings.mlflow)
        self._lock = lock_path(settings)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Held by whoever changes aliases or tags: MLflow itself cannot compare and swap."""
        return locked(self._lock)

    def version_of(self, alias: str) -> str | None:
        """The version that an alias points at, or None."""
        return version_of(self.client, self.name, alias)

    def version(self, version: str) -> Any:
        """MLflow's entry of a version, or None."""
        with none_if_missing():
            return self.client.get_model_version(self.name, version)
        return None

    def training_run(self, version: str) -> Any:
        """The run a version comes from, or None."""
        entry = self.version(version)
        with none_if_missing():
            return self.client.get_run(entry.run_id) if entry is not None and entry.run_id else None
        return None

    def tags(self) -> dict[str, str]:
        """The registered model's tags; none where there is no such model."""
        with none_if_missing():
            return dict(self.client.get_registered_model(self.name).tags)
        return {}

    def note(self, tag: str) -> dict[str, Any] | None:
        """A tag that holds a JSON object, or None."""
        try:
            found = json.loads(self.tags().get(tag, "null"))
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def set_note(self, tag: str, value: Mapping[str, Any] | None) -> None:
        """Writes a tag that holds a JSON object; None removes it."""
        if value is not None:
            self.client.set_registered_model_tag(self.name, tag, json.dumps(value))
            return
        with none_if_missing():
            self.client.delete_registered_model_tag(self.name, tag)

    def set_experiment(self, experiment: Experiment) -> None:
        """Puts an experiment where engines look for it."""
        self.client.set_registered_model_tag(self.name, EXPERIMENT_TAG, experiment.to_json())

    def former_champions(self) -> list[str]:
        """Versions that were champion, the latest last; never the present one."""
        try:
            found = json.loads(self.tags().get(FORMER_TAG, "[]"))
        except ValueError:
            return []
        present = self.version_of(CHAMPION)
        return [str(each) for each in found if str(each) != present] if isinstance(found, list) else []

    def set_former_champions(self, versions: list[str]) -> None:
        self.client.set_registered_model_tag(self.name, FORMER_TAG, json.dumps(versions[-_MAX_FORMER:]))

    def set_champion(self, version: str) -> None:
        """Points `champion` at a version. It is no challenger any more, and an experiment of other versions ends."""
        self.client.set_registered_model_alias(self.name, CHAMPION, version)
        self.drop_challenger(version)
        experiment = self.note(EXPERIMENT_TAG)
        if experiment and str(experiment.get("champion")) != version:
            self.set_note(EXPERIMENT_TAG, None)

    def drop_challenger(self, version: str) -> None:
        """Removes the alias `challenger` if it points at this version."""
        if self.version_of(CHALLENGER) == version:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def set_fate(self, version: str, fate: str) -> None:
        """Says of a version what became of it."""
        self.client.set_model_version_tag(self.name, version, OUTCOME_TAG, fate)

    def tag_version(self, version: str, tag: str, text: str) -> None:
        """Notes something on a version, if it is still there."""
        with none_if_missing():
            self.client.set_model_version_tag(self.name, version, tag, text)


def lock_path(settings: Settings) -> Path:
    """The file that is locked while aliases of the service's model change."""
    return settings.home / "locks" / f"{settings.model_name}.lock"
