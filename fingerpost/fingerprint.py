"""The fingerprint of a host, and how it travels: msgpack in gzip, checked at the door."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from fingerpost.arrays import Floats
from fingerpost.bounded import Bounds, unpacked
from fingerpost.errors import RefusedError
from fingerpost.history_block import HistoryBlock, are_texts, block_from_wire, block_to_wire
from fingerpost.names import is_name
from fingerpost.records import FINGERPRINT_CELL, FINGERPRINT_HOST, MAX_TEXT, Column

SCHEMA_VERSION = 1
FINGERPRINT_CELL_COLUMNS = tuple(column.name for column in FINGERPRINT_CELL)
FINGERPRINT_HOST_COLUMNS = tuple(column.name for column in FINGERPRINT_HOST)
MAX_CATEGORIES = 4096
MAX_MESSAGE_BYTES = 4 * 2**20
MAX_UNPACKED_BYTES = 32 * 2**20
MAX_FINGERPRINTS = 1000
MEDIA_TYPE = "application/vnd.fingerpost.fingerprints+msgpack"

# zlib's way to say that a header and trailer of gzip are there.
_GZIP = 31
_HEAD_BYTES = 16
_MESSAGE = Bounds(containers=1, array=MAX_FINGERPRINTS, binary=MAX_UNPACKED_BYTES)
# Four lists and two maps by now; fields of later versions may bring more.
_FINGERPRINT = Bounds(
    containers=16, array=MAX_CATEGORIES + 64, map=64, text=MAX_MESSAGE_BYTES, binary=MAX_MESSAGE_BYTES
)


@dataclass(frozen=True)
class Fingerprint:
    """What one host is like, as of a time.

    Args:
        boot_id: life of the agent; `sequence` counts within it, from 0.
        time_us: what it is as of, microseconds since 1970.
        halflife_s: age at which an observation weighs half.
        category_version: version of the table that `categories` come from.
        categories: names, C of them.
        host_values: HOST_COLUMNS, shape (len(HOST_COLUMNS),); NaN where not known.
        cells: CELL_COLUMNS of every category, shape (C, len(CELL_COLUMNS)); NaN where not known.
        history: what models are fed with; None: the agent has none, or is of a time before there was one.
    """

    service: str
    host: str
    boot_id: str
    sequence: int
    time_us: int
    halflife_s: float
    category_version: str
    categories: tuple[str, ...]
    host_values: Floats
    cells: Floats
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
            "halflife_s": fingerprint.halflife_s,
            "category_version": fingerprint.category_version,
            "categories": list(fingerprint.categories),
            "host_columns": FINGERPRINT_HOST_COLUMNS,
            "host_values": fingerprint.host_values.astype("<f4").tobytes(),
            "cell_columns": FINGERPRINT_CELL_COLUMNS,
            "cells": fingerprint.cells.astype("<f4").tobytes(),
            **({"history": block_to_wire(fingerprint.history)} if fingerprint.history else {}),
        }
    )
    return packed


def message(packed: Sequence[bytes]) -> bytes:
    """Several packed fingerprints as one message: the body of `POST /v1/fingerprints`."""
    return gzip.compress(msgpack.packb(list(packed)), compresslevel=1)


def open_message(body: bytes) -> list[bytes]:
    """The packed fingerprints of a message, not yet looked into.

    Raises:
        RefusedError: `message:too_large`, `message:malformed` or `message:too_many`.
    """
    found = _opened(body)
    if isinstance(found, str):
        raise RefusedError(found)
    return found


def _opened(body: bytes) -> list[bytes] | str:
    """The parts of a message, or why there are none: an error from in here would hold on to all that was unpacked."""
    if len(body) > MAX_MESSAGE_BYTES:
        return "message:too_large"
    unpacker = zlib.decompressobj(_GZIP)
    try:
        # How many there are stands at the beginning: what has too many is not unpacked to its end.
        plain = unpacker.decompress(body, _HEAD_BYTES)
        if _length(plain) > MAX_FINGERPRINTS:
            return "message:too_many"
        plain += unpacker.decompress(unpacker.unconsumed_tail, MAX_UNPACKED_BYTES - _HEAD_BYTES)
    except zlib.error:
        return "message:malformed"
    if unpacker.unconsumed_tail:
        return "message:too_large"
    if not unpacker.eof or unpacker.unused_data:
        return "message:malformed"
    try:
        parts = unpacked(plain, _MESSAGE)
    except ValueError:
        return "message:malformed"
    if not isinstance(parts, list) or set(map(type, parts)) - {bytes}:
        return "message:malformed"
    return parts


def _length(plain: bytes) -> int:
    """The number of entries that a long list says it has; 0 for anything else."""
    wide = {0xDC: 2, 0xDD: 4}.get(plain[0], 0) if plain else 0
    return int.from_bytes(plain[1 : 1 + wide], "big")


def unpack(packed: bytes, earliest_us: int, latest_us: int) -> Fingerprint:
    """One fingerprint, checked: its schema, names, times, and every number against its bounds.

    Columns that this program does not know are left out, known ones that are not there are NaN.

    Args:
        earliest_us, latest_us: inclusive bounds of its time, microseconds since 1970.

    Raises:
        RefusedError: `<field>:<what>`, as in `fingerpost.records.refusal`, or `schema:unknown`.
    """
    try:
        given = unpacked(packed, _FINGERPRINT)
    except ValueError as error:
        raise RefusedError("fingerprint:malformed") from error
    if not isinstance(given, dict):
        raise RefusedError("fingerprint:malformed")
    if given.get("schema") != SCHEMA_VERSION:
        raise RefusedError("schema:unknown")
    for field in ("service", "host", "boot_id"):
        if not is_name(given.get(field)):
            raise RefusedError(f"{field}:bad_name")
    categories = _categories(given.get("categories"))
    host_values = _matrix(given, "host_columns", "host_values", _HOST, 1)[0]
    time_us = _time(given, earliest_us, latest_us)
    return Fingerprint(
        given["service"],
        given["host"],
        given["boot_id"],
        _integer(given, "sequence", 0, 2**53),
        time_us,
        _positive(given, "halflife_s"),
        _text(given, "category_version"),
        categories,
        host_values,
        _matrix(given, "cell_columns", "cells", _CELL, len(categories)),
        block_from_wire(given["history"], time_us) if given.get("history") is not None else None,
    )


@dataclass(frozen=True)
class _Columns:
    """Columns as they are expected, looked up once.

    Args:
        low, high: least and greatest value of each, in the precision of the wire.
    """

    columns: tuple[Column, ...]
    names: list[str]
    low: Floats
    high: Floats

    @classmethod
    def of(cls, columns: tuple[Column, ...]) -> "_Columns":
        most = float(np.finfo(np.float32).max)
        low = [-most if column.low is None else np.float32(column.low) for column in columns]
        high = [most if column.high is None else np.float32(column.high) for column in columns]
        names = [column.name for column in columns]
        return cls(columns, names, np.array(low, dtype=np.float64), np.array(high, dtype=np.float64))

    def all_good(self, matrix: Floats) -> bool:
        """Whether every number is within its bounds, asked of all at once; NaN is."""
        return not ((matrix < self.low) | (matrix > self.high)).any()


_HOST, _CELL = _Columns.of(FINGERPRINT_HOST), _Columns.of(FINGERPRINT_CELL)


def _matrix(given: dict[str, Any], names: str, values: str, wanted: _Columns, rows: int) -> Floats:
    sent, raw = given.get(names), given.get(values)
    if not isinstance(sent, list) or not all(isinstance(name, str) for name in sent) or len(set(sent)) != len(sent):
        raise RefusedError(f"{names}:type")
    if not isinstance(raw, bytes) or len(raw) != 4 * rows * len(sent):
        raise RefusedError(f"{values}:size")
    matrix = np.frombuffer(raw, dtype="<f4").reshape(rows, len(sent)).astype(np.float64)
    if sent == wanted.names and wanted.all_good(matrix):
        return matrix
    known = np.full((rows, len(wanted.columns)), np.nan)
    for place, column in enumerate(wanted.columns):
        if column.name in sent:
            known[:, place] = matrix[:, sent.index(column.name)]
            _check(column, known[:, place])
    return known


def _check(column: Column, values: Floats) -> None:
    if np.isinf(values).any():
        raise RefusedError(f"{column.name}:not_finite")
    # Bounds in the precision of the wire, where a limit may have been rounded up.
    if column.low is not None and (values < np.float32(column.low)).any():
        raise RefusedError(f"{column.name}:{'negative' if (values < 0).any() else 'too_small'}")
    if column.high is not None and (values > np.float32(column.high)).any():
        raise RefusedError(f"{column.name}:too_large")


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


def _positive(given: dict[str, Any], field: str) -> float:
    value = given.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise RefusedError(f"{field}:type")
    return float(value)
