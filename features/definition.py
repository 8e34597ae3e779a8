"""The names of features and targets, once, for training and serving."""

import hashlib

from fingerpost.category import ATTRIBUTES

TARGETS = ("throughput_rps", "latency_p50_s", "latency_p99_s")
# What a cell's fingerprint follows, all on a log scale.
QUANTITIES = (*TARGETS, "cpu_request_s")
NAIVE = ("last", "ewma", "median")

# Of the cell: last window, rolling average, slow robust level, running median. Of others: the fleet's mean for the
# category, the host's mean ratio to the fleet, and how far the host is off its levels just now.
VIEWS = ("last", "ewma", "level", "median", "fleet", "host", "now")
CELL_FEATURES = tuple(f"{quantity}_{view}" for quantity in QUANTITIES for view in VIEWS)
TRAFFIC_FEATURES = ("rate_rps_ewma", "rate_rps_last", "error_rate_ewma", "bytes_in_ewma", "inflight_ewma", "age_s")
HOST_FEATURES = (
    "host_cpu_util",
    "host_cpu_util_ewma",
    "host_mem_share",
    "host_inflight",
    "host_background_cores",
    "host_cores",
    "host_slots",
    "host_rate_rps_ewma",
    "host_rate_rps_last",
    "fleet_rate_rps_last",
)
NUMERIC_FEATURES = (*CELL_FEATURES, *TRAFFIC_FEATURES, *HOST_FEATURES)
CATEGORICAL_FEATURES = ATTRIBUTES
FEATURES = (*NUMERIC_FEATURES, *CATEGORICAL_FEATURES)


def naive_column(view: str, target: str) -> str:
    """The column of a naive forecast of a target: log of its value, filled where the cell was never seen."""
    return f"naive_{view}_{target}"


def schema_hash() -> str:
    """A hash of the features, in order: model and features fit if theirs are the same."""
    return hashlib.sha256("\n".join(FEATURES).encode()).hexdigest()[:12]
