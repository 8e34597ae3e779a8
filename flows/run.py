"""Running one flow now, in this process, by its name."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fingerpost.aliases import CHAMPION

FLOWS = {
    "ingest": "fingerpost.flows.ingest:ingest_flow",
    "features": "fingerpost.flows.features:features_flow",
    "train": "fingerpost.flows.train:train_flow",
    "shadow": "fingerpost.flows.shadow:shadow_flow",
    "experiment": "fingerpost.flows.experiment:experiment_flow",
    "pipeline": "fingerpost.flows.pipeline:pipeline_flow",
    "drift": "fingerpost.flows.drift:drift_flow",
    "promote": "fingerpost.flows.promote:promote_flow",
    "retention": "fingerpost.flows.retention:retention_flow",
}


def run_flow(name: str) -> dict[str, Any]:
    """Runs a flow by its name and returns its result."""
    module, function = FLOWS[name].split(":")
    flow: Callable[[], dict[str, Any]] = getattr(import_module(module), function)
    # Through JSON, so that a result is the same whether it was printed or returned.
    result: dict[str, Any] = json.loads(json.dumps(flow(), default=str))
    return result


def verdict(name: str, result: dict[str, Any]) -> str:
    """What a flow came to, in a line for people; `done` for those that only do their work."""
    if name in ("pipeline", "train"):
        trained = result["train"] if name == "pipeline" else result
        role = "champion" if trained["champion"] else "challenger" if trained["challenger"] else "registered only"
        return f"version {trained['model_version']} is {role}: {trained['reason']}"
    if name == "drift":
        champion = result.get(CHAMPION)
        return f"{champion['verdict']}: {'; '.join(champion['reasons'])}" if champion else "there is no champion yet"
    if name == "promote":
        decided = result["decision"]
        return f"{decided['action']}: {decided['reason']}" if decided else "there is nothing to decide"
    if name == "experiment":
        return f"{result['action']}: {result['why']}"
    if name == "shadow":
        return f"{result['status']}: {result['reason']}"
    return "done"
