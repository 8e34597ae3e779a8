"""Which rows of a batch are refused, and why: the bounds of `fingerpost.records`, on whole columns."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fingerpost.names import is_name
from fingerpost.records import MAX_TEXT, Column


def refusals(
    table: pa.Table,
    columns: tuple[Column, ...],
    bounds_us: tuple[int, int],
    service: str,
    hosts: frozenset[str] | None,
) -> list[str | None]:
    """The reason each row is refused, or None.

    Args:
        table: with all `columns`, in their types.
        bounds_us: earliest and latest time, microseconds since 1970.
        service: the service the batch was sent for.
        hosts: known hosts; None: any.

    Returns:
        One entry a row: `<column>:<what>`, as `fingerpost.records.refusal` names them, and also `service:mismatch`
        and `host:unknown`; the first that applies, in the order of the columns.
    """
    reasons = np.full(table.num_rows, None, dtype=object)
    for column in columns:
        values = table.column(column.name)
        if column.required:
            _mark(reasons, column, "missing", values.is_null().to_numpy(zero_copy_only=False))
        if column.kind == "string":
            _check_text(reasons, column, values.to_pylist(), service, hosts)
        else:
            _check_numbers(reasons, column, values, bounds_us)
    return reasons.tolist()


def _mark(reasons: NDArray[np.object_], column: Column, what: str, where: NDArray[np.bool_]) -> None:
    reasons[np.equal(reasons, None) & where] = f"{column.name}:{what}"  # type: ignore[call-overload]


def _check_numbers(
    reasons: NDArray[np.object_], column: Column, values: pa.ChunkedArray, bounds_us: tuple[int, int]
) -> None:
    present = values.is_valid().to_numpy(zero_copy_only=False)
    if column.kind == "timestamp":
        times = values.cast(pa.int64()).fill_null(0).to_numpy()
        _mark(reasons, column, "too_old", present & (times < bounds_us[0]))
        _mark(reasons, column, "future", present & (times > bounds_us[1]))
        return
    numbers = values.fill_null(0).to_numpy()
    _mark(reasons, column, "not_finite", present & ~np.isfinite(numbers))
    if column.low is not None:
        _mark(reasons, column, "negative", present & (numbers < min(column.low, 0)))
        _mark(reasons, column, "too_small", present & (numbers < column.low))
    if column.high is not None:
        _mark(reasons, column, "too_large", present & (numbers > column.high))


def _check_text(
    reasons: NDArray[np.object_], column: Column, values: list[str | None], service: str, hosts: frozenset[str] | None
) -> None:
    verdicts = {value: _text_verdict(column, value, service, hosts) for value in set(values) if value is not None}
    for what in sorted({verdict for verdict in verdicts.values() if verdict}):
        _mark(reasons, column, what, np.array([verdicts.get(value or "") == what for value in values], dtype=bool))


def _text_verdict(column: Column, value: str, service: str, hosts: frozenset[str] | None) -> str | None:
    if len(value) > MAX_TEXT:
        return "too_long"
    if column.name in ("service", "host") and not is_name(value):
        return "bad_name"
    if column.name == "service" and value != service:
        return "mismatch"
    if column.name == "host" and hosts is not None and value not in hosts:
        return "unknown"
    return None
