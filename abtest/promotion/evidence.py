"""Gathering the evidence on a challenger from the registry: one JSON document, which the decision is a function of.

Results of comparisons are runs in the MLflow experiments `MODEL-shadow`, `MODEL-offpolicy`, `MODEL-experiment` and
`MODEL-drift`, each with a tag of the version it is about and an artifact `verdict.json`.
"""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fingerpost.abtest.registry import HOLD_TAG, WATCH_TAG, Registry
from fingerpost.aliases import CHAMPION

VERDICT = "verdict.json"
# Kind of result: the tag of its run that names the version.
_KINDS = {
    "shadow": "challenger",
    "offpolicy": "challenger",
    "experiment": "challenger",
    "drift": "model_version",
}


def gather(registry: Registry, challenger: str, now: datetime | None = None) -> dict[str, Any]:
    """The evidence on a version, as `decide` takes it."""
    moment = now or datetime.now(UTC)
    return {
        "format": 1,
        "model_name": registry.name,
        "champion": registry.version_of(CHAMPION),
        "challenger": challenger,
        "as_of": moment.isoformat(),
        "hold": _hold(registry, moment),
        "offline": _offline(registry, challenger),
        **{kind: latest_result(registry, kind, tag, challenger) for kind, tag in _KINDS.items()},
    }


def latest_result(registry: Registry, kind: str, tag: str, version: str) -> dict[str, Any] | None:
    """The newest result of a kind on a version: `run_id`, `at`, `result`; None if there is none."""
    client = registry.client
    experiment = client.get_experiment_by_name(f"{registry.name}-{kind}")
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.{tag} = '{version}' and attributes.status = 'FINISHED'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not runs:
        return None
    info = runs[0].info
    at = datetime.fromtimestamp((info.end_time or info.start_time) / 1000, UTC).isoformat()
    return {"run_id": info.run_id, "at": at, "result": read_artifact(client, info.run_id, VERDICT)}


def read_artifact(client: Any, run_id: str, name: str) -> Any:
    """A JSON artifact of a run.

    Raises:
        OSError, ValueError: it is not there, or not JSON.
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-artifact-") as folder:
        return json.loads(Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8"))


def _offline(registry: Registry, version: str) -> dict[str, Any] | None:
    run = registry.training_run(version)
    if run is None:
        return None
    return {"run_id": run.info.run_id, "metrics": dict(run.data.metrics), "params": dict(run.data.params)}


def _hold(registry: Registry, moment: datetime) -> dict[str, Any] | None:
    """A manual hold, or else a watch over the last promotion."""
    hold = registry.note(HOLD_TAG)
    if hold is not None:
        until = hold.get("until")
        if not until or datetime.fromisoformat(until) > moment:
            return {
                "reason": f"on hold by {hold.get('who')}: {hold.get('reason') or 'no reason given'}",
                "until": until,
            }
    watch = registry.note(WATCH_TAG)
    if watch is not None and watch.get("version") == registry.version_of(CHAMPION):
        return {"reason": f"version {watch['version']} is still watched", "until": None}
    return None
