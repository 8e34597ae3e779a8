"""A real registry on SQLite, with versions and the results that promotion reads, without training a model; and models
whose files somebody changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.settings import Settings
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.manifest import ABOUT, FileEntry
from fingerpost.training.registry import Registry
from fingerpost.training.runs import VERDICT

GOOD = {
    "shadow": {"verdict": "better", "samples": 500},
    "experiment": {"verdict": "better", "samples": 20, "effects": {"p99": -0.1}},
    "drift": {"verdict": "no drift", "reasons": [], "data": {"passed": True, "failed": []}},
}


def registry_settings(folder: Path, **changes: Any) -> Settings:
    """Settings whose registry is a SQLite file in the folder."""
    return Settings(home=folder, mlflow_url=f"sqlite:///{folder / 'mlflow.db'}", **changes)


class Changed:
    """A bundle as somebody may register it: its folder is changed after it was saved.

    Args:
        change: what is done to the folder.
        sealed: whether the hashes in `bundle.json` are those of the changed files.
    """

    def __init__(self, bundle: ModelBundle, change: Callable[[Path], Any], sealed: bool = True) -> None:
        self._bundle, self._change, self._sealed = bundle, change, sealed

    def save(self, folder: Path) -> None:
        """As `ModelBundle.save`."""
        self._bundle.save(folder)
        self._change(folder)
        if self._sealed:
            about = json.loads((folder / ABOUT).read_text())
            about["files"] = {name: FileEntry.of((folder / name).read_bytes()).model_dump() for name in about["files"]}
            (folder / ABOUT).write_text(json.dumps(about))


def cut_in_half(folder: Path, name: str = "throughput_rps-0.txt") -> None:
    """Leaves half of a file, of trees half of those: LightGBM ends the process that reads them."""
    content = (folder / name).read_bytes()
    begin = max(content.find(b"\nTree="), 0)
    (folder / name).write_bytes(content[: begin + (len(content) - begin) // 2])


class Made:
    """A registry with a champion (version 1) and a challenger (version 2), artifacts beside its database."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.registry = settings, Registry(settings)

    def fill(self) -> None:
        """Makes experiments, model, versions and aliases."""
        client, name = self.registry.client, self.registry.name
        folder = self.settings.home / "artifacts"
        for kind in ("training", "shadow", "offpolicy", "experiment", "drift", "promotion"):
            client.create_experiment(f"{name}-{kind}", artifact_location=folder.joinpath(kind).as_uri())
        client.create_registered_model(name)
        self.version(0.2)
        self.version(0.3)
        client.set_registered_model_alias(name, CHAMPION, "1")
        client.set_registered_model_alias(name, CHALLENGER, "2")

    def version(self, skill: float) -> str:
        """A new version whose targets all have this skill."""
        client, name = self.registry.client, self.registry.name
        run = client.create_run(self.registry.experiment_id("training"))
        for target in ("throughput_rps", "latency_p50_s", "latency_p99_s"):
            client.log_metric(run.info.run_id, f"{target}.skill", skill)
        client.log_param(run.info.run_id, "test_rows", "1000")
        client.set_terminated(run.info.run_id)
        made = client.create_model_version(name, source=run.info.artifact_uri, run_id=run.info.run_id)
        return str(made.version)

    def result(self, kind: str, version: str, result: dict[str, Any]) -> None:
        """A finished comparison, as its flow leaves it."""
        client = self.registry.client
        tag = "model_version" if kind == "drift" else "challenger"
        run = client.create_run(self.registry.experiment_id(kind), tags={tag: version})
        client.log_dict(run.info.run_id, json.loads(json.dumps(result)), VERDICT)
        client.set_terminated(run.info.run_id)

    def good_results(self, version: str = "2") -> None:
        """Results with which the shipped policy promotes."""
        for kind, result in GOOD.items():
            self.result(kind, version, result)

    @property
    def champion(self) -> str | None:
        return self.registry.version_of(CHAMPION)

    @property
    def challenger(self) -> str | None:
        return self.registry.version_of(CHALLENGER)
