"""How well a service can be predicted: features, split by time, training, and errors against naive forecasts."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.errors import NoDataError
from fingerpost.features.build import FeatureSettings, build_features, load_training_rows
from fingerpost.features.definition import OUTCOMES
from fingerpost.features.foreign import find_mapping, import_telemetry, load_mapping
from fingerpost.lake import service_folder
from fingerpost.settings import Settings
from fingerpost.training.evaluate import TargetScore, score
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from fingerpost.training.leave_hosts_out import leave_hosts_out_score
from fingerpost.training.splits import MIN_PART_ROWS, time_split

_NAMES = {"throughput_rps": "throughput", **{f"latency_{each}_s": f"latency_{each}" for each in ("p50", "p90", "p99")}}
_BAGS = 3
_PHASES = 4
# With more rows than this there is enough to learn from without windows at other places.
_FEW_ROWS = 50_000
_MAX_ROWS = 400_000


@dataclass(frozen=True)
class BacktestReport:
    """What `fingerpost evaluate` prints.

    Args:
        source: `lake`, or the name of the mapping.
        refused: rows left out, by reason.
        scores: `throughput`, `latency_p50`, ...; None where it was not measured.
        unseen: throughput (or else latency_p50) of hosts that were held out; None: not asked for.
    """

    source: str
    window_s: float
    requests: int
    refused: dict[str, int]
    hosts: int
    categories: int
    train_rows: int
    test_rows: int
    train_from: str
    test_from: str
    test_to: str
    scores: dict[str, TargetScore | None]
    unseen: TargetScore | None

    def to_json(self) -> dict[str, Any]:
        targets = {name: {"rows": 0} if each is None else _score_json(each) for name, each in self.scores.items()}
        found = {name: value for name, value in vars(self).items() if name not in ("scores", "unseen")}
        unseen = {} if self.unseen is None else {"unseen_hosts": _score_json(self.unseen)}
        return {**found, "targets": targets, **unseen}


def _score_json(each: TargetScore) -> dict[str, Any]:
    return {**asdict(each), "best_naive": each.best_naive, "skill": each.skill}


def backtest(
    folder: Path,
    window_s: float,
    test_share: float,
    settings: Settings,
    mapping: Path | None = None,
    service: str | None = None,
    unseen_hosts: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> BacktestReport:
    """Trains on the earlier part of some telemetry and scores on the later; touches neither.

    Args:
        folder: a lake, or foreign telemetry.
        test_share: share of the windows, the latest, that is only scored.
        mapping: how to read foreign telemetry; None: the shipped one that fits.
        service: of a lake with several.
        unseen_hosts: also hold out hosts.
        progress: called with what is being done.

    Raises:
        NoDataError: there is too little, or it cannot be read; the message says what to do.
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-evaluate-") as scratch:
        home, refused = Path(scratch), Counter[str]()
        if mapping is None and (folder / "requests").is_dir():
            source, lake, name = "lake", folder, service or _only_service(folder)
        else:
            progress("reading")
            chosen = load_mapping(mapping) if mapping else find_mapping(folder)
            source, lake, name = chosen.name, home / "lake", service or "evaluated"
            refused = import_telemetry(folder, chosen, lake, name)
        features = FeatureSettings(
            window_s, settings.halflife_s, settings.max_categories, settings.min_category_requests
        )
        progress("windows and features")
        report = build_features(lake, name, features, home / "phase-0")
        rows = load_training_rows(home / "phase-0", name, _MAX_ROWS)
        happened = rows[~rows["cold_start"]].reset_index(drop=True)
        gap = pd.Timedelta(seconds=window_s)
        earlier, later = time_split(happened["time"], test_share, gap)
        test, last = happened[later], happened.loc[earlier, "time"].max()
        past = [rows[rows["time"] <= last]]
        phases = _PHASES if len(past[0]) < _FEW_ROWS else 1
        for phase in range(1, phases):
            progress(f"windows at place {phase + 1} of {phases}")
            shift_s = window_s * phase / phases
            build_features(lake, name, replace(features, shift_s=shift_s), home / f"phase-{phase}")
            other = load_training_rows(home / f"phase-{phase}", name, _MAX_ROWS)
            other["time"] = other["time"] + pd.Timedelta(seconds=shift_s)
            past.append(other[other["time"] <= last])
        scores, train_rows = _scores(past, test, test_share, gap, progress)
        unseen = None
        if unseen_hosts:
            progress("holding out hosts")
            target = "throughput_rps" if scores["throughput"] else "latency_p50_s"
            unseen = leave_hosts_out_score(home / "phase-0", name, features, test_share, target)
        return BacktestReport(
            source,
            window_s,
            report.request_records,
            dict(refused),
            len(report.hosts),
            len(report.categories),
            train_rows,
            len(test),
            past[0]["time"].min().isoformat(),
            test["time"].min().isoformat(),
            test["time"].max().isoformat(),
            scores,
            unseen,
        )


def _scores(
    past: Sequence[pd.DataFrame], test: pd.DataFrame, share: float, gap: pd.Timedelta, progress: Callable[[str], None]
) -> tuple[dict[str, TargetScore | None], int]:
    rows = pd.concat(past, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)
    fitting, validating = time_split(rows["time"], share, gap)
    train, valid = rows[fitting], rows[validating & ~rows["cold_start"].to_numpy()]
    measured = [
        outcome
        for outcome in OUTCOMES
        if all(np.isfinite(part[outcome]).sum() >= MIN_PART_ROWS for part in (train, valid, test))
    ]
    progress(f"training on {len(rows)} rows")
    bundle = fit_bundle(train, valid, DEFAULT_PARAMS, measured, _BAGS)
    found = score(bundle, test)
    return {_NAMES[outcome]: found.get(outcome) for outcome in OUTCOMES}, len(rows)


def _only_service(lake: Path) -> str:
    services = sorted(path.name.removeprefix("service=") for path in (lake / "requests").glob("service=*"))
    if len(services) != 1:
        raise NoDataError(
            f"{service_folder(lake, 'requests', '...')} holds {len(services)} services: name one with --service"
        )
    return services[0]
