"""Running one flow now, in this process, by its name."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

FLOWS = {
    "ingest": "flows.ingest:ingest_flow",
    "features": "flows.features:features_flow",
    "train": "flows.train:train_flow",
    "shadow": "flows.shadow:shadow_flow",
    "experiment": "flows.experiment:experiment_flow",
    "pipeline": "flows.pipeline:pipeline_flow",
    "drift": "flows.drift:drift_flow",
    "promote": "flows.promote:promote_flow",
    "retention": "flows.retention:retention_flow",
}


def run_flow(name: str) -> dict[str, Any]:
    """Runs a flow by its name and returns its result."""
    module, function = FLOWS[name].split(":")
    flow: Callable[[], dict[str, Any]] = getattr(import_module(module), function)
    # Through JSON, so that a result is the same whether it was printed or returned.
    result: dict[str, Any] = json.loads(json.dumps(flow(), default=str))
    return result
