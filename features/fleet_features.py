"""From the histories of hosts to the features of cells: where hosts are compared, and the only place.

A pure function of the stored history, so that what is served is what was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.definition import ERROR_VIEWS, NAIVE, NUMERIC_FEATURES, OUTCOMES, OWN_VIEWS
from features.peers import Floats, Ints, Shared, share
from fingerpost.category import category_attributes
from fleet.history import HISTORY_COLUMNS, HOST_COLUMNS
from fleet.history_state import QUANTITIES

_H = {name: index for index, name in enumerate(HISTORY_COLUMNS)}
_M = {name: index for index, name in enumerate(HOST_COLUMNS)}
_DAY_S = 86_400
_WEEK_S = 7 * _DAY_S
# A cell's own average counts for half when it was seen in this many windows.
_HALF_BELIEF_WINDOWS = 2.0
# Counts, rates and ages span orders of magnitude.
_ON_LOG_SCALE = {
    *("requests_last", "rate_rps_last", "rate_rps_ewma", "bytes_in", "inflight", "seen_windows", "evidence", "age_s"),
    *("host_inflight", "host_sample_age_s", "host_rate_rps_last", "host_rate_rps_ewma", "host_age_s", "host_gap_s"),
    *("host_since_gap_s", "host_known_s"),
}


@dataclass(frozen=True)
class CellFeatures:
    """Features and naive forecasts of n cells.

    Args:
        numeric: NUMERIC_FEATURES, shape (n, features), NaN where not known.
        naive: `last`, `ewma` and `median` of OUTCOMES as logs, each of shape (outcomes, n), filled where the cell was
            never seen: as its category is on the fleet times the host's ratio, else as the host is, else as all are.
        own: whether the cell has a history of its own, shape (n,).
    """

    numeric: Floats
    naive: dict[str, Floats]
    own: np.ndarray


def request_types(categories: Sequence[str]) -> Ints:
    """The request type of each category, as an index."""
    names = [category_attributes(name)["request_type"] for name in categories]
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)


def cell_features(
    history: Floats, host_values: Floats, types: Ints, now_us: int, host: Ints, category: Ints
) -> CellFeatures:
    """Features of the given cells at a time.

    Args:
        history: of `fleet.history.History.columns`, shape (H, C, K).
        host_values: of `fleet.history.History.host_values`, shape (H, M).
        types: of `request_types`, shape (C,).
        now_us: the time of prediction, microseconds since 1970.
        host, category: indices of the wanted cells, shape (n,).
    """
    columns: dict[str, Floats] = {}
    seen = np.nan_to_num(history[host, category, _H["seen_windows"]])
    current = history[..., _H["age_s"]] == 0
    naive: dict[str, list[Floats]] = {view: [] for view in NAIVE}
    for quantity in QUANTITIES:
        own = {view: history[..., _H[f"{quantity}_{view}"]] for view in ("ewma", *OWN_VIEWS)}
        shared = share(own["ewma"], types)
        fill = _fill(own["ewma"], shared)[host, category]
        ewma = own["ewma"][host, category]
        base = np.where(np.isfinite(ewma), ewma, fill)
        columns[f"{quantity}_ewma"] = base
        for view in OWN_VIEWS:
            columns[f"{quantity}_{view}"] = own[view][host, category] - base
        for view in ERROR_VIEWS:
            columns[f"{quantity}_{view}"] = history[host, category, _H[f"{quantity}_{view}"]]
        columns.update(_shared_views(quantity, shared, base, seen, np.isfinite(ewma), host, category))
        columns.update(_off_views(quantity, own["last"] - own["level"], current, host_values, host, category))
        if quantity in OUTCOMES:
            for view in NAIVE:
                values = own[view][host, category]
                naive[view].append(np.where(np.isfinite(values), values, fill))
    for name in ("requests_last", "rate_rps_last", "rate_rps_ewma", "error_share", "bytes_in", "inflight"):
        columns[name] = history[host, category, _H[name]]
    for name in ("seen_windows", "evidence", "age_s"):
        columns[name] = history[host, category, _H[name]]
    for name, place in _M.items():
        columns.setdefault(name, host_values[host, place])
    columns.update(_fleet_rates(history, host_values, category))
    columns.update(_time_of(now_us, len(host)))
    for name in _ON_LOG_SCALE:
        columns[name] = np.log1p(np.maximum(columns[name], 0.0))
    numeric = np.stack([columns[name] for name in NUMERIC_FEATURES], axis=1)
    return CellFeatures(numeric, {view: np.stack(rows) for view, rows in naive.items()}, seen > 0)


def without_cells(history: Floats, host: int, categories: Ints) -> Floats:
    """The history as if a host had never served some categories."""
    hidden = history.copy()
    hidden[host, categories] = np.nan
    for name in ("requests_last", "rate_rps_last", "rate_rps_ewma", "seen_windows", "evidence"):
        hidden[host, categories, _H[name]] = 0.0
    return hidden


def _fill(ewma: Floats, shared: Shared) -> Floats:
    """What a cell is forecast as that was never seen, shape (H, C)."""
    fleet = np.where(np.isfinite(shared.fleet), shared.fleet, _mean(ewma))
    return fleet + np.nan_to_num(shared.host_ratio)


def _shared_views(
    quantity: str, shared: Shared, base: Floats, seen: Floats, own: np.ndarray, host: Ints, category: Ints
) -> dict[str, Floats]:
    fleet, peers = shared.fleet[host, category], shared.peers[host, category]
    type_ratio = shared.type_ratio[host, category]
    # The best guess without the cell itself: hosts that resemble it, else its type's ratio, else the fleet.
    by_type = fleet + np.nan_to_num(type_ratio)
    guess = np.where(np.isfinite(peers), peers, by_type)
    trust = np.where(own, seen / (seen + _HALF_BELIEF_WINDOWS), 0.0)
    shrunk = np.where(np.isfinite(guess), (1 - trust) * (guess - base), 0.0)
    return {
        f"{quantity}_fleet": fleet - base,
        f"{quantity}_type": by_type - base,
        f"{quantity}_host": shared.host_ratio[host, category],
        f"{quantity}_peers": peers - base,
        f"{quantity}_shrunk": shrunk,
    }


def _off_views(
    quantity: str, off: Floats, current: np.ndarray, host_values: Floats, host: Ints, category: Ints
) -> dict[str, Floats]:
    """How far things are off their levels just now; `off` is of all cells, shape (H, C)."""
    host_off, host_drift = (host_values[:, _M[f"host_{quantity}_{view}"]] for view in ("off", "drift"))
    known = current & np.isfinite(off)
    clean = np.where(known, off, 0.0)
    others = known.sum(axis=0) - known
    elsewhere = np.divide(clean.sum(axis=0) - clean, others, out=np.full(off.shape, np.nan), where=others > 0)
    ones = np.ones(len(host))
    return {
        f"{quantity}_host_off": host_off[host],
        f"{quantity}_host_drift": host_drift[host],
        f"{quantity}_category_off": elsewhere[host, category],
        f"{quantity}_fleet_off": _mean(host_off) * ones,
        f"{quantity}_fleet_drift": _mean(host_drift) * ones,
        f"{quantity}_worst_off": np.max(np.abs(host_off), initial=0.0, where=np.isfinite(host_off)) * ones,
    }


def _fleet_rates(history: Floats, host_values: Floats, category: Ints) -> dict[str, Floats]:
    ones = np.ones(len(category))
    per_category = np.nansum(history[..., _H["rate_rps_last"]], axis=0)
    serving = (np.nan_to_num(history[..., _H["seen_windows"]]) > 0).sum(axis=0).astype(np.float64)
    return {
        "fleet_rate_rps_last": np.log1p(np.nansum(host_values[:, _M["host_rate_rps_last"]])) * ones,
        "fleet_rate_rps_ewma": np.log1p(np.nansum(host_values[:, _M["host_rate_rps_ewma"]])) * ones,
        "category_rate_rps_last": np.log1p(per_category[category]),
        "category_hosts": serving[category],
    }


def _time_of(now_us: int, count: int) -> dict[str, Floats]:
    """Time of day and week as points on a circle, UTC; 1970 began on a Thursday."""
    seconds = now_us / 1e6
    day, week = 2 * np.pi * seconds / _DAY_S, 2 * np.pi * (seconds + 3 * _DAY_S) / _WEEK_S
    values = {"day_sin": np.sin(day), "day_cos": np.cos(day), "week_sin": np.sin(week), "week_cos": np.cos(week)}
    return {name: np.full(count, value) for name, value in values.items()}


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan
