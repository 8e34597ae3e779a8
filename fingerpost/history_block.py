"""A host's history on the wire: the rolling state of its categories as of its last closed window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from fingerpost.arrays import Floats, Floats32
from fingerpost.errors import RefusedError
from fingerpost.records import MAX_TEXT
from fingerpost.telemetry.history import HISTORY_COLUMNS, HISTORY_HOST_COLUMNS, HISTORY_PLACE, HISTORY_SCHEMA, History

MAX_ROWS = 1024
_MAX_COLUMNS = 256
# Logs, counts, seconds and rates all lie far within this.
_MOST = 1e15
# The forecast of each quantity where no model corrects it, as logs. Of all views `mixed` errs least, but it follows the
# latest windows: a host that was sent less looks faster and is sent too much. What is routed by moves slowly, but for
# what many requests of a window show at once (`fingerpost.telemetry.baseline.follow_latest`).
FORECASTS = {
    "throughput_rps": "throughput_rps_ewma",
    "latency_p50_s": "latency_p50_s_mixed",
    "latency_p99_s": "latency_p99_s_mixed",
}
# Bounds of the columns that tables are made of without a model; forecasts are logs: 1e-8 to 1e13 a second, 1 ns to 1 h.
_BOUNDS = {
    FORECASTS["throughput_rps"]: (-18.5, 30.0),
    FORECASTS["latency_p50_s"]: (-20.8, 8.2),
    FORECASTS["latency_p99_s"]: (-20.8, 8.2),
    "throughput_rps_last": (-18.5, 30.0),
    "requests_last": (0.0, 1e12),
    "evidence": (0.0, 1e12),
    "error_share": (0.0, 1.001),
    "age_s": (0.0, 1e9),
}


@dataclass(frozen=True)
class HistoryBlock:
    """`fingerpost.telemetry.history` of one host.

    Args:
        schema: hash of the columns' names; blocks of another are of no use.
        window_s, halflife_s: that the history was made with.
        as_of_us: end of the last window in it, microseconds since 1970.
        categories: those the host has served, R of them.
        cells: HISTORY_COLUMNS of each, shape (R, K); NaN where not known.
        host_values: HISTORY_HOST_COLUMNS, shape (M,); NaN where not known.
    """

    schema: str
    window_s: float
    halflife_s: float
    as_of_us: int
    categories: tuple[str, ...]
    cells: Floats32
    host_values: Floats32

    @property
    def fits(self) -> bool:
        """Whether its columns are those of this program."""
        width = self.cells.shape[1] == len(HISTORY_COLUMNS) or not self.categories
        return self.schema == HISTORY_SCHEMA and width and len(self.host_values) == len(HISTORY_HOST_COLUMNS)

    def columns(self, names: Sequence[str]) -> Floats:
        """Some of HISTORY_COLUMNS of every category, shape (R, len(names)); the block must fit."""
        places = [HISTORY_PLACE[name] for name in names]
        return self.cells.reshape(-1, len(HISTORY_COLUMNS))[:, places].astype(np.float64)


def block_to_wire(block: HistoryBlock) -> dict[str, Any]:
    """As msgpack takes it."""
    return {
        "schema": block.schema,
        "window_s": block.window_s,
        "halflife_s": block.halflife_s,
        "as_of_us": block.as_of_us,
        "categories": list(block.categories),
        "cells": block.cells.astype("<f4").tobytes(),
        "host_values": block.host_values.astype("<f4").tobytes(),
    }


def block_from_wire(given: Any, time_us: int) -> HistoryBlock:
    """The block that `block_to_wire` wrote, checked.

    Args:
        time_us: of the fingerprint, which its history cannot be later than.

    Raises:
        RefusedError: `history:<what>`, or `history:<column>` where a number is out of its bounds.
    """
    if not isinstance(given, dict):
        raise RefusedError("history:type")
    schema, as_of_us = given.get("schema"), given.get("as_of_us")
    if not isinstance(schema, str) or len(schema) > MAX_TEXT:
        raise RefusedError("history:schema")
    if isinstance(as_of_us, bool) or not isinstance(as_of_us, int) or not 0 < as_of_us <= time_us:
        raise RefusedError("history:time")
    seconds = [given.get("window_s"), given.get("halflife_s")]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < 1e9 for each in seconds):
        raise RefusedError("history:seconds")
    names = given.get("categories")
    if not are_texts(names) or len(names) > MAX_ROWS or len(set(names)) != len(names):
        raise RefusedError("history:categories")
    if max(map(len, names), default=0) > MAX_TEXT:
        raise RefusedError("history:categories")
    cells = _numbers(given.get("cells"), len(names))
    host_values = _numbers(given.get("host_values"), 1)
    block = HistoryBlock(
        schema, float(seconds[0] or 0), float(seconds[1] or 0), as_of_us, tuple(names), cells, host_values[0]
    )
    if block.fits:
        for (name, (low, high)), values in zip(_BOUNDS.items(), block.columns([*_BOUNDS]).T, strict=True):
            if ((values < low) | (values > high)).any():
                raise RefusedError(f"history:{name}")
    return block


def are_texts(given: Any) -> TypeGuard[list[str]]:
    """Whether something out of msgpack is a list of texts; there may be thousands, hundreds of times a second."""
    return isinstance(given, list) and set(map(type, given)) <= {str}


def blocks_of(history: History, names: Sequence[str]) -> list[HistoryBlock]:
    """Makes the block of every host of a history, as of its last window, of the categories that the host has served.

    Args:
        names: of the history's categories. Those that rest on the most go into a block, if there are too many.
    """
    cells, host_values = history.columns(), history.host_values().astype(np.float32)
    made = []
    for place, served in enumerate(history.state["seen"]):
        seen = np.flatnonzero(served)
        evidence = cells[place, seen, HISTORY_PLACE["evidence"]]
        rows = seen[np.sort(np.argsort(-evidence, kind="stable")[:MAX_ROWS])]
        made.append(
            HistoryBlock(
                HISTORY_SCHEMA,
                history.window_s,
                history.halflife_s,
                history.now_us,
                tuple(names[row] for row in rows.tolist()),
                cells[place, rows].astype(np.float32),
                host_values[place],
            )
        )
    return made


def _numbers(raw: Any, rows: int) -> Floats32:
    """A matrix of some rows, shape (rows, columns); nothing in it is infinite, or absurdly large."""
    if not isinstance(raw, bytes) or len(raw) % (4 * max(rows, 1)):
        raise RefusedError("history:size")
    columns = len(raw) // (4 * max(rows, 1))
    if columns > _MAX_COLUMNS or (rows == 0 and raw):
        raise RefusedError("history:size")
    matrix = np.frombuffer(raw, dtype="<f4").reshape(rows, columns)
    # The greatest alone is looked at: `fmax` passes over NaN, and an infinity is greater than any bound.
    if matrix.size and np.fmax.reduce(np.abs(matrix), axis=None) > _MOST:
        raise RefusedError("history:not_finite")
    return matrix
