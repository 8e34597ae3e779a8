"""The routing table: an immutable snapshot of what is predicted, the same for the same inputs on every replica."""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Floats32, Ints, significant
from fingerpost.category import CategoryTable
from fingerpost.clock import US
from fingerpost.features.build import load_categories
from fingerpost.lake import published_categories
from fingerpost.routing.success import slow_start_weights, success_rates
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.scoring import Scored
from fingerpost.telemetry.history import measured_again

logger = logging.getLogger(__name__)
_MATRICES = ("throughput_rps", "latency_p50_s", "latency_p99_s", "success_rate", "evidence", "age_s")
_LOOK_EVERY_S = 1.0
_MAX_KEPT = 1000


@dataclass(frozen=True)
class RoutingTable:
    """Predictions of one service for every host and category; H hosts and C categories, sorted by name.

    Args:
        version: hash of all that follows: the same content has the same version everywhere.
        source: `champion` or `baseline`: what predicted.
        routes: route templates that requests are brought to before their category is looked up.
        times_us: of the hosts' fingerprints, shape (H,).
        weights: 0..1, less than 1 for hosts that are being ramped up, shape (H,).
        inflight, slots: as the hosts told, shape (H,); NaN where not known.
        throughput_rps, latency_p50_s, latency_p99_s, success_rate: shape (C, H); NaN where nothing can be said.
        evidence: requests that they are of, older ones weighing less, shape (C, H).
        age_s: of each cell's last request when its fingerprint was made, seconds, shape (C, H).
        by_baseline: categories that the baseline serves although a model is in use.
        reason: why it does; empty: there are none.
        arm, experiment: the arm of the experiment it is the table of, and the experiment's id; empty: of none.
    """

    service: str
    version: str
    source: str
    model_version: str
    category_version: str
    as_of_us: int
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    routes: tuple[str, ...]
    times_us: Ints
    weights: Floats32
    inflight: Floats32
    slots: Floats32
    throughput_rps: Floats32
    latency_p50_s: Floats32
    latency_p99_s: Floats32
    success_rate: Floats32
    evidence: Floats32
    age_s: Floats32
    by_baseline: tuple[str, ...] = ()
    reason: str = ""
    arm: str = ""
    experiment: str = ""

    @property
    def model_share(self) -> float:
        """Share of the categories that the model serves, 0..1."""
        return 1 - len(self.by_baseline) / max(1, len(self.categories)) if self.model_version else 0.0


def of_arm(table: RoutingTable, arm: str, experiment: str) -> RoutingTable:
    """The table as that of an experiment's arm, which is another version of it."""
    version = hashlib.sha256(repr((table.version, arm, experiment)).encode()).hexdigest()[:20]
    return replace(table, arm=arm, experiment=experiment, version=version)


def build_table(scored: Scored, routes: Sequence[str], slow_start_s: float) -> RoutingTable:
    """Makes the table of a scored fleet.

    Args:
        routes: route templates of the service.
        slow_start_s: seconds over which a new host is ramped up.
    """
    fleet, source, model_version = scored.fleet, scored.source, scored.version
    requests = fleet.cell_column("evidence")
    cells = [
        _short(values).T.copy()
        for values in (
            *np.moveaxis(scored.predictions, -1, 0),
            success_rates(requests, requests * fleet.cell_column("error_share")),
            requests,
            fleet.cell_column("age_s"),
        )
    ]
    host_values = [
        _weights(fleet, slow_start_s).astype(np.float32),
        *(_short(fleet.host_column(name)) for name in ("host_inflight", "slots")),
    ]
    names = (fleet.service, source, model_version, fleet.category_version, fleet.hosts, fleet.categories, tuple(routes))
    contest = (scored.by_baseline, scored.reason)
    digest = hashlib.sha256(repr((names, fleet.as_of_us, contest)).encode())
    for values in (fleet.times_us, *host_values, *cells):
        digest.update(np.ascontiguousarray(values).data)
    weights, inflight, slots = host_values
    throughput_rps, latency_p50_s, latency_p99_s, success_rate, evidence, age_s = cells
    return RoutingTable(
        fleet.service,
        digest.hexdigest()[:20],
        source,
        model_version,
        fleet.category_version,
        fleet.as_of_us,
        fleet.hosts,
        fleet.categories,
        tuple(routes),
        fleet.times_us,
        weights,
        inflight,
        slots,
        throughput_rps,
        latency_p50_s,
        latency_p99_s,
        success_rate,
        evidence,
        age_s,
        *contest,
    )


def render_json(table: RoutingTable, expires_at: float) -> bytes:
    """Renders a table as one JSON object; a row a category in every matrix, a place a host; null where not known.

    Args:
        expires_at: seconds since 1970.
    """
    about = {
        "service": table.service,
        "version": table.version,
        "source": table.source,
        "model_version": table.model_version,
        "by_baseline": table.by_baseline,
        "reason": table.reason,
        "arm": table.arm,
        "experiment": table.experiment,
        "category_version": table.category_version,
        "as_of": table.as_of_us / 1e6,
        "hosts": [
            {
                "name": name,
                "weight": round(float(table.weights[place]), 2),
                "as_of": int(table.times_us[place]) / 1e6,
                "inflight": _or_none(table.inflight[place]),
                "slots": _or_none(table.slots[place]),
            }
            for place, name in enumerate(table.hosts)
        ],
        "categories": table.categories,
        "routes": table.routes,
    }
    matrices = b",".join(b'"%s":%s' % (name.encode(), _rows(getattr(table, name))) for name in _MATRICES)
    head = b'{"expires_at":%.3f,' % expires_at
    return head + orjson.dumps(about)[1:-1] + b"," + matrices + b"}"


def _weights(fleet: FleetState, slow_start_s: float) -> Floats:
    first_us = np.array([state.first_seen_us for state in fleet.states], dtype=np.float64)
    again = np.zeros(len(first_us), dtype=np.bool_)
    for place, state in enumerate(fleet.states):
        block = state.fingerprint.history
        if block is not None and block.fits:
            since_s = (block.as_of_us - first_us[place]) / US
            again[place] = measured_again(block.host_values[None], [since_s], block.window_s)[0]
    return slow_start_weights((fleet.as_of_us - first_us) / US, slow_start_s, again)


def _short(values: Floats) -> Floats32:
    return significant(values).astype(np.float32)


def _rows(matrix: NDArray[np.float32]) -> bytes:
    # Row by row: one call for all of a large table would hold up every request for as long as it takes.
    return b"[" + b",\n".join(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in matrix) + b"]"


def _or_none(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None


class Categories:
    """Reads each service's table again when its file is another.

    Args:
        lake: the telemetry lake.
    """

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._kept: dict[str, tuple[float, int, CategoryTable | None]] = {}

    def table(self, service: str) -> CategoryTable | None:
        """The table; None if there is none, or if it cannot be read."""
        now = time.monotonic()
        looked, stamp, table = self._kept.get(service, (0.0, -1, None))
        if service in self._kept and now - looked < _LOOK_EVERY_S:
            return table
        try:
            found = published_categories(self._lake, service).stat().st_mtime_ns
            if found != stamp:
                table, stamp = load_categories(self._lake, service), found
        except FileNotFoundError:
            table, stamp = None, -1
        except (OSError, ValueError, TypeError) as error:
            logger.warning("the category table cannot be read: %s", error, extra={"service": service})
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[service] = (now, stamp, table)
        return table
