"""What telemetry weighs on the wire, and what an engine needs to take it from thousands of agents."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import measure_ingest
from benchmarks.engine_process import MeasuredEngine
from fingerpost.arrays import Floats
from fingerpost.category import SEPARATOR, Key
from fingerpost.packed_message import message
from fingerpost.settings import Settings
from fingerpost.window_report import (
    LOAD_COLUMNS,
    SAMPLE_COLUMNS,
    WINDOW_COLUMNS,
    WindowReport,
    pack,
)

_DAY_S = 86_400
_START_US = 1_700_000_000_000_000
# As `fingerpost.agent.ended_windows` tells keys, and a message's head without its body.
_KEYS_EVERY_S = 60.0
_HEAD_BYTES = 350


def measure_wire(hosts: int, categories: int, seconds: float) -> dict[str, Any]:
    """Bytes a host and day with shipped settings, and one engine worker under `hosts` agents.

    Args:
        categories: that have requests in every window, all of them measured in full.
        seconds: for how long agents report, each every 5 s; every report has a window.
    """
    figures: dict[str, Any] = {"host_and_day": bytes_a_day(categories)}
    with tempfile.TemporaryDirectory() as folder, MeasuredEngine(Path(folder), FINGERPRINT_TTL_S=600) as engine:
        figures["engine"] = measure_ingest(engine, hosts, seconds)
    return figures


def bytes_a_day(categories: int, windows: int = 60) -> dict[str, Any]:
    """What a host with requests of all categories in every window sends in a day, heads of HTTP included."""
    settings, rng = Settings(), np.random.default_rng(1)
    keys = tuple(_key(rng, number) for number in range(categories))
    names = tuple(SEPARATOR.join(key) for key in keys)
    span_s, report_s = settings.window_s, settings.agent_batch_s
    sizes, empty = [], []
    for number in range(windows):
        told = _report(rng, names, number, round(span_s * 1e6))
        counted = tuple(zip(keys, (int(each) for each in rng.integers(1, 300, categories)), strict=True))
        first = number % round(_KEYS_EVERY_S / span_s) == 0
        sizes.append(_size(told if not first else WindowReport(**{**vars(told), "keys": counted})))
        none = {"end_us": 0, "categories": (), "windows": told.windows[:0], "load": None}
        empty.append(_size(WindowReport(**{**vars(told), **none})))
    without = max(0.0, _DAY_S / report_s - _DAY_S / span_s)
    day = float(np.mean(sizes)) * _DAY_S / span_s + float(np.mean(empty)) * without
    return {
        "categories": categories,
        "window_s": span_s,
        "bytes_a_window": round(float(np.mean(sizes))),
        "bytes_without_window": round(float(np.mean(empty))),
        "mb_a_day": round(day / 1e6, 1),
    }


def _size(report: WindowReport) -> int:
    return len(message([pack(report)])) + _HEAD_BYTES


def _key(rng: np.random.Generator, number: int) -> Key:
    method, auth, agent = rng.choice(["GET", "POST"]), rng.choice(["none", "bearer"]), rng.choice(["browser", "mobile"])
    return (f"{method} /api/v1/things{number}/*", str(rng.choice(["0", "1K"])), str(auth), str(agent), "DE")


def _report(rng: np.random.Generator, names: tuple[str, ...], number: int, span_us: int) -> WindowReport:
    count = len(names)
    requests = rng.integers(2, 60, count).astype(np.float64)
    took_s: Floats = rng.lognormal(-3, 1, count)
    columns = {
        **{"requests": requests, "errors": np.zeros(count), "measured": requests},
        **{name: took_s * rng.lognormal(0, 0.3, count) for name in WINDOW_COLUMNS[3:]},
        "cpu_attributed_share": np.ones(count),
    }
    windows = np.stack([columns[name] for name in WINDOW_COLUMNS], axis=1).astype(np.float32)
    end_us = _START_US + number * span_us
    return WindowReport(
        *("shop", "web-1", "host", "web-1", "5f2b1c4e8a9d4f6b8c7d6e5f4a3b2c1d", number, end_us + 1_300_000),
        *(end_us, span_us / 1e6, "0123456789ab", names, windows),
        rng.random(len(LOAD_COLUMNS)).astype(np.float32),
        rng.random(len(SAMPLE_COLUMNS)),
    )
