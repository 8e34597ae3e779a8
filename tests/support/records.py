"""Good request records, host samples, reports and fingerprints, to be changed by tests."""

from dataclasses import replace
from typing import Any

import numpy as np

from fingerpost.clock import US, clock_us
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.records import HOST_SAMPLE, refusal
from fingerpost.window_report import LOAD_COLUMNS, SAMPLE_COLUMNS, WINDOW_COLUMNS, WindowReport


def record(**changes: Any) -> dict[str, Any]:
    """A good request record, with changes."""
    return {
        "time": clock_us() - US,
        "service": "shop",
        "host": "h1",
        "method": "POST",
        "route": "/work/hash",
        "status": 200,
        "bytes_in": 100,
        "bytes_out": 10,
        "auth": "none",
        "user_agent_class": "browser",
        "region": "DE",
        "duration_s": 0.01,
        "service_time_s": 0.009,
        "inflight": 1,
        "cpu_s": 0.005,
        "policy": "random",
        "propensity": 0.5,
        **changes,
    }


def sample(**changes: Any) -> dict[str, Any]:
    """A good host sample, with changes."""
    return {
        "time": clock_us() - US,
        "service": "shop",
        "host": "h1",
        "cpu_util": 0.4,
        "cores": 1.0,
        "mem_bytes": 100,
        "mem_limit_bytes": 1000,
        "inflight": 1,
        "slots": 4,
        **changes,
    }


def made_fingerprint(**changes: Any) -> Fingerprint:
    """A good fingerprint of two categories, with changes."""
    host_values = np.ones(len(FINGERPRINT_HOST_COLUMNS))
    good = Fingerprint("shop", "h1", "boot1", 0, 1_700_000_000_000_000, "v1", ("POST /a|1K", "other"), host_values)
    return replace(good, **changes)


def made_report(**changes: Any) -> WindowReport:
    """A good window report of two categories, with changes."""
    windows = np.full((2, len(WINDOW_COLUMNS)), 0.25, dtype=np.float32)
    windows[:, :3] = [[3, 1, 2], [10, 0, 10]]
    load = np.full(len(LOAD_COLUMNS), 0.5, dtype=np.float32)
    good = WindowReport(
        *("shop", "h1", "host", "h1", "boot1", 0, 1_700_000_000_000_000, 1_699_999_990_000_000, 10.0, "v1"),
        *(("POST /a|1K", "other"), windows, load, np.ones(len(SAMPLE_COLUMNS))),
    )
    return replace(good, **changes)


def good_sample(row: dict[str, Any]) -> dict[str, Any]:
    """The row, if it is a good host sample of now."""
    now = clock_us()
    assert refusal(row, HOST_SAMPLE, now - 10**7, now + 10**6) is None
    return row
