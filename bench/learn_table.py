"""A picker's table out of a fleet's own access log: the seam where the engine's table comes in.

What the engine predicts with a model is here the plain measurement: slots over the mean service time of the requests
that found a free slot.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.categorise import Categoriser
from fingerpost.category import category_key, fit_categories, size_bucket
from fingerpost.errors import RefusedError
from fingerpost.settings import Settings
from fleet.envoy_log import parse_line
from routing.picker_table import table_from_json
from routing.table_file import PickerTable


def learn_table(log: Path, slots: int, settings: Settings, valid_s: float) -> PickerTable:
    """The table, from every line of the log that can be read; it is valid for `valid_s` from now."""
    return table_from_json(learned_json(_records(log), slots, settings, valid_s), settings, time.time_ns() // 1000)


def learned_json(records: Iterable[dict[str, Any]], slots: int, settings: Settings, valid_s: float) -> dict[str, Any]:
    """What `GET /v1/services/{service}/table` would answer, measured from request records."""
    rows = [row for row in records if row["status"] == 200 and row["service_time_s"]]
    names = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")
    columns = {name: [row[name] for row in rows] for name in names}
    keys = [
        (category_key(method, route, size_bucket(size), auth, agent, region), 1)
        for method, route, size, auth, agent, region in zip(*columns.values(), strict=True)
    ]
    known = fit_categories(keys, settings.max_categories, settings.min_category_requests)
    category = Categoriser(known).assign(*columns.values())
    hosts = sorted({row["host"] for row in rows})
    place = np.array([hosts.index(row["host"]) for row in rows])
    took = np.array([row["service_time_s"] for row in rows], dtype=np.float64)
    alone = np.array([(row["inflight"] or 0) < slots for row in rows])
    shape = (len(known.names), len(hosts))
    count, total = np.zeros(shape), np.zeros(shape)
    np.add.at(count, (category[alone], place[alone]), 1)
    np.add.at(total, (category[alone], place[alone]), took[alone])
    mean_s = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return {
        "version": f"measured-{int(count.sum())}",
        "model_version": "measured",
        "expires_at": time.time() + valid_s,
        "hosts": [{"name": name, "weight": 1.0} for name in hosts],
        "categories": list(known.names),
        "routes": list(known.routes),
        "throughput_rps": slots / mean_s,
        "latency_p50_s": mean_s,
        "success_rate": np.ones(shape),
    }


def _records(log: Path) -> Iterable[dict[str, Any]]:
    with log.open("rb") as lines:
        for line in lines:
            try:
                yield parse_line(line, "bench")
            except RefusedError:
                continue
