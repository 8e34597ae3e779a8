"""Whether a model was registered before: a training that is run again makes no second version of it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

# On runs: what the model they made is, so that the same one is known again.
MODEL_TAG = "fingerpost.model"


def model_digest(saved: Path) -> str:
    """The same for the same model, of the same format: a hash of all the files it is saved as, in a folder."""
    digest = hashlib.sha256()
    for path in sorted(saved.iterdir()):
        digest.update(f"{path.name}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def registered_before(client: "MlflowClient", experiment: str, model_name: str, digest: str) -> str | None:
    """The version that a finished run registered this very model as, or None.

    Runs that were killed before they had registered it are marked as killed.

    Args:
        experiment: name of the MLflow experiment with the trainings.
        digest: of `model_digest`.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    for run in client.search_runs([found.experiment_id], f"tags.`{MODEL_TAG}` = '{digest}'"):
        versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
        ready = [each.version for each in versions if each.name == model_name and each.status == "READY"]
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "FINISHED" if ready else "KILLED")
        if ready:
            return str(ready[0])
    return None
