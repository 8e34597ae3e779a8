"""The words of the telemetry as columns: request record, host sample, window, fingerprint.

Plain Python, so that the agent can use it without loading Arrow or pandas. `fingerpost.schemas` turns it into
Arrow schemas, `fingerpost.agent.batches` into Parquet files; the bounds are what every door checks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from fingerpost.names import is_name

Kind = Literal["timestamp", "string", "int64", "float64"]
MAX_TEXT = 512
_NAMES = ("service", "host")
# Of columns whose bounds are not their own: times and names.
_UNBOUND: dict[str, type] = {"timestamp": int, "string": str}
_PLAIN: dict[str, type] = {"int64": int, "float64": float, "string": str}


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        kind: the Arrow type; a `timestamp` is microseconds since 1970, UTC.
        required: a row without it is refused.
        low, high: inclusive bounds of a number; None: unbounded.
    """

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    low: float | None = None
    high: float | None = None
    # Name, the type of a value that needs no closer look, and its bounds as numbers: in one, for millions of values.
    plain: tuple[str, type | None, float, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kind = _PLAIN.get(self.kind) if self.name not in _NAMES else None
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        object.__setattr__(self, "plain", (self.name, kind, low, high))


REQUEST_RECORD: tuple[Column, ...] = (
    Column("time", "timestamp", "when the request ended", required=True),
    Column("service", "string", "service it was for", required=True),
    Column("host", "string", "host that served it", required=True),
    Column("method", "string", "HTTP method", required=True),
    Column("route", "string", "route template, without ids and query", required=True),
    Column("status", "int64", "HTTP status", required=True, low=100, high=599),
    Column("bytes_in", "int64", "bytes of the request's body", required=True, low=0, high=2**40),
    Column("bytes_out", "int64", "bytes of the response's body", required=True, low=0, high=2**40),
    Column("auth", "string", "auth method: none, basic, bearer, api-key, mtls, cookie, other", required=True),
    Column("user_agent_class", "string", "browser, mobile, bot, library, service, other", required=True),
    Column("region", "string", "coarse region of the client, or `none`", required=True),
    Column("duration_s", "float64", "seconds, as the client side of the proxy saw it, if known", low=0, high=3600),
    Column("service_time_s", "float64", "seconds the upstream took", low=0, high=3600),
    Column("inflight", "int64", "requests on the host when it was sent", low=0, high=10**6),
    Column("cpu_s", "float64", "CPU-seconds it cost the host, if known", low=0, high=3600),
    Column(
        "cpu_attributed", "int64", "whether `cpu_s` is its category's attributed cost: 1, or measured: 0", low=0, high=1
    ),
    Column("mem_bytes", "int64", "memory it held on the host, bytes, if known", low=0, high=2**50),
    Column("policy", "string", "routing policy that sent it"),
    Column("arm", "string", "experiment arm"),
    Column("model_version", "string", "model version that sent it"),
    Column("propensity", "float64", "probability with which this host was chosen", low=0, high=1),
    Column("predicted_cost", "float64", "cost predicted for this host", low=0),
    Column("weight", "float64", "requests it stands for, if it is of a sample: 1 / the share kept", low=1, high=1e9),
)

# What tells that a host is about to be slow, as shares of the time since the last sample, or of the window.
HOST_SIGN: tuple[Column, ...] = (
    Column("throttled_share", "float64", "share of the CPU quota's periods that it was throttled in", low=0, high=1),
    Column("cpu_pressure", "float64", "share of the time that some task waited for a CPU", low=0, high=1),
    Column("mem_pressure", "float64", "share of the time that some task waited for memory", low=0, high=1),
    Column("steal_share", "float64", "share of the CPU time that other virtual machines had", low=0, high=1),
)
SIGNS = tuple(column.name for column in HOST_SIGN)

HOST_SAMPLE: tuple[Column, ...] = (
    Column("time", "timestamp", "when it was measured", required=True),
    Column("service", "string", "service the host serves", required=True),
    Column("host", "string", "host", required=True),
    Column("cpu_util", "float64", "share of the cores it may use, since the last sample", required=True, low=0, high=1),
    Column("cores", "float64", "cores it may use", required=True, low=0.001, high=4096),
    Column("mem_bytes", "int64", "memory in use, bytes", required=True, low=0, high=2**50),
    Column("mem_limit_bytes", "int64", "memory it may use, bytes", required=True, low=1, high=2**50),
    Column("inflight", "int64", "requests on the host", low=0, high=10**6),
    Column("slots", "int64", "requests it serves at once", low=1, high=10**6),
    *HOST_SIGN,
)

WINDOW: tuple[Column, ...] = (
    Column("time", "timestamp", "when the window ended", required=True),
    Column("service", "string", "service", required=True),
    Column("host", "string", "host", required=True),
    Column("category", "string", "category", required=True),
    Column("window_s", "float64", "length of the window, seconds", required=True, low=0),
    Column("requests", "int64", "requests that ended in it", required=True, low=0),
    Column("errors", "int64", "of which the host failed: status 500 and above", required=True, low=0),
    Column("measured", "int64", "of which answered with 100 to 399: what follows is of them", required=True, low=0),
    Column("rate_rps", "float64", "requests a second", required=True, low=0),
    Column("latency_mean_s", "float64", "mean duration, seconds", low=0),
    Column("latency_p50_s", "float64", "median duration, seconds", low=0),
    Column("latency_p90_s", "float64", "90th percentile of duration, seconds", low=0),
    Column("latency_p99_s", "float64", "99th percentile of duration, seconds", low=0),
    Column("service_time_mean_s", "float64", "mean upstream time, seconds", low=0),
    Column("unloaded_mean_s", "float64", "mean upstream time as it would be with a free place, seconds", low=0),
    Column("bytes_in_mean", "float64", "mean bytes of the request's body", low=0),
    Column("cpu_mean_s", "float64", "mean CPU-seconds of a request", low=0),
    Column("cpu_attributed_share", "float64", "of the requests in that mean, those with attributed CPU", low=0, high=1),
    Column("cpu_s", "float64", "CPU-seconds of all its requests", low=0),
    Column("mem_mean_bytes", "float64", "mean memory of a request, bytes", low=0),
    Column("mem_bytes", "float64", "memory attributed to its requests, bytes", low=0),
    Column("inflight_mean", "float64", "mean in-flight when its requests were sent", low=0),
    Column("throughput_rps", "float64", "rate the host could serve this category at, alone", low=0),
)

# The state of a host; what is not known is null (NaN on the wire).
FINGERPRINT_HOST: tuple[Column, ...] = (
    Column("cpu_util", "float64", "share of the host's cores in use, rolling", low=0, high=1),
    Column("cores", "float64", "cores it may use", low=0.001, high=4096),
    Column("host_mem_bytes", "float64", "memory in use, bytes", low=0, high=2**50),
    Column("mem_limit_bytes", "float64", "memory it may use, bytes", low=1, high=2**50),
    Column("host_inflight", "float64", "requests on the host, when last told", low=0, high=10**6),
    Column("slots", "float64", "requests it serves at once", low=1, high=10**6),
    Column("background_cores", "float64", "cores in use by what is no request", low=0, high=4096),
    Column("host_rate_rps", "float64", "requests a second, rolling", low=0, high=10**9),
)
# The rolling state of each category on a host, as people read it.
FINGERPRINT_CELL: tuple[Column, ...] = (
    Column("requests", "float64", "number of requests it rests on, the old ones weighing less", low=0, high=10**12),
    Column("rate_rps", "float64", "requests a second", low=0, high=10**9),
    Column("error_rate", "float64", "share that failed at the server", low=0, high=1),
    Column("throughput_rps", "float64", "rate the host could serve this category at, alone", low=0),
    Column("latency_p50_s", "float64", "median duration, seconds", low=0, high=3600),
    Column("latency_p99_s", "float64", "99th percentile of duration, seconds", low=0, high=3600),
    Column("cpu_s", "float64", "CPU-seconds a request: measured with its overhead, or attributed", low=0, high=3600),
    Column("cpu_attributed_s", "float64", "CPU-seconds a request, attributed from the host's CPU", low=0, high=3600),
    Column("cpu_error_s", "float64", "standard error of `cpu_attributed_s`", low=0, high=10**6),
    Column("mem_bytes", "float64", "memory a request holds, attributed, bytes", low=0, high=2**50),
    Column("mem_error_bytes", "float64", "standard error of `mem_bytes`", low=0, high=2**60),
    Column("inflight_mean", "float64", "mean in-flight on the host when its requests were sent", low=0, high=10**6),
    Column("age_s", "float64", "since the window of its last request, seconds", low=0, high=10**9),
)
# A fingerprint in the lake: a row a category.
FINGERPRINT: tuple[Column, ...] = (
    Column("time", "timestamp", "what it is as of", required=True),
    Column("service", "string", "service", required=True),
    Column("host", "string", "host", required=True),
    Column("boot_id", "string", "life of the agent that numbered it", required=True),
    Column("sequence", "int64", "its number in that life", required=True, low=0),
    Column("halflife_s", "float64", "age at which an observation weighs half, seconds", required=True, low=0),
    Column("category_version", "string", "version of the category table", required=True),
    Column("category", "string", "category", required=True),
    *FINGERPRINT_HOST,
    *FINGERPRINT_CELL,
)

HOST_WINDOW: tuple[Column, ...] = (
    Column("time", "timestamp", "when the window ended", required=True),
    Column("host", "string", "host", required=True),
    Column("cpu_util", "float64", "mean share of the cores it may use", low=0, high=1),
    Column("mem_share", "float64", "mean share of the memory it may use", low=0),
    Column("inflight", "float64", "mean requests on the host", low=0),
    Column("cores", "float64", "cores it may use", low=0),
    Column("slots", "float64", "requests it serves at once", low=0),
    Column("mem_left_bytes", "float64", "memory it may still use, bytes"),
    Column("background_cores", "float64", "cores in use that no request accounts for", low=0),
    *HOST_SIGN,
)

# Windows and loads as reports told them, and how often each finest category came; what the engine lands.
_SOURCE = Column("source", "string", "who reports: `host`, its own agent, or `proxy`", required=True)
_REPORTER = Column("reporter", "string", "name of the agent that reports", required=True)
REPORTED_WINDOW: tuple[Column, ...] = (*WINDOW, _SOURCE, _REPORTER)
REPORTED_LOAD: tuple[Column, ...] = (
    *HOST_WINDOW[:1],
    Column("service", "string", "service the host serves", required=True),
    *HOST_WINDOW[1:],
    _SOURCE,
    _REPORTER,
)
REPORTED_KEY: tuple[Column, ...] = (
    Column("time", "timestamp", "when the report was made", required=True),
    Column("service", "string", "service", required=True),
    Column("host", "string", "host", required=True),
    _SOURCE,
    _REPORTER,
    Column("key", "string", "finest category, its attributes joined by `|`", required=True),
    Column("requests", "int64", "its requests since the report before", required=True, low=1, high=2**40),
)

# An event that was told of a service or a host; `time` is when it was told, or else withdrawn.
EVENT: tuple[Column, ...] = (
    Column("time", "timestamp", "when it was told, or else withdrawn", required=True),
    Column("service", "string", "service that it concerns", required=True),
    Column("host", "string", "host that it concerns; none: all of the service"),
    Column("kind", "string", "deploy, config or campaign; closed arm: the engine's own", required=True),
    Column("at_us", "int64", "when it begins, microseconds since 1970", required=True, low=0, high=10**17),
    Column("until_us", "int64", "when it ends, microseconds since 1970", low=0, high=10**17),
    Column("note", "string", "a few words for people"),
    Column("withdrawn_us", "int64", "when it was withdrawn, microseconds since 1970", low=0, high=10**17),
)


def refusal(row: Mapping[str, Any], columns: tuple[Column, ...], earliest_us: int, latest_us: int) -> str | None:
    """Why a row is refused, or None if it is good; `fingerpost.schemas.refusals` says the same of whole tables.

    Args:
        row: column name to value.
        earliest_us, latest_us: inclusive bounds of its times, microseconds since 1970.

    Returns:
        `<column>:<what>`, what being one of missing, type, negative, too_small, too_large, not_finite, too_long,
        not_unicode, bad_name, too_old, future; the first that applies, in the order of the columns.
    """
    get = row.get
    for column in columns:
        name, plain, least, most = column.plain
        value = get(name)
        if value is None:
            if column.required:
                return f"{name}:missing"
            continue
        kind = type(value)
        # Fast path: most values are valid and need no further check.
        if kind is plain:
            if len(value) <= MAX_TEXT and value.isascii() if kind is str else least <= value <= most:
                continue
        elif (
            plain is None
            and kind is _UNBOUND[column.kind]
            and (earliest_us <= value <= latest_us if kind is int else _is_name(value))
        ):
            continue
        problem = _problem(column, value, earliest_us, latest_us)
        if problem:
            return f"{name}:{problem}"
    return None


def _problem(column: Column, value: Any, earliest_us: int, latest_us: int) -> str | None:
    if column.kind == "string":
        return text_problem(column.name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "type"
    # An integer is finite, and may be too large to be asked.
    if isinstance(value, float) and not math.isfinite(value):
        return "not_finite"
    if column.kind in ("timestamp", "int64") and value != int(value):
        return "type"
    if column.kind == "timestamp":
        return "too_old" if value < earliest_us else "future" if value > latest_us else None
    if column.low is not None and value < column.low:
        return "negative" if value < 0 else "too_small"
    if column.high is not None and value > column.high:
        return "too_large"
    return None


def text_problem(name: str, value: Any) -> str | None:
    """Why a text column's value is refused, as `refusal` names it; None if it is good."""
    if not isinstance(value, str):
        return "type"
    if len(value) > MAX_TEXT:
        return "too_long"
    if has_surrogates(value):
        return "not_unicode"
    if name in _NAMES and not _is_name(value):
        return "bad_name"
    return None


@lru_cache(maxsize=1024)
def _is_name(value: str) -> bool:
    return is_name(value)


def has_surrogates(text: str) -> bool:
    """Whether there are half characters in a text, which JSON can hold and files cannot."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
