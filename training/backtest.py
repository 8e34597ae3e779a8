"""Backtests a service: trains on the earlier telemetry, scores on the later, or on hosts that were held out."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.errors import NoDataError
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.definition import OUTCOMES
from fingerpost.features.foreign import find_mapping, import_telemetry, load_mapping
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.replay import Replay as WindowReplay
from fingerpost.features.windows import Windowed, windowed_of
from fingerpost.lake import dates, read, service_folder
from fingerpost.settings import Settings
from fingerpost.telemetry.windows import Arrays
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.ceiling import Ceiling, ceiling_of, half_differences
from fingerpost.training.evaluate import MIN_PART_ROWS, TargetScore, log_mae, score, time_split
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from fingerpost.training.ranking import Ranking, Replay, rank_quality, rank_table, replay_choices

_NESTED = ("scores", "ceilings", "ranking", "replay", "unseen")
_NAMES = {"throughput_rps": "throughput", **{f"latency_{each}_s": f"latency_{each}" for each in ("p50", "p90", "p99")}}
_BAGS = 3
_PHASES = 4
# With more rows than this there is enough to learn from without windows at other places.
_FEW_ROWS = 50_000
_MAX_ROWS = 400_000
_HOST_FOLDS = 2
# Of the categories, the share that a new host serves; the others are what is predicted.
_SERVED_SHARE = 0.3
_SERVED_SEED = 7
# Dates looked at to hold out hosts, the latest first.
_MAX_DATES = 3


@dataclass(frozen=True)
class BacktestReport:
    """What `fingerpost evaluate` prints.

    Args:
        source: `lake`, or the name of the mapping.
        refused: rows left out, by reason.
        scores: `throughput`, `latency_p50`, ...; None where it was not measured.
        ceilings: by target, of those whose windows have two requests and more.
        ranking, replay: of the choice of hosts on the windows tested on; of no groups where no category has several.
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
    ceilings: dict[str, Ceiling]
    ranking: Ranking
    replay: Replay
    unseen: TargetScore | None

    def to_json(self) -> dict[str, Any]:
        targets: dict[str, dict[str, Any]]
        targets = {name: {"rows": 0} if each is None else _score_json(each) for name, each in self.scores.items()}
        for name, ceiling in self.ceilings.items():
            targets[name]["ceiling"] = {**asdict(ceiling), "skill": ceiling.skill, "share": ceiling.share}
        found = {name: value for name, value in vars(self).items() if name not in _NESTED}
        found |= {**self.ranking.metrics(), **self.replay.metrics()}
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
    tested: Callable[[ModelBundle, pd.DataFrame, dict[str, Floats]], None] = lambda _bundle, _rows, _logs: None,
) -> BacktestReport:
    """Trains on the earlier part of some telemetry and scores on the later; touches neither.

    Args:
        folder: a lake, or foreign telemetry.
        test_share: share of the windows, the latest, that is only scored.
        mapping: how to read foreign telemetry; None: the shipped one that fits.
        service: of a lake with several.
        unseen_hosts: also hold out hosts.
        progress: called with what is being done.
        tested: called with the model, the rows it is tested on, and what it says of them, as logs by target.

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
        bundle, train_rows = _fitted(past, test, test_share, gap, progress)
        predicted = bundle.predict_log(test)
        tested(bundle, test, predicted)
        found = score(bundle, test, predicted)
        scores = {_NAMES[outcome]: found.get(outcome) for outcome in OUTCOMES}
        progress("noise of windows")
        halves = half_differences(lake, home / "phase-0", name, window_s)
        ceilings = {_NAMES[target]: ceiling_of(target, halves, test, predicted[target]) for target in bundle.targets}
        ranks = rank_table(bundle, test, predicted)
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
            {name: each for name, each in ceilings.items() if each is not None},
            rank_quality(ranks),
            replay_choices(ranks),
            unseen,
        )


def _fitted(
    past: Sequence[pd.DataFrame], test: pd.DataFrame, share: float, gap: pd.Timedelta, progress: Callable[[str], None]
) -> tuple[ModelBundle, int]:
    rows = pd.concat(past, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)
    fitting, validating = time_split(rows["time"], share, gap)
    train, valid = rows[fitting], rows[validating & ~rows["cold_start"].to_numpy()]
    measured = [
        outcome
        for outcome in OUTCOMES
        if all(np.isfinite(part[outcome]).sum() >= MIN_PART_ROWS for part in (train, valid, test))
    ]
    progress(f"training on {len(rows)} rows")
    return fit_bundle(train, valid, DEFAULT_PARAMS, measured, _BAGS), len(rows)


def _only_service(lake: Path) -> str:
    services = sorted(path.name.removeprefix("service=") for path in (lake / "requests").glob("service=*"))
    if len(services) != 1:
        raise NoDataError(
            f"{service_folder(lake, 'requests', '...')} holds {len(services)} services: name one with --service"
        )
    return services[0]


def leave_hosts_out_score(
    lake: Path, service: str, settings: FeatureSettings, test_share: float, target: str = "throughput_rps"
) -> TargetScore:
    """Scores one target on hosts that took no part in training, in categories they have not served.

    Every second host (by name) is held out in turn: a model is trained on the earlier windows of the others; then those
    hosts join, as if they were new, and serve three tenths of the categories. What they would do with the others is
    scored from their second window on. The naive forecasts have no history of these cells either; they are the fleet's
    mean of the category times the host's mean ratio to it.

    Args:
        lake: with windows made by the features step.
        target: one of OUTCOMES.

    Raises:
        NoDataError: fewer than four hosts, or too little to train on.
    """
    windowed = _all_windows(lake, service)
    if len(windowed.hosts) < 2 * _HOST_FOLDS:
        raise NoDataError(f"{len(windowed.hosts)} hosts are too few to hold some out: {2 * _HOST_FOLDS} are needed")
    errors: dict[str, list[np.ndarray]] = {"model": []}
    for fold in range(_HOST_FOLDS):
        rows, predicted = _fold(windowed, range(fold, len(windowed.hosts), _HOST_FOLDS), settings, test_share, target)
        errors["model"].append(np.abs(rows[target].to_numpy() - predicted))
        for view in ("last", "ewma", "median"):
            errors.setdefault(view, []).append(
                np.abs(rows[target].to_numpy() - rows[f"naive_{view}_{target}"].to_numpy())
            )
    means = {name: log_mae(np.concatenate(each), 0.0) for name, each in errors.items()}
    measured = int(np.isfinite(np.concatenate(errors["model"])).sum())
    return TargetScore(measured, means.pop("model"), means)


def _fold(
    windowed: Windowed, held_out: Sequence[int], settings: FeatureSettings, test_share: float, target: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of what new hosts have not served yet, and what is predicted of them (logs)."""
    parts = (windowed.windows, windowed.loads)
    ends = np.unique(windowed.windows["end_us"])
    join_us = ends[round(len(ends) * (1 - test_share))]
    kept = [~np.isin(each["host"], held_out) for each in parts]
    early = [each["end_us"] <= join_us for each in parts]
    earlier = [_where(parts[place], kept[place] & early[place]) for place in (0, 1)]
    joined = [_where(parts[place], kept[place] | ~early[place]) for place in (0, 1)]

    def rows_of(windows: Arrays, loads: Arrays, simulate_cold_start: bool) -> pd.DataFrame:
        replay = WindowReplay(windowed.hosts, windowed.categories, settings.window_s, settings.halflife_s)
        return replay.run(windows, loads, simulate_cold_start)

    past = rows_of(earlier[0], earlier[1], True).sort_values(["time", "host", "category"], ignore_index=True)
    fitting, validating = time_split(past["time"], 0.25, pd.Timedelta(seconds=settings.window_s))
    bundle = fit_bundle(past[fitting], past[validating], DEFAULT_PARAMS, (target,))
    new = np.isin(joined[0]["host"], held_out)
    served = np.random.default_rng(_SERVED_SEED).random((len(windowed.hosts), len(windowed.categories))) < _SERVED_SHARE
    hidden = new & ~served[joined[0]["host"].astype(np.int64), joined[0]["category"].astype(np.int64)]
    rows = rows_of({**joined[0], "hidden": hidden}, joined[1], False)
    chosen = rows["host"].isin([windowed.hosts[host] for host in held_out]) & ~rows["own"] & rows["host_age_s"].notna()
    rows = rows[chosen].reset_index(drop=True)
    return rows, bundle.predict_log(rows)[target]


def _all_windows(lake: Path, service: str) -> Windowed:
    days = dates(lake, "windows", service)[-_MAX_DATES:]
    return windowed_of(*(read(lake, kind, service, on=days) for kind in ("windows", "loads")))


def _where(arrays: Arrays, mask: np.ndarray) -> Arrays:
    return {name: values[mask] for name, values in arrays.items()}
