"""The columns of the lake in Arrow: schemas, and the check of whole tables against the columns' bounds."""

from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fingerpost.records import (
    EVENT,
    FINGERPRINT,
    HOST_SAMPLE,
    HOST_WINDOW,
    REPORTED_KEY,
    REPORTED_LOAD,
    REPORTED_WINDOW,
    REQUEST_RECORD,
    WINDOW,
    Column,
    text_problem,
)

_TYPES = {
    "timestamp": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
}


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of `columns`; each field carries its meaning as metadata."""
    return pa.schema(
        [pa.field(c.name, _TYPES[c.kind], nullable=not c.required, metadata={"meaning": c.meaning}) for c in columns]
    )


REQUEST_RECORD_SCHEMA = arrow_schema(REQUEST_RECORD)
HOST_SAMPLE_SCHEMA = arrow_schema(HOST_SAMPLE)
WINDOW_SCHEMA = arrow_schema(WINDOW)
LOAD_SCHEMA = arrow_schema(HOST_WINDOW)
# By the lake's folder.
SCHEMAS = {
    "requests": REQUEST_RECORD_SCHEMA,
    "samples": HOST_SAMPLE_SCHEMA,
    "fingerprints": arrow_schema(FINGERPRINT),
    "windows": WINDOW_SCHEMA,
    "loads": LOAD_SCHEMA,
    "reported_windows": arrow_schema(REPORTED_WINDOW),
    "reported_loads": arrow_schema(REPORTED_LOAD),
    "reported_keys": arrow_schema(REPORTED_KEY),
    "events": arrow_schema(EVENT),
}


def refusals(
    table: pa.Table,
    columns: tuple[Column, ...],
    earliest_us: int,
    latest_us: int,
    allowed: Mapping[str, tuple[str, Container[str]]] | None = None,
) -> list[str | None]:
    """Why each row is refused: the verdict of `fingerpost.records.refusal` on whole columns.

    Args:
        table: with all `columns`: times as timestamps or integers, numbers as integers or floats, text as strings.
        earliest_us, latest_us: inclusive bounds of times, microseconds since 1970.
        allowed: of a text column, what a value is that is not among those that may come, and these.

    Returns:
        One entry a row: `<column>:<what>`, the first that applies, in the order of the columns; None: the row is good.
    """
    reasons = np.full(table.num_rows, None, dtype=object)
    undecided = np.ones(table.num_rows, dtype=np.bool_)
    for column in columns:
        values = table.column(column.name)
        present = values.is_valid().to_numpy()
        problems = (
            _text_problems(column, values, (allowed or {}).get(column.name))
            if column.kind == "string"
            else _number_problems(column, values, present, earliest_us, latest_us)
        )
        for what, where in [("missing", ~present & column.required), *problems]:
            if (found := where & undecided).any():
                reasons[found] = f"{column.name}:{what}"
                undecided &= ~found
    verdicts: list[str | None] = reasons.tolist()
    return verdicts


def _number_problems(
    column: Column, values: pa.ChunkedArray, present: NDArray[np.bool_], earliest_us: int, latest_us: int
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if column.kind == "timestamp":
        times = values.cast(pa.int64()).fill_null(0).to_numpy()
        yield "too_old", present & (times < earliest_us)
        yield "future", present & (times > latest_us)
        return
    numbers = values.fill_null(0).to_numpy()
    yield "not_finite", present & ~np.isfinite(numbers)
    if column.kind == "int64" and numbers.dtype.kind == "f":
        yield "type", present & (numbers != np.floor(numbers))
    if column.low is not None:
        yield "negative", present & (numbers < min(column.low, 0))
        yield "too_small", present & (numbers < column.low)
    if column.high is not None:
        yield "too_large", present & (numbers > column.high)


def _text_problems(
    column: Column, values: pa.ChunkedArray, allowed: tuple[str, Container[str]] | None
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each distinct text is judged once; as bytes, since files can hold what is no text."""
    encoded = values.cast(pa.binary()).combine_chunks().dictionary_encode()
    verdicts = [_bytes_problem(column.name, raw, allowed) for raw in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(verdicts)).to_numpy(zero_copy_only=False)
    by_row = np.array([*verdicts, None], dtype=object)[codes]
    for what in {verdict for verdict in verdicts if verdict}:
        yield what, by_row == what


def _bytes_problem(name: str, raw: bytes, allowed: tuple[str, Container[str]] | None) -> str | None:
    try:
        value = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return "not_unicode"
    found = text_problem(name, value)
    return allowed[0] if found is None and allowed and value not in allowed[1] else found
