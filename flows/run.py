"""Runs one flow now, in this process, by its name."""

import json
from collections.abc import Callable
from typing import Any

from fingerpost.experiment import CHAMPION
from fingerpost.flows.table import FLOWS


def run_flow(name: str, service: str = "") -> dict[str, Any]:
    """Runs a flow of a service by its name and returns its result; empty: of the settings' own service."""
    flow: Callable[[str], dict[str, Any]] = FLOWS[name].load()
    # Through JSON, so that a result is the same whether it was printed or returned.
    result: dict[str, Any] = json.loads(json.dumps(flow(service), default=str))
    return result


def verdict(name: str, result: dict[str, Any]) -> str:
    """Sums up a flow's result in a line for people; `done` for those that only do their work."""
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
