"""Runs in MLflow: what trainings, comparisons and decisions leave behind.

They lie in the experiments `MODEL-KIND`: training, shadow, offpolicy, experiment, drift, promotion.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import to_jsonable_python

from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError
from fingerpost.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run as MlflowRun

# Artifact of a comparison's run: its result.
VERDICT = "verdict.json"
# MLflow refuses tags of more than 8000 characters, and older servers of more than 5000.
MAX_TAG = 5000
_SKILL = ".skill"


class Document(BaseModel):
    """A JSON object in the registry: its named fields are checked, others are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @classmethod
    def read(cls, document: Any) -> Self:
        """Reads a document.

        Raises:
            FingerpostError: it is not one; the message names the field.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise FingerpostError(f"cannot be read: {where} = {first['input']!r}: {first['msg']}"[:300]) from error

    def to_json(self) -> dict[str, Any]:
        """The plain values; numbers that are not finite are None."""
        return dict(to_jsonable_python(self.model_dump(), inf_nan_mode="null"))


class HeldOutSkill(Document):
    """Skill of a version on held-out windows, as its training run keeps it.

    Args:
        skill: 1 - error / error of the best naive forecast, by target; a target that could not be scored is left out.
        rows: windows that it was tested on.
    """

    skill: dict[str, float]
    rows: int = Field(ge=0, strict=False)

    @field_validator("skill", mode="before")
    @classmethod
    def _scored(cls, skill: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in skill.items() if not isinstance(value, float) or math.isfinite(value)}

    @classmethod
    def of(cls, metrics: Mapping[str, Any], params: Mapping[str, Any]) -> Self:
        """Reads the metrics and parameters of a training run; raises as `read`."""
        skill = {name.removesuffix(_SKILL): value for name, value in metrics.items() if name.endswith(_SKILL)}
        return cls.read({"skill": skill, "rows": params.get("test_rows", 0)})

    @property
    def mean(self) -> float | None:
        """The mean over the targets; None without any."""
        return sum(self.skill.values()) / len(self.skill) if self.skill else None

    def metrics(self) -> dict[str, float]:
        """The metrics of its training run."""
        return {f"{target}{_SKILL}": skill for target, skill in self.skill.items()}

    def params(self) -> dict[str, int]:
        """The parameters of its training run."""
        return {"test_rows": self.rows}


class Run:
    """Logs into one MLflow run; `id` is its identifier."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self.id = client, run_id

    def log(self, params: Mapping[str, Any] | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Logs parameters and metrics."""
        from mlflow.entities import Metric, Param

        now_ms = clock_us() // 1000
        self._client.log_batch(
            self.id,
            metrics=[Metric(name, float(value), now_ms, 0) for name, value in (metrics or {}).items()],
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
        )

    def json(self, name: str, document: Mapping[str, Any]) -> None:
        """Stores a JSON artifact."""
        self._client.log_dict(self.id, dict(document), name)

    def text(self, name: str, text: str) -> None:
        """Stores a text artifact."""
        self._client.log_text(self.id, text, name)

    def figure(self, name: str, figure: Any) -> None:
        """Stores a picture of matplotlib."""
        self._client.log_figure(self.id, figure, name)

    def folder(self, name: str, folder: Path) -> None:
        """Stores the files of a folder under a name."""
        self._client.log_artifacts(self.id, str(folder), name)

    def dataset(self, rows: "pd.DataFrame", name: str, context: str, count: int) -> None:
        """Notes which rows were used, by digest and schema of some of them, and how many there were."""
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import Dataset, DatasetInput, InputTag

        about = from_pandas(rows, name=name).to_dict()
        profile = json.dumps({"num_rows": count, "num_elements": count * rows.shape[1]})
        entity = Dataset(**{**about, "profile": profile})
        self._client.log_inputs(self.id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


class RunStore:
    """The runs of one service's model. Every method asks MLflow anew and may raise its MlflowException."""

    def __init__(self, settings: Settings) -> None:
        import mlflow

        # For what MLflow looks up by the process's own URI: `models:/`, registering.
        mlflow.set_tracking_uri(settings.mlflow)
        self.settings, self.name, self._url = settings, settings.model_name, settings.mlflow
        self.client = mlflow.MlflowClient(settings.mlflow)

    @contextlib.contextmanager
    def run(self, kind: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
        """Begins a run of the experiment `MODEL-KIND`; finishes it with the block, or marks it as failed."""
        from mlflow.tracking.context.registry import resolve_tags

        cut = {tag: value[:MAX_TAG] for tag, value in resolve_tags(dict(tags)).items()}
        run = Run(self.client, self.client.create_run(self.experiment_id(kind), run_name=name, tags=cut).info.run_id)
        try:
            yield run
        except BaseException:
            self.client.set_terminated(run.id, "FAILED")
            raise
        self.client.set_terminated(run.id)

    def add_version(
        self, run: Run, saved: Path, requirements: list[str], rows: "pd.DataFrame", predictions: "pd.DataFrame"
    ) -> str:
        """Registers a saved bundle, logged in a run, as a new version; returns it.

        Args:
            requirements: given, since guessing them imports everything anew and takes many seconds.
            rows, predictions: for the signature.
        """
        import mlflow
        from mlflow.models import Model, infer_signature

        # Otherwise the model lands in MLflow's default experiment, and its files where that keeps them.
        mlflow.set_experiment(experiment_id=self.client.get_run(run.id).info.experiment_id)
        logged = Model.log(
            None,
            mlflow.pyfunc,
            self.name,
            run_id=run.id,
            name="model",
            loader_module="fingerpost.training.pyfunc",
            data_path=str(saved),
            signature=infer_signature(rows, predictions),
            pip_requirements=requirements,
        )
        return str(logged.registered_model_version)

    def experiment_id(self, kind: str) -> str:
        """The id of the MLflow experiment of a kind of runs, made where it is not there yet."""
        from mlflow.exceptions import MlflowException

        name = f"{self.name}-{kind}"
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:
                # Somebody else made it just now.
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def runs(self, kind: str, where: str = "", most: int = 1000) -> "list[MlflowRun]":
        """The newest runs of a kind, newest first, by a filter in MLflow's language."""
        found = self.client.get_experiment_by_name(f"{self.name}-{kind}")
        if found is None:
            return []
        order = ["attributes.start_time DESC"]
        return list(self.client.search_runs([found.experiment_id], where, max_results=most, order_by=order))

    def latest_result(self, kind: str, version: str) -> dict[str, Any] | None:
        """The newest result of a kind on a version: `run_id`, `at`, `result`; None if there is none.

        Raises:
            FingerpostError: its result is not JSON.
            OSError: it cannot be fetched.
        """
        tag = "model_version" if kind == "drift" else "challenger"
        for run in self.runs(kind, f"tags.{tag} = '{version}' and attributes.status = 'FINISHED'", 1):
            at = datetime.fromtimestamp((run.info.end_time or run.info.start_time) / 1000, UTC).isoformat()
            return {"run_id": run.info.run_id, "at": at, "result": self.read_json(run.info.run_id, VERDICT)}
        return None

    def read_json(self, run_id: str, name: str) -> Any:
        """A JSON artifact of a run.

        Raises:
            FingerpostError: it is not JSON.
            OSError: it cannot be fetched.
        """
        with tempfile.TemporaryDirectory(prefix="fingerpost-artifact-") as folder:
            content = Path(self.client.download_artifacts(run_id, name, folder)).read_bytes()
        try:
            return json.loads(content)
        except ValueError as error:
            raise FingerpostError(f"{name} of run {run_id!r} is not JSON: {error}") from error

    def tag_run(self, run_id: str, tag: str, text: str) -> None:
        """Sets a tag of a run."""
        self.client.set_tag(run_id, tag, text[:MAX_TAG])

    def delete_artifact(self, run: "MlflowRun", name: str) -> None:
        """Removes an artifact of a run."""
        self.artifacts_of(run.info.artifact_uri).delete_artifacts(name)

    def artifacts_of(self, uri: str) -> Any:
        """MLflow's repository of the artifacts at a URI."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(uri, tracking_uri=self._url)
