"""Says of every host how it is and why, and how fast it is at each category, relative to the category's best host."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fingerpost.arrays import Floats, significant
from fingerpost.clock import US
from fingerpost.features.definition import TARGETS
from fingerpost.serving.page.windows import Point
from fingerpost.serving.table import RoutingTable

# Rows and columns of the picture at most: beyond, it is the hosts with something to tell, then the busiest.
MAX_HOSTS, MAX_CATEGORIES = 60, 40
# A host is anomalous that is so many times slower than predicted, over the latest windows and so many requests.
_ANOMALOUS, _ENOUGH, _LATEST = 1.5, 20, 3
_FAILING = 0.05
# A router takes traffic off a host that costs so much more than predicted, or succeeds so much less often.
_EJECTED_COST, _EJECTED_SUCCESS = 3.0, 0.7
_MAX_LISTED = 200
OK, WARMING, ANOMALOUS, FAILING, EJECTED, DRAINING, SILENT = (
    "ok", "warming", "anomalous", "failing", "ejected", "draining", "silent",
)  # fmt: skip
STATES = (SILENT, EJECTED, FAILING, ANOMALOUS, DRAINING, WARMING, OK)


@dataclass
class HostRow:
    """One host as the page shows it.

    Args:
        state: one of STATES, the worst that holds.
        why: a sentence for each that holds.
        off: measured over predicted time of its latest requests; None: too few.
    """

    name: str
    state: str = OK
    why: list[str] = field(default_factory=list)
    host_class: str = ""
    zone: str = ""
    rate_rps: float = 0.0
    weight: float | None = None
    age_s: float | None = None
    off: float | None = None

    def note(self, state: str, why: str) -> None:
        """Adds something that holds; the worst names the state."""
        self.state = min(self.state, state, key=STATES.index)
        self.why.append(why)


def host_rows(
    listed: Sequence[Mapping[str, Any]],
    table: RoutingTable | None,
    points: Sequence[Point],
    rates_rps: Floats,
    failed: Floats,
    guard: Mapping[str, Any],
    silent_s: float,
    now_s: float | None = None,
) -> list[HostRow]:
    """Every host that is known, by name.

    Args:
        listed: of `Members.listing`.
        table: in force; None: there is none.
        points: the latest windows.
        rates_rps, failed: requests a second, and the share that failed, of the table's hosts, shape (H,).
        guard: state of the router's guard, as `TrustKeeper.state` gives it; empty: it is not known here.
        silent_s: a host that was not heard of for so long is in no table, seconds.
        now_s: seconds since 1970; None: the clock's.
    """
    now = time.time() if now_s is None else now_s
    rows = {str(each["host"]): HostRow(str(each["host"])) for each in listed}
    if table is not None:
        rows.update({name: HostRow(name) for name in table.hosts if name not in rows})
    for each in listed:
        _note_member(rows[str(each["host"])], each, now, silent_s)
    if table is not None:
        off, requests = slowdown(points, table.hosts)
        for place, name in enumerate(table.hosts):
            row = rows[name]
            row.rate_rps, row.weight = float(rates_rps[place]), float(table.weights[place])
            if row.weight < 1:
                row.note(WARMING, f"new: it takes {row.weight:.0%} of its share while it warms up")
            if requests[place] >= _ENOUGH and np.isfinite(off[place]):
                row.off = float(off[place])
                if row.off > _ANOMALOUS:
                    row.note(ANOMALOUS, f"{row.off:.1f} times as slow as predicted in the latest windows")
            if failed[place] > _FAILING:
                row.note(FAILING, f"{failed[place]:.0%} of its requests fail")
    for name, found in guard.get("hosts", {}).items():
        if name in rows:
            _note_guard(rows[name], float(found["cost"]), float(found["success"]))
    return [rows[name] for name in sorted(rows)]


def _note_member(row: HostRow, listed: Mapping[str, Any], now_s: float, silent_s: float) -> None:
    row.host_class, row.zone = str(listed["class"]), str(listed["zone"])
    row.age_s = max(0.0, now_s - float(listed["heard"]))
    if listed["state"] == "draining":
        row.note(DRAINING, "draining: it ends what it has and gets nothing new")
    if row.age_s > silent_s:
        row.note(SILENT, f"silent for {_span(row.age_s)}: no agent reports on it")
    elif not listed["reports"]:
        row.note(WARMING, "announced, and has not reported yet: it is taken to be as its class")


def _note_guard(row: HostRow, cost: float, success: float) -> None:
    if success < _EJECTED_SUCCESS:
        row.note(EJECTED, f"the router sends it next to nothing: it succeeds {success:.2f} times as often as others")
    elif cost > _EJECTED_COST:
        row.note(EJECTED, f"the router sends it little: it costs {cost:.1f} times what was predicted")


def slowdown(points: Sequence[Point], hosts: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Measured over predicted median time of each host in its latest windows, and of how many requests that is."""
    sums, weights = np.zeros(len(hosts)), np.zeros(len(hosts))
    place = {name: number for number, name in enumerate(hosts)}
    for point in points[-_LATEST:]:
        requests = point.requests.astype(np.float64)
        # By throughput, where it is known: it does not grow with the load.
        apart = point.predicted[..., 0].astype(np.float64) - point.measured[..., 0].astype(np.float64)
        fallback = point.measured[..., 1].astype(np.float64) - point.predicted[..., 1].astype(np.float64)
        apart = np.where(np.isfinite(apart), apart, fallback)
        weight = np.where(np.isfinite(apart), requests, 0.0)
        of_host, total = (weight * np.nan_to_num(apart)).sum(axis=1), weight.sum(axis=1)
        for number, name in enumerate(point.hosts):
            if name in place:
                sums[place[name]] += of_host[number]
                weights[place[name]] += total[number]
    return np.exp(np.divide(sums, weights, out=np.full(len(hosts), np.nan), where=weights > 0)), weights


def shown_places(rows: Sequence[HostRow], table: RoutingTable, category_rps: Floats) -> tuple[list[int], list[int]]:
    """Places of the hosts and categories that the pictures have, by name and by traffic."""
    row_of = {each.name: each for each in rows}
    found = [row_of[name] for name in table.hosts]
    chosen = sorted(range(len(found)), key=lambda place: (found[place].state == OK, -found[place].rate_rps))[:MAX_HOSTS]
    order = np.argsort(-category_rps, kind="stable")[:MAX_CATEGORIES].tolist()
    return sorted(chosen), order


def fleet_panel(rows: Sequence[HostRow], table: RoutingTable | None, category_rps: Floats) -> dict[str, Any]:
    """The panel: hosts and why, and the matrices of the picture, a row a host."""
    states = Counter(each.state for each in rows)
    ordered = sorted(rows, key=lambda each: (STATES.index(each.state), -each.rate_rps, each.name))
    panel: dict[str, Any] = {
        "states": {name: states.get(name, 0) for name in STATES},
        "known": len(rows),
        "hosts": [_host_json(each) for each in ordered[:_MAX_LISTED]],
        "picture": None,
    }
    if table is None or not table.hosts or not table.categories:
        return panel
    hosts, categories = shown_places(rows, table, category_rps)
    throughput, p50 = table.throughput_rps.T, table.latency_p50_s.T
    with np.errstate(invalid="ignore", divide="ignore"):
        faster = throughput / np.nanmax(np.where(np.isfinite(throughput), throughput, -np.inf), axis=0)
        quicker = np.nanmin(np.where(np.isfinite(p50), p50, np.inf), axis=0) / p50
    grid = np.ix_(hosts, categories)
    state_of = {each.name: each.state for each in rows}
    panel["picture"] = {
        "hosts": [table.hosts[place] for place in hosts],
        "states": [state_of[table.hosts[place]] for place in hosts],
        "categories": [table.categories[place] for place in categories],
        "all_hosts": len(table.hosts),
        "all_categories": len(table.categories),
        "throughput_rps": numbers(throughput[grid]),
        "latency_p50_s": numbers(p50[grid]),
        "relative_throughput": numbers(faster[grid]),
        "relative_latency": numbers(quicker[grid]),
        "evidence": numbers(table.evidence.T[grid]),
    }
    return panel


def cell_history(
    points: Sequence[Point], table: RoutingTable | None, host: str, category: str
) -> dict[str, Any] | None:
    """Measured beside predicted of one cell over time; None: neither the table nor a window has such a cell.

    The interval is the one that held 80 % of what was measured of the category, over all hosts and kept windows.
    """
    times: list[float] = []
    measured, predicted, requests, residuals = [], [], [], []
    for point in points:
        if category not in point.categories:
            continue
        column = point.categories.index(category)
        known = point.measured[:, column].astype(np.float64) - point.predicted[:, column].astype(np.float64)
        residuals.append(known[np.isfinite(known).all(axis=1)])
        if host in point.hosts:
            row = point.hosts.index(host)
            times.append(point.end_us / US)
            measured.append(np.exp(point.measured[row, column].astype(np.float64)))
            predicted.append(np.exp(point.predicted[row, column].astype(np.float64)))
            requests.append(float(point.requests[row, column]))
    now = None
    if table is not None and host in table.hosts and category in table.categories:
        row, column = table.categories.index(category), table.hosts.index(host)
        now = {name: number(getattr(table, name)[row, column]) for name in (*TARGETS, "evidence")}
    if now is None and not times:
        return None
    off = np.concatenate(residuals) if residuals else np.zeros((0, 3))
    factors = np.exp(np.quantile(off, [0.1, 0.9], axis=0)) if len(off) >= _ENOUGH else None
    return {
        "host": host,
        "category": category,
        "now": now,
        "times": times,
        "requests": requests,
        "measured": {name: numbers(np.array([each[place] for each in measured])) for place, name in enumerate(TARGETS)},
        "predicted": {
            name: numbers(np.array([each[place] for each in predicted])) for place, name in enumerate(TARGETS)
        },
        "interval": None
        if factors is None
        else {name: [number(factors[0, place]), number(factors[1, place])] for place, name in enumerate(TARGETS)},
        "compared": len(off),
    }


def _host_json(row: HostRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": row.state,
        "why": row.why,
        "class": row.host_class,
        "zone": row.zone,
        "rate_rps": number(row.rate_rps),
        "weight": row.weight if row.weight is None else round(row.weight, 2),
        "age_s": row.age_s if row.age_s is None else round(row.age_s, 1),
        "off": row.off if row.off is None else round(row.off, 2),
    }


def numbers(values: Any) -> Any:
    """An array as nested lists of four significant digits; None where not finite."""
    return _known(significant(np.asarray(values, dtype=np.float64)).tolist())


def _known(values: Any) -> Any:
    if values and isinstance(values[0], list):
        return [_known(each) for each in values]
    return [each if each == each else None for each in values]  # noqa: PLR0124 (NaN)


def number(value: Any) -> float | None:
    """A number to four significant digits; None where not finite."""
    return float(f"{float(value):.4g}") if np.isfinite(value) else None


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
