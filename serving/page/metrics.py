"""Gives what the page knows as metrics: errors of predictions, capacity, experiment, flows and decisions."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fingerpost.features.definition import TARGETS
from fingerpost.metric_family import BUILD_INFO, Family, Sample, build_info

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from fingerpost.serving.engine import Engine

_PLACE = "fingerpost_engine"
ERROR = Family(
    f"{_PLACE}_prediction_error_ratio", "gauge",
    "Mean relative error of predictions over the last hour, by the windows that followed; 0 is perfect.",
    ("service", "predictor", "target"),
)  # fmt: skip
REGRET = Family(
    f"{_PLACE}_prediction_regret_ratio", "gauge",
    "What the host predicted fastest takes longer than the fastest one did, over the last hour; 0 is perfect.",
    ("service", "predictor"),
)  # fmt: skip
P99_OVER = Family(
    f"{_PLACE}_p99_exceeded_ratio", "gauge",
    "Share of the cells' measured p99 above the predicted one, over the last hour.", ("service",),
)  # fmt: skip
PICKER_AGE = Family(
    f"{_PLACE}_picker_table_age_seconds", "gauge",
    "Since the table that a picker was given last was known to be right, of at most a hundred with the oldest.",
    ("service", "kind", "picker"),
)  # fmt: skip
RATE = Family(
    f"{_PLACE}_fleet_requests_per_second", "gauge", "Requests a second of the whole fleet, latest window.", ("service",)
)
CAPACITY = Family(
    f"{_PLACE}_fleet_capacity_requests_per_second", "gauge",
    "What the fleet could carry of the mix: `any` routing at most, as split at `present`, `blind` to categories.",
    ("service", "routing"),
)  # fmt: skip
HEADROOM = Family(
    f"{_PLACE}_headroom_ratio", "gauge",
    "Share of the capacity by any routing that is free `now`, and in five minutes (`5m`) as forecast.",
    ("service", "horizon"),
)  # fmt: skip
HOST_STATES = Family(f"{_PLACE}_host_states", "gauge", "Hosts by their state on the page.", ("service", "state"))
ROUTED = Family(
    f"{_PLACE}_routed_requests", "gauge", "Requests of the last hour by who routed them.", ("service", "arm")
)
ROUTED_LATENCY = Family(
    f"{_PLACE}_routed_latency_seconds", "gauge", "Quantiles of their durations.", ("service", "arm", "quantile")
)
EXPLORED = Family(
    f"{_PLACE}_routed_explored_ratio", "gauge", "Share of them that explored another host than the best.",
    ("service", "arm"),
)  # fmt: skip
FAILED = Family(f"{_PLACE}_routed_failed_ratio", "gauge", "Share of them that failed.", ("service", "arm"))
MODEL = Family(
    f"{_PLACE}_model_info", "gauge", "1; which version is in use under an alias.", ("service", "alias", "version")
)
EXPERIMENT = Family(
    f"{_PLACE}_experiment_info", "gauge", "1 while an experiment of two versions runs.",
    ("service", "experiment", "champion", "challenger"),
)  # fmt: skip
EFFECT = Family(
    f"{_PLACE}_experiment_effect", "gauge",
    "What the latest experiment's challenger changes: a ratio, of error rates a difference; estimate, low, high.",
    ("service", "metric", "bound"),
)  # fmt: skip
DRIFT = Family(f"{_PLACE}_drift", "gauge", "1 if the latest drift report of the champion says so.", ("service",))
LIVE_INTERVAL = Family(
    f"{_PLACE}_live_error", "gauge",
    "The champion's live error, mean |log(measured / predicted)|, and the interval it was tested with, by the latest "
    "drift report: `error`, `low`, `high`.",
    ("service", "target", "bound"),
)  # fmt: skip
SUCCESS = Family(
    "fingerpost_flow_last_success_timestamp_seconds", "gauge", "When a flow last succeeded; 0: never.",
    ("service", "flow"),
)  # fmt: skip
TOOK = Family(
    "fingerpost_flow_duration_seconds", "gauge", "How long its latest run took, succeeded or not.", ("service", "flow")
)
LAG = Family(
    "fingerpost_flow_lag_seconds", "gauge", "How much later than planned its latest run began.", ("service", "flow")
)
FAILURES = Family(
    "fingerpost_flow_failures", "gauge", "Runs of it that failed since its last success.", ("service", "flow")
)
DECISIONS = Family(
    "fingerpost_promotion_decisions", "gauge", "Of the latest hundred decisions on versions, those of an action.",
    ("service", "action"),
)  # fmt: skip
DECIDED = Family(
    "fingerpost_promotion_last_timestamp_seconds", "gauge", "When such a decision was last made.", ("service", "action")
)
FAMILIES = (
    ERROR, REGRET, P99_OVER, PICKER_AGE, RATE, CAPACITY, HEADROOM, HOST_STATES, ROUTED, ROUTED_LATENCY, EXPLORED,
    FAILED, MODEL, EXPERIMENT, EFFECT, DRIFT, LIVE_INTERVAL, SUCCESS, TOOK, LAG, FAILURES, DECISIONS, DECIDED,
    BUILD_INFO,
)  # fmt: skip
_ACTIONS = ("promote", "rollback", "reject", "wait", "forced", "kept")
_MAX_SERVICES = 100


class PageMetrics:
    """Collects what the page of each service that is asked for would show; a scrape counts as one more viewer."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def collect(self) -> "Iterator[Metric]":
        """Called by the registry."""
        services = sorted({self._engine.settings.service, *self._engine.refresher.services()})[:_MAX_SERVICES]
        pages = {name: self._engine.page.of(name).numbers() for name in services}
        yield build_info("engine")
        for family, samples in _SAMPLES.items():
            yield family.of(
                ((service, *labels), value)
                for service, page in pages.items()
                for labels, value in samples(page)
                if value is not None and math.isfinite(value)
            )


def _errors(page: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float | None]]:
    for name, found in page["predictions"]["errors"].items():
        for target in TARGETS:
            yield (name, target), found[target]


def _worth(*names: tuple[str, str]) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
    return lambda page: [((label,), page["worth"][name]) for name, label in names] if page["worth"] else []


def _arms(name: str) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
    return lambda page: [((arm,), each[name]) for arm, each in page["traffic"]["arms"].items()]


def _flows(value: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
    return lambda page: [((each["name"],), value(each)) for each in page["pipeline"]["flows"]]


def _experiment(page: Mapping[str, Any]) -> Iterable[Sample]:
    found = page["model"]["experiment"]
    return [((found["id"], found["champion"], found["challenger"]), 1.0)] if found else []


def _effects(page: Mapping[str, Any]) -> Iterator[Any]:
    verdict = page["model"]["verdict"]
    for effect in ((verdict or {}).get("effects") or {}).values():
        for bound in ("estimate", "low", "high"):
            yield (str(effect["metric"]), bound), effect[bound]


def _decisions(page: Mapping[str, Any]) -> Iterable[Sample]:
    counts = Counter(each.get("action") for each in page["model"]["decisions"])
    return [((action,), float(counts[action])) for action in _ACTIONS]


def _decided(page: Mapping[str, Any]) -> Iterable[Sample]:
    latest: dict[str, float] = {}
    for each in reversed(page["model"]["decisions"]):
        if each.get("action") in _ACTIONS:
            latest[each["action"]] = _seconds(each.get("when", ""))
    return [((action,), at) for action, at in latest.items()]


def _seconds(when: str) -> float:
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return math.nan


_SAMPLES: dict[Family, Callable[[Mapping[str, Any]], Iterable[Any]]] = {
    ERROR: _errors,
    REGRET: lambda page: [((name,), each["regret"]) for name, each in page["predictions"]["errors"].items()],
    P99_OVER: lambda page: [((), page["predictions"]["p99_over"])],
    RATE: lambda page: [((), page["traffic"]["rate_rps"])],
    CAPACITY: _worth(("bound_rps", "any"), ("present_rps", "present"), ("blind_rps", "blind")),
    HEADROOM: _worth(("headroom_share", "now"), ("forecast_headroom_share", "5m")),
    HOST_STATES: lambda page: [((name,), float(count)) for name, count in page["fleet"]["states"].items()],
    ROUTED: _arms("requests"),
    ROUTED_LATENCY: lambda page: [
        ((arm, quantile), each[name])
        for arm, each in page["traffic"]["arms"].items()
        for name, quantile in (("p50_s", "0.5"), ("p99_s", "0.99"))
    ],
    EXPLORED: _arms("explored_share"),
    FAILED: _arms("failed_share"),
    PICKER_AGE: lambda page: [
        ((each["kind"], each["name"]), each["table_age_s"]) for each in page["pickers"]["listed"]
    ],
    MODEL: lambda page: [
        ((each["alias"], each["version"]), 1.0) for each in page["model"]["aliases"] if each["version"]
    ],
    EXPERIMENT: _experiment,
    EFFECT: _effects,
    DRIFT: lambda page: [((), page["predictions"]["drifted"])],
    LIVE_INTERVAL: lambda page: [
        ((each["target"], bound), each[bound])
        for each in page["predictions"]["live"]
        for bound in ("error", "low", "high")
    ],
    SUCCESS: _flows(lambda flow: flow["succeeded"] or 0.0),
    TOOK: _flows(lambda flow: flow["took_s"]),
    LAG: _flows(lambda flow: flow["lag_s"]),
    FAILURES: _flows(lambda flow: float(flow["failures"])),
    DECISIONS: _decisions,
    DECIDED: _decided,
}
