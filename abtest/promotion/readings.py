"""What the policy reads out of the results of comparisons: the one place that knows how these are written.

Readers are tolerant: a result is a JSON object of which only a verdict and a count are needed. Whatever else it says
goes into the record as it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# In the words of the results: what ends a comparison, and what does not.
GOOD, SAME = "better", "no difference"
BAD = ("worse", "guardrail")
_COUNTS = ("pairs", "samples", "cells", "rows", "requests", "n")


@dataclass(frozen=True)
class Comparison:
    """A comparison of challenger and champion.

    Args:
        verdict: better, no difference, worse, guardrail; anything else is undecided.
        samples: what it rests on.
        champion, challenger: versions, where it says so.
        reason: why, in its own words; empty where it says nothing.
    """

    verdict: str
    samples: int
    champion: str | None
    challenger: str | None
    reason: str = ""


@dataclass(frozen=True)
class Offline:
    """Skill of every target on held-out windows, and the rows it rests on."""

    skill: dict[str, float]
    rows: int


@dataclass(frozen=True)
class State:
    """A verdict on what is measured now.

    Args:
        good: None: it could not be told.
        version: the version it is told for, where it says so.
    """

    good: bool | None
    why: str
    version: str | None


def read_comparison(result: Mapping[str, Any]) -> Comparison:
    """A shadow comparison, off-policy estimate or experiment."""
    verdict = str(result.get("verdict", "undecided")).strip().lower().replace("_", " ")
    counts = (result.get(name) for name in _COUNTS)
    samples = next((int(count) for count in counts if count is not None and _is_number(count)), 0)
    reason = str(result.get("reason") or "")
    return Comparison(verdict, samples, _version(result, "champion"), _version(result, "challenger"), reason)


def read_offline(run: Mapping[str, Any]) -> Offline:
    """The metrics and params of a training run."""
    metrics, params = run.get("metrics") or {}, run.get("params") or {}
    suffix = ".skill"
    skill = {
        name.removesuffix(suffix): float(value)
        for name, value in metrics.items()
        if name.endswith(suffix) and _is_number(value)
    }
    try:
        rows = int(params.get("test_rows", 0))
    except (TypeError, ValueError):
        rows = 0
    return Offline(skill, rows)


def read_drift(result: Mapping[str, Any]) -> State:
    """Drift, of a drift report."""
    good = {"drift": False, "no drift": True}.get(str(result.get("verdict")))
    return State(good, _reasons(result.get("reasons")), _version(result, "model_version"))


def read_data(result: Mapping[str, Any]) -> State:
    """Data tests, of a drift report."""
    data = result.get("data")
    passed = data.get("passed") if isinstance(data, Mapping) else None
    failed = data.get("failed") if isinstance(data, Mapping) else None
    return State(passed if isinstance(passed, bool) else None, _reasons(failed), _version(result, "model_version"))


def read_time(text: object) -> datetime | None:
    """A moment written as ISO 8601 with its time zone; None if it is not one."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _version(result: Mapping[str, Any], name: str) -> str | None:
    value = result.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _reasons(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
