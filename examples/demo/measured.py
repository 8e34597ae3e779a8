"""Measures what clients saw from Envoy's access log: by span of time, arm, model version, and around a host's job."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from examples.demo.classes import Job
from fingerpost.accesslog.envoy import parse_line
from fingerpost.arrays import Floats
from fingerpost.errors import RefusedError
from fingerpost.request_status import failed

_COLUMNS = ("time", "duration_s", "status", "host", "route", "policy", "arm", "model_version")
# Traffic that leaves a host within so many seconds before its job leaves ahead of it: a window of the demo.
AHEAD_S = 3.0


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


def of_policies(requests: pd.DataFrame, version: str) -> dict[str, pd.DataFrame]:
    """The requests that a model version routed, as `fingerpost`, and those that least request routed."""
    ours = (requests["policy"] == "fingerpost") & (requests["model_version"] == version)
    return {"fingerpost": requests[ours], "least_request": requests[requests["policy"] == "least_request"]}


def job_figures(requests: pd.DataFrame, host: str, job: Job) -> dict[str, Any]:
    """The host's share of the requests: in the `AHEAD_S` before its job, within the job, and at all other times.

    Returns:
        `requests`, `jobs` that they are of, `ahead_share`, `job_share`, `usual_share`, and `job_p90_s` of all requests
        within jobs; NaN where there were none.
    """
    sent_s, at_host = _sent_s(requests), (requests["host"] == host).to_numpy()
    since_s = job.since(sent_s)
    ahead, within = (since_s >= -AHEAD_S) & (since_s < 0), (since_s >= 0) & (since_s < job.for_s)
    durations = requests["duration_s"].to_numpy()[within]
    shares = {"ahead_share": ahead, "job_share": within, "usual_share": ~ahead & ~within}
    return {
        "requests": len(requests),
        "jobs": len(np.unique(np.round(sent_s[within] - since_s[within]))),
        **{name: round(float(at_host[span].mean()), 4) if span.any() else np.nan for name, span in shares.items()},
        "job_p90_s": round(float(np.quantile(durations, 0.9)), 5) if len(durations) else np.nan,
    }


def _sent_s(requests: pd.DataFrame) -> Floats:
    return (requests["at_s"] - requests["duration_s"]).to_numpy(np.float64)
