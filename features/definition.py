"""The names of features and targets, once, for training and serving."""

import hashlib

from fingerpost.category import ATTRIBUTES
from fingerpost.events import KINDS
from fingerpost.telemetry.history import HISTORY_COLUMNS, HISTORY_HOST_COLUMNS
from fingerpost.telemetry.history_state import ERRORS, QUANTITIES
from fingerpost.telemetry.windows import WINDOW_FORM

TARGETS = ("throughput_rps", "latency_p50_s", "latency_p99_s")
# What is measured and could be predicted; rows carry them all.
OUTCOMES = QUANTITIES[:4]
NAIVE = ("last", "ewma", "median")
# Version of what training rows hold beside features: their draws and weights.
_ROWS_FORM = 2

# Of every quantity, relative to the cell's rolling average (on a log scale), but for the average itself.
OWN_VIEWS = ("last", "previous", "short", "long", "level", "median", "mixed")
# How far off the forecasts of the cell were of late, as the cell's history has them.
ERROR_VIEWS = (*ERRORS, "error_lasting", "bias")
# What others know: the other hosts' mean for the category, the host's ratio in the same request type and over all
# categories, the most similar hosts, and a compromise between these and the cell's own average.
SHARED_VIEWS = ("fleet", "type", "host", "peers", "shrunk")
# What is off its level just now: this host, the category on other hosts, the fleet, its worst host.
OFF_VIEWS = ("host_off", "host_drift", "category_off", "fleet_off", "fleet_drift", "worst_off")
VIEWS = ("ewma", *OWN_VIEWS, *ERROR_VIEWS, *SHARED_VIEWS, *OFF_VIEWS)

# What the engine would serve of a target without a model; relative to the rolling average, as the views are.
BASELINE_VIEW = "baseline"

CELL_FEATURES = (
    *(f"{quantity}_{view}" for quantity in QUANTITIES for view in VIEWS),
    *(f"{target}_{BASELINE_VIEW}" for target in TARGETS),
)
TRAFFIC_FEATURES = (
    "requests_last",
    "rate_rps_last",
    "rate_rps_ewma",
    "error_share",
    "bytes_in",
    "inflight",
    "seen_windows",
    "evidence",
    "age_s",
)
HOST_FEATURES = tuple(name for name in HISTORY_HOST_COLUMNS if not name.endswith(("_off", "_drift")))
FLEET_FEATURES = ("fleet_rate_rps_last", "fleet_rate_rps_ewma", "category_rate_rps_last", "category_hosts")
OUTSIDE_FEATURES = (*(f"{kind}_{view}" for kind in KINDS for view in ("since_s", "until_s", "on")), "holiday")
TIME_FEATURES = ("day_sin", "day_cos", "week_sin", "week_cos")
NUMERIC_FEATURES = (
    *(*CELL_FEATURES, *TRAFFIC_FEATURES, *HOST_FEATURES),
    *(*FLEET_FEATURES, *TIME_FEATURES, *OUTSIDE_FEATURES),
)
CATEGORICAL_FEATURES = ATTRIBUTES
FEATURES = (*NUMERIC_FEATURES, *CATEGORICAL_FEATURES)


def naive_column(view: str, target: str) -> str:
    """The column of a naive forecast of a target: log of its value, filled where the cell was never seen."""
    return f"naive_{view}_{target}"


NAIVE_COLUMNS = tuple(naive_column(view, outcome) for view in NAIVE for outcome in OUTCOMES)


def baseline_column(target: str) -> str:
    """The column of what the engine would serve of a target without a model: log of its value."""
    return f"baseline_{target}"


BASELINE_COLUMNS = tuple(baseline_column(target) for target in TARGETS)


def schema_hash() -> str:
    """A hash of the features, in order, and of what they come from: what fits together has the same."""
    parts = (*FEATURES, *HISTORY_COLUMNS, *HISTORY_HOST_COLUMNS, str(WINDOW_FORM), str(_ROWS_FORM))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
