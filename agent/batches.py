"""Batches of telemetry as files in the lake's inbox; Arrow by arro3, a tenth of the memory of the usual library."""

import io
import json
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import arro3.core as arrow
from arro3.io import write_parquet

from fingerpost.lake import INBOX, QUARANTINE, date_of, partition, write_bytes_atomically, write_text_atomically
from fingerpost.masking import masked_line
from fingerpost.records import Column

_INT64, _FLOAT64, _TEXT = arrow.DataType.int64(), arrow.DataType.float64(), arrow.DataType.utf8()
_TIMESTAMP = arrow.DataType.timestamp("us", tz="UTC")
_STORED = {"timestamp": _INT64, "int64": _INT64, "float64": _FLOAT64, "string": _TEXT}


def write_batch(lake: Path, kind: str, columns: tuple[Column, ...], rows: list[dict[str, Any]], name: str) -> Path:
    """Writes rows as one Parquet file into the inbox: `inbox/KIND/service=S/date=D/NAME.parquet`.

    Args:
        rows: at least one, each checked; the first gives service and date.
        name: of the file; the same name replaces, which makes a repeated report harmless.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    fields, arrays = [], []
    for column, values in zip(columns, _by_column(columns, rows), strict=True):
        array = arrow.Array(_stored(column, values), type=_STORED[column.kind])
        if column.kind == "timestamp":
            array = array.cast(_TIMESTAMP)
        arrays.append(array)
        fields.append(arrow.Field(column.name, array.type, nullable=not column.required))
    batch = arrow.RecordBatch.from_arrays(arrays, schema=arrow.Schema(fields))
    folder = partition(lake / INBOX, kind, rows[0]["service"], date_of(rows[0]["time"]))
    path = folder / f"{name}.parquet"

    made = io.BytesIO()
    # Into memory: on a full disk the library aborts with what is no `Exception`, where Python raises an OSError.
    # Of so few rows dictionaries are larger than what they save.
    write_parquet(batch, made, compression="zstd(1)", dictionary_enabled=False)
    write_bytes_atomically(path, made.getbuffer())
    return path


def quarantine_lines(lake: Path, service: str, time_us: int, name: str, lines: list[tuple[str, bytes]]) -> Path:
    """Keeps refused log lines with their reasons, masked: `quarantine/lines/service=S/date=D/NAME.jsonl`.

    Args:
        lines: (reason, line).
    """
    path = partition(lake / QUARANTINE, "lines", service, date_of(time_us)) / f"{name}.jsonl"
    text = "".join(
        json.dumps({"reason": reason, "line": masked_line(line.decode("utf-8", "replace"))}, ensure_ascii=False) + "\n"
        for reason, line in lines
    )
    write_text_atomically(path, text)
    return path


def _by_column(columns: tuple[Column, ...], rows: list[dict[str, Any]]) -> Iterable[Sequence[Any]]:
    names = [column.name for column in columns]
    try:
        return zip(*map(itemgetter(*names), rows), strict=True)
    except KeyError:  # rows that leave out what is not known
        return [[row.get(name) for row in rows] for name in names]


def _stored(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    if column.kind == "string":
        return values
    if column.kind == "float64":
        return [None if value is None else float(value) for value in values]
    return [None if value is None else int(value) for value in values]
