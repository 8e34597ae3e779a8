"""A picker's table out of a fleet's own access log, and how good a table is.

What the engine predicts with a model is here the plain measurement: slots over the mean service time of the requests
that found a free slot.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.accesslog.envoy import decision_parts, parse_line
from fingerpost.arrays import Floats
from fingerpost.categoriser import Categoriser
from fingerpost.category import OTHER, SEPARATOR, category_key, fit_categories, size_bucket
from fingerpost.clock import clock_us
from fingerpost.errors import RefusedError
from fingerpost.routing.picker_table import table_from_json
from fingerpost.routing.table_file import PickerTable
from fingerpost.settings import Settings


def learn_table(log: Path, slots: int, settings: Settings, valid_s: float) -> PickerTable:
    """The table, from every line of the log that can be read; it is valid for `valid_s` from now."""
    return table_from_json(learned_json(_records(log), slots, settings, valid_s), settings, clock_us())


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


def table_error(table: PickerTable, service_s: Floats) -> float:
    """Median over the cells of how far the table's costs are from the truth, as a log ratio.

    What is common to a category is left out, since only the differences between hosts route.

    Args:
        service_s: true mean service times, seconds, shape (categories, hosts), of `/c0`, `/c1` ... and `h00`, `h01` ...
    """
    category = [int(name.split(SEPARATOR)[0].rpartition("/c")[2]) for name in table.categories if name != OTHER]
    rows = [number for number, name in enumerate(table.categories) if name != OTHER]
    host = [int(name.removeprefix("h")) for name in table.hosts]
    ratio = np.log(table.slope[0][rows, :-1]) - np.log(service_s[category][:, host])
    return round(float(np.median(np.abs(ratio - np.median(ratio, axis=1, keepdims=True)))), 3)


def decisions(log: Path, begin: int) -> dict[str, Any]:
    """How the picker decided, from its lines in an access log.

    Args:
        begin: where in the log to begin, bytes.

    Returns:
        Counts of `predicted`, `explored` and `fell back`, of the `tables` that were used, and the `models`.
    """
    counts: Counter[str] = Counter()
    tables, models = set(), set()
    with log.open("rb") as lines:
        lines.seek(begin)
        for line in lines:
            said = decision_parts(json.loads(line)["decision"])
            counts["fell back" if said["fallback"] else "explored" if said["explored"] else "predicted"] += 1
            tables.add(said["table_version"])
            models.add(said["model_version"])
    return {**counts, "tables": len(tables), "models": sorted(models)}
