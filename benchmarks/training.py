"""How long features and a training take of a made fleet, and how long boosters take to fit."""

import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fingerpost.arrays import Floats, Ints
from fingerpost.category import SEPARATOR, category_key
from fingerpost.clock import US, clock_us
from fingerpost.features.definition import TARGETS
from fingerpost.lake import date_of, partition, write_table
from fingerpost.records import HOST_WINDOW
from fingerpost.schemas import SCHEMAS
from fingerpost.settings import Settings
from fingerpost.training.fit import DEFAULT_PARAMS, ROUNDS, boosted

_SEED = 7
SERVICE = "bench"
_DAY_S = 86_400
_WINDOW_S = 10
# Of the cells of a window, this share has requests.
_ACTIVE = 0.2


def measure_fits(rows: int, columns: int) -> dict[str, Any]:
    """Fits a booster for each target to made-up rows, all rounds, a thread a target.

    Returns:
        `seconds` in all, and what was fitted.
    """
    rng = np.random.default_rng(_SEED)
    matrix = rng.normal(size=(rows, columns))
    # Half of the columns matter; the rest is noise, as features are.
    outcome = np.tanh(matrix[:, : columns // 2]).sum(axis=1) * 0.1 + rng.standard_t(3, rows) * 0.2
    weight = np.ones(rows)
    began = time.perf_counter()
    with ThreadPoolExecutor(len(TARGETS)) as pool:
        fitted = list(pool.map(lambda seed: boosted(matrix, outcome, weight, DEFAULT_PARAMS, ROUNDS, seed), range(3)))
    seconds = time.perf_counter() - began
    return {
        "rows": rows,
        "columns": columns,
        "targets": len(fitted),
        "rounds": ROUNDS,
        "leaves": DEFAULT_PARAMS["num_leaves"],
        "seconds": round(seconds, 2),
    }


def measure_training(hosts: int, categories: int, days: int, windows_a_day: int) -> dict[str, Any]:
    """Makes reported windows of a fleet, builds their features, trains with the shipped defaults, and registers.

    Windows are thinned: of each day's 8,640 only so many are made, evenly spread. Features and training see them as
    the engine would have landed them.

    Returns:
        Seconds of each step, the highest resident memory after it, GB, and how many rows there were.
    """
    from benchmarks.fleet_model import make_registry
    from fingerpost.features.build import build_features
    from fingerpost.flows.features import feature_settings
    from fingerpost.training.train import train

    steps: dict[str, dict[str, float]] = {}
    began = time.perf_counter()

    def note(step: str) -> None:
        nonlocal began
        now, peak_kb = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        steps[step] = {"seconds": round(now - began, 1), "peak_rss_gb": round(peak_kb / 2**20, 2)}
        began = now

    with tempfile.TemporaryDirectory(prefix="fingerpost-training-") as folder:
        home = Path(folder)
        settings = Settings(
            service=SERVICE, home=home, mlflow_url=f"sqlite:///{home / 'mlflow.db'}", window_s=_WINDOW_S
        )
        made = make_windows(settings.lake, hosts, categories, days, windows_a_day)
        note("making windows")
        built = build_features(settings.lake, SERVICE, feature_settings(settings))
        note("features")
        make_registry(settings)
        note("registry")
        marks = {"fitting": "reading and tuning", "registering": "fitting and scoring"}
        trials = 0

        def tell(text: str) -> None:
            nonlocal trials
            trials += text.startswith("trial ")
            if text in marks:
                note(marks[text])

        trained = train(settings.lake, settings, tell)
        note("registering")
    training = ("reading and tuning", "fitting and scoring", "registering")
    return {
        "hosts": hosts,
        "categories": categories,
        "days": days,
        "windows": days * windows_a_day,
        "window_rows": made,
        "rows_in_lake": built.training_rows,
        "training_rows": trained.train_rows,
        "test_rows": trained.test_rows,
        "trials": trials,
        "steps": steps,
        "training_s": round(sum(steps[each]["seconds"] for each in training), 1),
    }


def make_windows(lake: Path, hosts: int, categories: int, days: int, windows_a_day: int) -> int:
    """Writes reported windows, loads and keys of the days before today; returns the number of window rows.

    Hosts differ by category, all slow down by a course of the day, and a tenth has a slow spell of its own each hour.
    """
    rng = np.random.default_rng(_SEED)
    names = np.array([f"h{number:04}" for number in range(hosts)], dtype=object)
    keys = [category_key("GET", f"/r{number}", "0", "none", "library", "none") for number in range(categories)]
    texts = np.array([SEPARATOR.join(key) for key in keys], dtype=object)
    level = rng.normal(-4, 0.5, categories) + rng.normal(0, 0.4, (hosts, 1)) + rng.normal(0, 0.3, (hosts, categories))
    spell_s = np.where(rng.random(hosts) < 0.1, rng.integers(0, 3600, hosts), -3600)
    first_s = (clock_us() // US // _DAY_S - days) * _DAY_S
    made = 0
    for day in range(days):
        begin_s = first_s + day * _DAY_S
        steps = np.sort(rng.choice(_DAY_S // _WINDOW_S - 1, windows_a_day, replace=False))
        ends = np.repeat((begin_s + (steps + 1) * _WINDOW_S).astype(np.int64), hosts * categories)
        chosen = rng.random(len(ends)) < _ACTIVE
        host, category = np.divmod(np.arange(len(ends)) % (hosts * categories), categories)
        end_s, host, category = ends[chosen], host[chosen], category[chosen]
        slow = np.abs(end_s % 3600 - spell_s[host]) < 300
        course = 0.3 * np.sin(2 * np.pi * end_s / _DAY_S)
        seconds = np.exp(level[host, category] + course + np.where(slow, 1.5, 0) + rng.normal(0, 0.15, len(end_s)))
        told = _window_columns(seconds, rng)
        place = {"time": end_s * US, "host": names[host], "category": texts[category]}
        _write(lake, "reported_windows", day, first_s, {**told, **place})
        end_us = np.repeat((begin_s + (steps + 1) * _WINDOW_S).astype(np.int64) * US, hosts)
        loads: dict[str, Any] = {column.name: rng.uniform(0.2, 0.8, len(end_us)) for column in HOST_WINDOW[2:]}
        every = np.tile(names, windows_a_day)
        loads |= {"time": end_us, "host": every, "cores": np.full(len(end_us), 4.0), "slots": np.full(len(end_us), 8.0)}
        _write(lake, "reported_loads", day, first_s, loads)
        counted = {"host": np.repeat(names, categories), "key": np.tile(texts, hosts)}
        sums = {"requests": np.full(hosts * categories, 1000), "time": np.full(hosts * categories, end_us[-1])}
        _write(lake, "reported_keys", day, first_s, {**counted, **sums})
        made += len(end_s)
    return made


def _window_columns(seconds: Floats, rng: np.random.Generator) -> dict[str, Floats | Ints]:
    requests = rng.poisson(20, len(seconds)) + 1
    cpu_s = seconds * 0.3
    return {
        **{"requests": requests, "measured": requests, "errors": np.zeros_like(requests)},
        **{"latency_mean_s": seconds, "latency_p50_s": seconds * 0.9, "latency_p90_s": seconds * 2},
        **{"latency_p99_s": seconds * 3, "service_time_mean_s": seconds, "unloaded_mean_s": seconds},
        **{"bytes_in_mean": np.zeros_like(seconds), "cpu_mean_s": cpu_s, "cpu_s": cpu_s * requests},
        **{"cpu_attributed_share": np.ones_like(seconds), "mem_mean_bytes": seconds * 1e6},
        **{"mem_bytes": seconds * 1e6 * requests, "inflight_mean": rng.uniform(0, 6, len(seconds))},
        **{"throughput_rps": 8 / seconds, "rate_rps": requests / _WINDOW_S},
        "window_s": np.full(len(seconds), float(_WINDOW_S)),
    }


def _write(lake: Path, kind: str, day: int, first_s: int, columns: dict[str, Any]) -> None:
    count = len(columns["time"])
    texts = {"service": SERVICE, "source": "host"}
    whole = {**{name: np.full(count, text, dtype=object) for name, text in texts.items()}, **columns}
    whole["reporter"] = whole["host"]
    schema = SCHEMAS[kind]
    arrays = [
        pa.array(whole[field.name], pa.int64() if pa.types.is_timestamp(field.type) else field.type).cast(field.type)
        for field in schema
    ]
    folder = partition(lake, kind, SERVICE, date_of((first_s + day * _DAY_S) * US))
    write_table(folder / "made.parquet", pa.table(arrays, schema=schema))
