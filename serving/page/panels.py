"""Makes the panels Traffic, Predictions, Model and Pipeline, each a JSON object, out of what the engine knows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.experiment import ALIASES, CHAMPION, Experiment
from fingerpost.features.definition import TARGETS
from fingerpost.flow_status import FlowStatus
from fingerpost.serving.models import Models
from fingerpost.serving.page.decisions import Decisions
from fingerpost.serving.page.fleet import number, numbers
from fingerpost.serving.page.windows import SERVED, Total
from fingerpost.serving.table import RoutingTable
from fingerpost.settings import Settings

# Categories of the split, and hosts of each that have a colour of their own.
_MAX_SPLIT, _MAX_SHARES = 20, 8
_MAX_SERIES = 120


def traffic_panel(
    totals: Sequence[Total],
    table: RoutingTable | None,
    minute: Floats,
    hour: Floats,
    decided: Decisions,
    guard: Mapping[str, Any],
) -> dict[str, Any]:
    """Where requests go, how many, and how long they take by who routed them.

    Args:
        minute, hour: requests of the last minute and hour by cell of the table, shape (H, C).
        guard: state of the router's guard; empty: it is not known here.
    """
    latest, kept = totals[-1] if totals else None, _thinned(totals)
    return {
        "rate_rps": number(latest.rate_rps) if latest else None,
        "failed_share": number(latest.failed_share) if latest else None,
        "series": {
            "times": [each.end_us / US for each in kept],
            **{
                name: numbers(np.array([getattr(each, name) for each in kept]))
                for name in ("rate_rps", "p50_s", "p99_s", "failed_share")
            },
        },
        "split": _split(table, minute, hour),
        "arms": _arms(decided),
        "fallbacks": dict(guard["fallbacks"]) if isinstance(guard.get("fallbacks"), dict) else None,
        "arms_problem": decided.problem,
    }


def _split(table: RoutingTable | None, minute: Floats, hour: Floats) -> list[dict[str, Any]]:
    """Of the busiest categories: which hosts take which share, in the last minute and in the last hour."""
    if table is None or not hour.size:
        return []
    found = []
    for column in np.argsort(-hour.sum(axis=0), kind="stable")[:_MAX_SPLIT].tolist():
        total, lately = hour[:, column].sum(), minute[:, column].sum()
        if total <= 0:
            continue
        order = np.argsort(-hour[:, column], kind="stable")[:_MAX_SHARES]
        shares = [
            {
                "host": table.hosts[row],
                "now": number(minute[row, column] / lately) if lately else None,
                "hour": number(hour[row, column] / total),
            }
            for row in order.tolist()
            if hour[row, column] > 0
        ]
        found.append(
            {
                "category": table.categories[column],
                "requests_minute": number(lately),
                "requests_hour": number(total),
                "hosts": shares,
                "other_hosts": int((hour[:, column] > 0).sum()) - len(shares),
            }
        )
    return found


def _arms(decided: Decisions) -> dict[str, Any]:
    """Sums over the hour and curves by minute of every arm."""
    hour, minutes = decided.hour(), decided.minutes()
    return {
        arm: {
            "requests": number(each.requests),
            "failed_share": number(each.failed / each.requests) if each.requests else None,
            "explored_share": number(each.explored / each.requests) if each.requests else None,
            "p50_s": each.quantile_s(0.5),
            "p99_s": each.quantile_s(0.99),
            "times": [60 * minute for minute, found in minutes.items() if arm in found],
            "minute_p50_s": [found[arm].quantile_s(0.5) for found in minutes.values() if arm in found],
            "minute_p99_s": [found[arm].quantile_s(0.99) for found in minutes.values() if arm in found],
        }
        for arm, each in sorted(hour.items())
    }


def predictions_panel(
    totals: Sequence[Total],
    table: RoutingTable | None,
    table_age_s: float | None,
    guard: Mapping[str, Any],
    drift: FlowStatus | None,
    settings: Settings,
) -> dict[str, Any]:
    """How far predictions were off of late, by predictor; ages; what the router's guard and the drift flow say."""
    compared = [each for each in totals if each.errors is not None and each.errors.requests > 0]
    names = sorted({name for each in compared if each.errors for name in each.errors.off}, key=_order)
    return {
        "windows": len(compared),
        "window_s": settings.window_s,
        "errors": {name: _errors(compared, name) for name in names},
        "times": [each.end_us / US for each in _thinned(compared)],
        "p99_over": _mean([each.errors.p99_over for each in compared if each.errors]),
        "source": table.source if table else None,
        "model_version": table.model_version if table else None,
        "model_share": number(table.model_share) if table else None,
        "reason": table.reason if table else "",
        "table_age_s": number(table_age_s) if table_age_s is not None else None,
        "table_ttl_s": settings.table_ttl_s,
        "fingerprint_age_s": _fingerprint_age(table),
        "guard": {name: guard[name] for name in ("trust", "trusts", "requests", "time") if name in guard} or None,
        "drifted": _drifted(drift),
        "live": _live(drift),
        "drift": None if drift is None else {"text": drift.text, "at": drift.ended_us / US, "state": drift.state},
    }


def _drifted(flow: FlowStatus | None) -> float | None:
    """1 if the champion's latest drift report says so, else 0; None: there is none."""
    champion = (flow.details or {}).get(CHAMPION) if flow else None
    return float(champion.get("verdict") == "drift") if isinstance(champion, dict) else None


def _live(flow: FlowStatus | None) -> list[dict[str, Any]]:
    """By target the champion's live error of all categories with the interval it was tested with."""
    champion = (flow.details or {}).get(CHAMPION) if flow else None
    signs = champion.get("live") if isinstance(champion, dict) else None
    names = ("target", "error", "low", "high", "windows", "found")
    return [{name: each[name] for name in names} for each in signs or [] if not each["category"]]


def _errors(compared: Sequence[Total], name: str) -> dict[str, Any]:
    """Of the windows in which a predictor was compared: means by requests, and the curve of throughput's error."""
    found = [each.errors for each in compared if each.errors is not None and name in each.errors.off]
    weight = np.array([each.requests for each in found])
    off = np.array([each.off[name] for each in found]).reshape(-1, len(TARGETS))
    typical = [_weighted(off[:, place], weight) for place in range(len(TARGETS))]
    curve = [
        number(np.expm1(each.errors.off[name][0])) if each.errors and name in each.errors.off else None
        for each in _thinned(compared)
    ]
    return {
        **{
            target: None if value is None else number(np.expm1(value))
            for target, value in zip(TARGETS, typical, strict=True)
        },
        "regret": _weighted(np.array([each.regret[name] for each in found]), weight),
        "curve": curve,
    }


def model_panel(
    models: Models,
    service: str,
    decisions: Sequence[Mapping[str, str]],
    flows: Mapping[str, FlowStatus],
    now_us: int,
    settings: Settings,
) -> dict[str, Any]:
    """Champion and challenger, the experiment under way, and the decisions with their evidence."""
    name = settings.model_copy(update={"service": service}).model_name
    experiment = models.experiment(service)
    flow = flows.get("experiment")
    verdict = (flow.details or {}) if flow else {}
    return {
        "name": name,
        "link": _link(settings.mlflow, f"/#/models/{name}"),
        "registry_problem": models.registry_problem,
        "aliases": [_alias(models, service, alias, settings, name) for alias in ALIASES],
        "previous": next((each["champion"] for each in reversed(decisions) if each.get("action") == "promote"), None),
        "experiment": _experiment(experiment, now_us) if isinstance(experiment, Experiment) else None,
        "experiment_problem": experiment if isinstance(experiment, str) else None,
        "verdict": {
            name: verdict.get(name)
            for name in ("verdict", "rule", "reason", "pairs", "planned", "effects", "sequence", "experiment", "others")
        }
        if verdict.get("verdict")
        else None,
        "decisions": [*decisions][::-1],
    }


def _alias(models: Models, service: str, alias: str, settings: Settings, name: str) -> dict[str, Any]:
    slot = models.slot(service, alias)
    version = slot.model.version if slot.model else None
    return {
        "alias": alias,
        "version": version,
        "points_at": slot.tried.version if slot.tried else None,
        "problem": slot.problem,
        "link": _link(settings.mlflow, f"/#/models/{name}/versions/{version}") if version else None,
    }


def _experiment(experiment: Experiment, now_us: int) -> dict[str, Any]:
    slot = experiment.slot_at(now_us)
    return {
        "id": experiment.id,
        "champion": experiment.champion,
        "challenger": experiment.challenger,
        "others": list(experiment.others),
        "begin": experiment.begin_us / US,
        "end": experiment.end_us / US,
        "pairs": experiment.pairs,
        "pair": None if slot is None else slot // 2 + 1,
        "arm": experiment.arm_at(now_us) if slot is not None else None,
    }


def pipeline_panel(
    flows: Mapping[str, FlowStatus],
    reporters: Mapping[str, int],
    refused: Mapping[str, float],
    disks: Mapping[str, tuple[float, str]],
    problems: Mapping[str, str],
    settings: Settings,
) -> dict[str, Any]:
    """How the flows went, who reports, what was refused, and the room on the disks.

    Args:
        reporters: `host` and `proxy` agents that report, by kind.
        refused: since the engine began, by reason.
        disks: by folder, free megabytes and what is wrong, empty: nothing.
    """
    return {
        "flows": [
            {
                "name": each.flow,
                "state": each.state,
                "started": each.started_us / US or None,
                "ended": each.ended_us / US or None,
                "succeeded": each.succeeded_us / US or None,
                "took_s": number(each.took_s),
                "lag_s": number(each.lag_s),
                "failures": each.failures,
                "text": each.text,
                "link": each.url if each.url.startswith(("http://", "https://")) else None,
            }
            for each in flows.values()
        ],
        "reporters": dict(reporters),
        "refused": {name: number(count) for name, count in sorted(refused.items(), key=lambda each: -each[1])[:20]},
        "disks": [{"folder": name, "free_mb": number(free), "problem": why} for name, (free, why) in disks.items()],
        "problems": dict(problems),
        "links": {
            name: link
            for name, link in (
                ("MLflow", _link(settings.mlflow)),
                ("Prefect", _link(settings.prefect.removesuffix("/api"))),
            )
            if link
        },
    }


def _link(url: str, path: str = "") -> str | None:
    """An address for a browser, without any password in it; None for what is no server."""
    if not url.startswith(("http://", "https://")) or "@" in url:
        return None
    return f"{url.rstrip('/')}{path}"


def _fingerprint_age(table: RoutingTable | None) -> dict[str, float | None] | None:
    """Median and greatest age of the hosts' fingerprints when the table was made, seconds."""
    if table is None or not len(table.times_us):
        return None
    ages = (table.as_of_us - table.times_us) / US
    return {"median": number(np.median(ages)), "most": number(ages.max())}


def _order(name: str) -> tuple[bool, str]:
    return name != SERVED, name


def _thinned(values: Sequence[Total]) -> list[Total]:
    """At most 120 of them, the latest among them."""
    step = -(-len(values) // _MAX_SERIES) if values else 1
    return list(values[::-step])[::-1]


def _weighted(values: Floats, weight: Floats) -> float | None:
    known = np.isfinite(values) & (weight > 0)
    return number(values[known] @ weight[known] / weight[known].sum()) if known.any() else None


def _mean(values: Sequence[float]) -> float | None:
    known = [each for each in values if np.isfinite(each)]
    return number(np.mean(known)) if known else None
