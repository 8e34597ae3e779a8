"""Measures what clients saw from Envoy's access log: by span of time, arm and model version."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.accesslog.envoy import parse_line
from fingerpost.errors import RefusedError
from fingerpost.request_status import failed

_COLUMNS = ("time", "duration_s", "status", "host", "route", "policy", "arm", "model_version")


def requests_between(access_log: Path, service: str, begin_s: float, end_s: float) -> pd.DataFrame:
    """The requests that ended in a span of time, seconds since 1970, in the order of their ends.

    Returns:
        `at_s` (seconds since 1970), `duration_s`, `status`, `host`, `route`, `policy`, `arm`, `model_version`.
    """
    rows = []
    for line in access_log.read_bytes().splitlines():
        try:
            row = parse_line(line, service)
        except RefusedError:
            continue
        if row["duration_s"] is not None and begin_s <= row["time"] / 1e6 < end_s:
            rows.append(tuple(row[name] for name in _COLUMNS))
    found = pd.DataFrame(rows, columns=list(_COLUMNS))
    found["at_s"] = found.pop("time").astype("float64") / 1e6
    found["duration_s"] = found["duration_s"].astype("float64")
    return found.sort_values("at_s", ignore_index=True)


def figures(requests: pd.DataFrame) -> dict[str, Any]:
    """`requests`, `failed`, `p50_s`, `mean_s`, `p99_s`; NaN where there were none."""
    durations = requests["duration_s"].to_numpy(dtype=np.float64)
    if not len(durations):
        return {"requests": 0, "failed": 0, "p50_s": np.nan, "mean_s": np.nan, "p99_s": np.nan}
    p50, p99 = np.percentile(durations, [50, 99])
    return {
        "requests": len(durations),
        "failed": int(failed(requests["status"].to_numpy(float)).sum()),
        "p50_s": round(float(p50), 5),
        "mean_s": round(float(durations.mean()), 5),
        "p99_s": round(float(p99), 5),
    }


def without_beginnings(requests: pd.DataFrame, column: str, washout_s: float) -> pd.DataFrame:
    """Without the requests that ended within `washout_s` of a change of `column`: they may be of before it."""
    changed = requests[column] != requests[column].shift()
    since = requests["at_s"] - requests["at_s"].where(changed).ffill()
    return requests[since >= washout_s]
