"""Predictions and routes out of a table: what `/v1/predict` and `/v1/route` answer."""

import random
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.category import CategoryTable, category_key, size_bucket
from fingerpost.client_attributes import user_agent_class
from fingerpost.routes import route_template
from fingerpost.routing.cost import routing_cost, service_time
from fingerpost.serving.api_models import Characteristics, PredictRequest, RouteRequest
from fingerpost.serving.table import RoutingTable

MAX_CELLS = 20_000


class UnknownError(Exception):
    """What was asked for does not exist; the message says what."""


class TooMuchError(Exception):
    """More was asked for than is answered at once."""


def category_of(table: RoutingTable, request: Characteristics) -> str:
    """The category of a request among the table's.

    Raises:
        UnknownError: none of them holds it, not even `other`.
    """
    key = category_key(
        request.method.upper(),
        route_template(request.path),
        size_bucket(request.bytes_in),
        request.auth,
        user_agent_class(request.user_agent),
        request.region,
    )
    name = CategoryTable.from_names(table.categories, table.routes).assign(key)
    if name not in table.categories:
        raise UnknownError("no host has told of a category that holds this request")
    return name


def costs(
    table: RoutingTable, rows: NDArray[np.int64], latency_weight: float, inflight: dict[str, float] | None = None
) -> NDArray[np.float64]:
    """Cost of the next request on every host, shape (rows, H); hosts being ramped up cost more."""
    told = np.nan_to_num(table.inflight.astype(np.float64))
    if inflight:
        told = np.array([inflight.get(host, here) for host, here in zip(table.hosts, told.tolist(), strict=True)])
    success = np.nan_to_num(table.success_rate[rows].astype(np.float64), nan=1.0)
    rate, slots = table.throughput_rps[rows], np.where(np.isfinite(table.inflight), table.slots, np.nan)
    service = np.nan_to_num(service_time(rate, table.latency_p50_s[rows], slots))
    plain = routing_cost(np.broadcast_to(told, rate.shape), rate, service, success, latency_weight)
    return plain / table.weights


def predict(table: RoutingTable, asked: PredictRequest, model_name: str, latency_weight: float) -> dict[str, Any]:
    """The answer to a PredictRequest.

    Raises:
        UnknownError, TooMuchError: see there.
    """
    category = category_of(table, asked.request) if asked.request else None
    wanted = set(asked.categories) if asked.categories else None
    if category is not None:
        wanted = {category} if wanted is None else wanted & {category}
    rows = np.array([row for row, name in enumerate(table.categories) if wanted is None or name in wanted], dtype=int)
    hosts = set(asked.hosts) if asked.hosts else None
    columns = [place for place, name in enumerate(table.hosts) if hosts is None or name in hosts]
    if len(rows) * len(columns) > MAX_CELLS:
        raise TooMuchError(
            f"{len(rows)} categories x {len(columns)} hosts are more than {MAX_CELLS} cells: name hosts or categories, "
            "or fetch the table"
        )
    cost = costs(table, rows, latency_weight)
    best = cost.argmin(axis=1) if cost.size else np.zeros(len(rows), dtype=int)
    ages = (time.time() - table.times_us / 1e6).round(3)
    cells = [
        {
            "host": table.hosts[column],
            "category": table.categories[row],
            "throughput_rps": _plain(table.throughput_rps[row, column]),
            "latency_p50_s": _plain(table.latency_p50_s[row, column]),
            "latency_p99_s": _plain(table.latency_p99_s[row, column]),
            "success_rate": _plain(table.success_rate[row, column]),
            "cost_s": _plain(cost[place, column]),
            "best": bool(best[place] == column and np.isfinite(cost[place, column])),
            "age_s": float(ages[column]),
        }
        for place, row in enumerate(rows.tolist())
        for column in columns
    ]
    return {
        "service": table.service,
        "source": table.source,
        "model_name": model_name,
        "model_version": table.model_version,
        "category": category,
        "as_of": datetime.fromtimestamp(table.as_of_us / 1e6, UTC).isoformat(),
        "cells": cells,
    }


def route(table: RoutingTable, asked: RouteRequest, latency_weight: float) -> dict[str, Any]:
    """The answer to a RouteRequest; ties break at random.

    Raises:
        UnknownError: the category is not known, or no host can serve it.
    """
    category = asked.category or category_of(table, asked.request or Characteristics())
    if category not in table.categories:
        raise UnknownError(f"category {category[:128]!r} is not known")
    rows = np.array([table.categories.index(category)])
    cost = costs(table, rows, latency_weight, asked.inflight)[0]
    cost[[place for place, name in enumerate(table.hosts) if name in set(asked.exclude)]] = np.inf
    least = cost.min(initial=np.inf)
    if not np.isfinite(least):
        raise UnknownError(f"no host is known to serve {category[:128]!r}")
    chosen = random.choice(np.flatnonzero(cost == least).tolist())
    return {
        "service": table.service,
        "category": category,
        "host": table.hosts[chosen],
        "cost_s": float(least),
        "costs": {host: _plain(value) for host, value in zip(table.hosts, cost, strict=True)},
        "source": table.source,
        "model_version": table.model_version,
        "version": table.version,
    }


def _plain(value: Any) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
