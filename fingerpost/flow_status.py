"""Keeps in the lake how the latest run of each flow went, and what was decided: for the engine's page and metrics.

Small JSON files, `status/service=S/FLOW.json` and `decisions.json`, which whoever sees the lake can read without
Prefect or MLflow. What is read was written by others of the platform: damaged files count as absent. What notes
something returns the file and its content, to be sent where others see the lake (`fingerpost.features.status`).
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fingerpost.clock import US
from fingerpost.lake import service_folder, write_text_atomically
from fingerpost.names import is_name

KIND = "status"
RUNNING, OK, FAILED = "running", "ok", "failed"
_DECISIONS = "decisions"
_MAX_DECISIONS, _MAX_TEXT = 100, 500
MAX_BYTES = 256 * 1024


@dataclass(frozen=True)
class FlowStatus:
    """The latest run of a flow; times in microseconds since 1970, 0: never.

    Args:
        state: `running`, `ok` or `failed`; a run that was killed stays `running`.
        took_s: of the latest run that ended, seconds.
        lag_s: how much later than planned the latest run began, seconds.
        failures: runs that failed since the last success.
        text: what came of it, or why it failed.
        url: of the run's page in Prefect; empty: not known.
        details: numbers for the page, by the flow.
    """

    flow: str
    service: str
    state: str
    started_us: int
    ended_us: int = 0
    succeeded_us: int = 0
    took_s: float = 0.0
    lag_s: float = 0.0
    failures: int = 0
    text: str = ""
    url: str = ""
    details: dict[str, Any] | None = None


_STATUS = TypeAdapter(FlowStatus)


def flow_statuses(lake: Path, service: str) -> dict[str, FlowStatus]:
    """The statuses of a service's flows, by flow."""
    found = {}
    for path in sorted(service_folder(lake, KIND, service).glob("*.json")):
        if path.stem != _DECISIONS and (status := _read(path)) is not None:
            found[status.flow] = status
    return found


def note_started(
    lake: Path, service: str, flow: str, now_us: int, url: str = "", planned_us: int | None = None
) -> tuple[Path, bytes]:
    """Notes that a run began; a lake that cannot be written is no reason not to run.

    Args:
        planned_us: when it was to begin; None: now.
    """
    before = _read(_path(lake, service, flow)) or FlowStatus(flow, service, RUNNING, now_us)
    lag_s = 0.0 if planned_us is None else max(0.0, (now_us - planned_us) / US)
    return _write(lake, _changed(before, state=RUNNING, started_us=now_us, lag_s=lag_s, url=url))


def note_ended(
    lake: Path, service: str, flow: str, now_us: int, failed: bool, text: str, details: Mapping[str, Any] | None = None
) -> tuple[Path, bytes]:
    """Notes how a run ended.

    Args:
        text: what came of it, or why it failed.
        details: numbers for the page; None: those of before stay.
    """
    before = _read(_path(lake, service, flow)) or FlowStatus(flow, service, RUNNING, now_us)
    after = _changed(
        before,
        state=FAILED if failed else OK,
        ended_us=now_us,
        succeeded_us=before.succeeded_us if failed else now_us,
        took_s=max(0.0, (now_us - before.started_us) / US),
        failures=before.failures + 1 if failed else 0,
        text=text[:_MAX_TEXT],
        details=before.details if details is None else dict(details),
    )
    return _write(lake, after)


def note_decision(lake: Path, service: str, decision: Mapping[str, str]) -> tuple[Path, bytes]:
    """Adds a decision on a model version to those that are kept; the same `id` again replaces itself.

    Args:
        decision: short texts, `id`, `when` (ISO 8601) and `action` among them.
    """
    kept = [each for each in decisions(lake, service) if each.get("id") != decision["id"]]
    text = json.dumps([*kept, {name: str(value)[:_MAX_TEXT] for name, value in decision.items()}][-_MAX_DECISIONS:])
    return _written(decisions_path(lake, service), text)


def decisions_path(lake: Path, service: str) -> Path:
    """The file of a service's decisions."""
    return _path(lake, service, _DECISIONS)


def decisions(lake: Path, service: str) -> list[dict[str, str]]:
    """The decisions on a service's model versions, oldest first; at most the latest hundred."""
    try:
        found = json.loads(_bytes(decisions_path(lake, service)))
        return [{str(name): str(value) for name, value in each.items()} for each in found][-_MAX_DECISIONS:]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _changed(status: FlowStatus, **values: Any) -> FlowStatus:
    return FlowStatus(**{**asdict(status), **values})


def _path(lake: Path, service: str, name: str) -> Path:
    return service_folder(lake, KIND, service) / f"{name}.json"


def _read(path: Path) -> FlowStatus | None:
    try:
        found = _STATUS.validate_json(_bytes(path))
    except (OSError, ValueError):
        return None
    return found if is_name(found.flow) and found.flow == path.stem else None


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _write(lake: Path, status: FlowStatus) -> tuple[Path, bytes]:
    return _written(_path(lake, status.service, status.flow), json.dumps(asdict(status)))


def _written(path: Path, text: str) -> tuple[Path, bytes]:
    with contextlib.suppress(OSError):
        write_text_atomically(path, text)
    return path, text.encode()
