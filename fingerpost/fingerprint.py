"""Fingerprints: the rolling state of a host as the engine makes it of reports; packed, as the lake keeps the latest."""

from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from fingerpost.arrays import Floats
from fingerpost.bounded import Bounds, unpacked
from fingerpost.errors import RefusedError
from fingerpost.history_block import HistoryBlock, are_texts, block_from_wire, block_to_wire
from fingerpost.names import is_name
from fingerpost.packed_message import MAX_MESSAGE_BYTES
from fingerpost.records import FINGERPRINT_HOST, MAX_TEXT

# Version 1 had a rolling state of its own beside the history.
SCHEMA_VERSION = 2
FINGERPRINT_HOST_COLUMNS = tuple(column.name for column in FINGERPRINT_HOST)
MAX_CATEGORIES = 4096

# Three lists and two maps by now; fields of later versions may bring more.
_FINGERPRINT = Bounds(
    containers=16, array=MAX_CATEGORIES + 64, map=64, text=MAX_MESSAGE_BYTES, binary=MAX_MESSAGE_BYTES
)


@dataclass(frozen=True)
class Fingerprint:
    """The state of one host at a time.

    Args:
        boot_id: life of the agent; `sequence` counts within it, from 0.
        time_us: when it was made, microseconds since 1970.
        category_version: version of the table that `categories` come from.
        categories: names of all categories in that table.
        host_values: FINGERPRINT_HOST_COLUMNS, shape (len(FINGERPRINT_HOST_COLUMNS),); NaN where not known.
        history: rolling state of every category that the host has served; None before its first window has ended.
    """

    service: str
    host: str
    boot_id: str
    sequence: int
    time_us: int
    category_version: str
    categories: tuple[str, ...]
    host_values: Floats
    history: HistoryBlock | None = None


def pack(fingerprint: Fingerprint) -> bytes:
    """One fingerprint as compact bytes, 32-bit floats."""
    packed: bytes = msgpack.packb(
        {
            "schema": SCHEMA_VERSION,
            "service": fingerprint.service,
            "host": fingerprint.host,
            "boot_id": fingerprint.boot_id,
            "sequence": fingerprint.sequence,
            "time_us": fingerprint.time_us,
            "category_version": fingerprint.category_version,
            "categories": list(fingerprint.categories),
            "host_columns": FINGERPRINT_HOST_COLUMNS,
            "host_values": fingerprint.host_values.astype("<f4").tobytes(),
            **({"history": block_to_wire(fingerprint.history)} if fingerprint.history else {}),
        }
    )
    return packed


def unpack(packed: bytes, earliest_us: int, latest_us: int) -> Fingerprint:
    """One fingerprint, checked: its schema, names, times, and every number against its bounds.

    Columns that this program does not know are left out, known ones that are not there are NaN.

    Args:
        earliest_us, latest_us: inclusive bounds of its time, microseconds since 1970.

    Raises:
        RefusedError: `<field>:<what>`, as in `fingerpost.records.refusal`; `schema:older` or `schema:newer` where the
            program that made it speaks another version, `schema:unknown` where it names none.
    """
    try:
        given = unpacked(packed, _FINGERPRINT)
    except ValueError as error:
        raise RefusedError("fingerprint:malformed") from error
    if not isinstance(given, dict):
        raise RefusedError("fingerprint:malformed")
    _check_schema(given.get("schema"))
    for field in ("service", "host", "boot_id"):
        if not is_name(given.get(field)):
            raise RefusedError(f"{field}:bad_name")
    time_us = _time(given, earliest_us, latest_us)
    return Fingerprint(
        given["service"],
        given["host"],
        given["boot_id"],
        _integer(given, "sequence", 0, 2**53),
        time_us,
        _text(given, "category_version"),
        _categories(given.get("categories")),
        _host_values(given),
        block_from_wire(given["history"], time_us) if given.get("history") is not None else None,
    )


def _check_schema(schema: Any) -> None:
    if schema == SCHEMA_VERSION:
        return
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise RefusedError("schema:unknown")
    raise RefusedError("schema:older" if schema < SCHEMA_VERSION else "schema:newer")


def _host_values(given: dict[str, Any]) -> Floats:
    names, raw = given.get("host_columns"), given.get("host_values")
    if not are_texts(names) or len(set(names)) != len(names):
        raise RefusedError("host_columns:type")
    if not isinstance(raw, bytes) or len(raw) != 4 * len(names):
        raise RefusedError("host_values:size")
    told = dict(zip(names, np.frombuffer(raw, dtype="<f4").tolist(), strict=True))
    values = [told.get(column.name, np.nan) for column in FINGERPRINT_HOST]
    for column, value in zip(FINGERPRINT_HOST, values, strict=True):
        if np.isinf(value):
            raise RefusedError(f"{column.name}:not_finite")
        # Bounds in the precision of the wire, where a limit may have been rounded up.
        if column.low is not None and value < np.float32(column.low):
            raise RefusedError(f"{column.name}:{'negative' if value < 0 else 'too_small'}")
        if column.high is not None and value > np.float32(column.high):
            raise RefusedError(f"{column.name}:too_large")
    return np.array(values, dtype=np.float64)


def _categories(given: Any) -> tuple[str, ...]:
    if not are_texts(given):
        raise RefusedError("categories:type")
    if len(given) > MAX_CATEGORIES:
        raise RefusedError("categories:too_many")
    if max(map(len, given), default=0) > MAX_TEXT:
        raise RefusedError("categories:too_long")
    if len(set(given)) != len(given):
        raise RefusedError("categories:repeated")
    return tuple(given)


def _text(given: dict[str, Any], field: str) -> str:
    value = given.get(field)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise RefusedError(f"{field}:type")
    return value


def _integer(given: dict[str, Any], field: str, low: int, high: int) -> int:
    value = given.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RefusedError(f"{field}:type")
    return value


def _time(given: dict[str, Any], earliest_us: int, latest_us: int) -> int:
    value = _integer(given, "time_us", -(2**62), 2**62)
    if value < earliest_us:
        raise RefusedError("time:too_old")
    if value > latest_us:
        raise RefusedError("time:future")
    return value
