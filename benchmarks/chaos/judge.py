"""What must hold after all faults: every record once, and a registry that is whole."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.load import Id, Told
from fingerpost.lake import QUARANTINE, read
from fingerpost.settings import Settings

# Between a kill and what a client sees of it.
_SLACK_S = 0.5
_OK = 200


@dataclass
class Records:
    """How often each request is recorded.

    Attributes:
        logged: ids in the proxy's log, the source.
        lost: in the log and not in the lake.
        doubled: more often in the lake than in the log.
        set_aside: in quarantine in place of the lake; of `lost`.
        unlogged: answered to a client and not in the log: lines of a proxy that was killed, or had no room.
    """

    logged: int = 0
    in_lake: int = 0
    lost: int = 0
    doubled: int = 0
    set_aside: int = 0
    unlogged: int = 0
    examples: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_records(settings: Settings, told: Told) -> Records:
    """Compares the proxy's log with the lake, by id, for requests with status 200."""
    logged = logged_ids(settings.home)
    kept = read(settings.lake, "requests", settings.service, columns=["time", "status", "bytes_in", "bytes_out"])
    rows = kept.filter(_is_ok(kept)).to_pylist()
    in_lake = Counter(Id(row["bytes_in"], row["bytes_out"]) for row in rows)
    aside = {
        Id(row["bytes_in"], row["bytes_out"])
        for path in (settings.lake / QUARANTINE / "requests").rglob("*.parquet")
        for row in _rows_of(path)
    }
    lost, doubled = logged - in_lake, in_lake - logged
    return Records(
        *(logged.total(), in_lake.total(), lost.total(), doubled.total()),
        sum(each in aside for each in lost),
        sum(each not in logged for each in told.answered),
        [f"lost {each}" for each in list(lost)[:5]] + [f"doubled {each}" for each in list(doubled)[:5]],
    )


def logged_ids(home: Path) -> Counter[Id]:
    """The requests of the log and of those that it was moved on to, those with status 200; cut lines are none."""
    found: Counter[Id] = Counter()
    for path in home.glob("access.log*"):
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and str(entry.get("status")) == str(_OK) and entry.get("host"):
                found[Id(int(entry["bytes_in"]), int(entry["bytes_out"]))] += 1
    return found


def unexcused(told: Told, killed: list[float]) -> list[str]:
    """The failures of requests that were not in flight when a proxy or a host was killed."""
    return [
        each.why
        for each in told.failures
        if not any(each.began - _SLACK_S <= when <= each.ended + _SLACK_S for when in killed)
    ]


def judge_registry(settings: Settings) -> list[str]:
    """What is not whole in the registry, in words; empty: all is."""
    import mlflow

    client, name = mlflow.MlflowClient(f"sqlite:///{settings.home / 'mlflow.db'}"), settings.model_name
    versions = {str(each.version): each for each in client.search_model_versions(f"name = '{name}'")}
    if not versions:
        return ["there is no version"]
    found = []
    for number, version in versions.items():
        run = client.get_run(version.run_id or "")
        if run.info.status != "FINISHED":
            found.append(f"version {number} is of a run that is {run.info.status}")
    aliases = client.get_registered_model(name).aliases
    found += [
        f"{alias} is version {version}, which is not there"
        for alias, version in aliases.items()
        if str(version) not in versions
    ]
    for experiment in client.search_experiments():
        going_on = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
        found += [f"run {run.info.run_id} of {experiment.name} never ended" for run in going_on]
    artifacts = settings.home / "mlartifacts"
    empty = [
        str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file() and not path.stat().st_size
    ]
    return found + [f"{path} is empty" for path in empty]


def _is_ok(table: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table.column("status"), _OK)


def _rows_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(path).read(["bytes_in", "bytes_out"]).to_pylist()
    return rows
