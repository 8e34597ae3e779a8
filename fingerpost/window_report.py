"""Window reports on the wire: what closed at one host in one window, seen by one reporter; msgpack in gzip.

Everything but experiments learns from these: rolling state, tables, features, training. A report without a window only
says that its host is there. One that is lost leaves a gap, one that comes again changes nothing: `sequence` counts
within a `boot_id`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import msgpack
import numpy as np

from fingerpost.arrays import Floats, Floats32
from fingerpost.bounded import Bounds, unpacked
from fingerpost.category import ATTRIBUTES, SEPARATOR, Key
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.names import is_name
from fingerpost.records import FINGERPRINT_HOST, HOST_SIGN, HOST_WINDOW, MAX_TEXT, SIGNS, WINDOW, Column
from fingerpost.telemetry.windows import WINDOW_FORM, Arrays

SCHEMA_VERSION = 1
# What a window says of a category; the rest of WINDOW follows from these, or is the report's.
_DERIVED = ("time", "service", "host", "category", "window_s", "rate_rps", "mem_bytes")
_WINDOW = tuple(column for column in WINDOW if column.name not in _DERIVED)
WINDOW_COLUMNS = tuple(column.name for column in _WINDOW)
COUNTS = ("requests", "errors", "measured")
_LOAD = tuple(column for column in HOST_WINDOW if column.name not in ("time", "host"))
LOAD_COLUMNS = tuple(column.name for column in _LOAD)
# On the wire the signs are by name, where they are known: programs of before them take the others alone.
_PLAIN_LOAD = _LOAD[: -len(HOST_SIGN)]
# Of the host when the report was made.
_SAMPLE = tuple(
    column
    for column in FINGERPRINT_HOST
    if column.name in ("cores", "host_mem_bytes", "mem_limit_bytes", "host_inflight", "slots")
)
SAMPLE_COLUMNS = tuple(column.name for column in _SAMPLE)
MAX_ROWS = 1024
# Finest keys whose requests are counted in one report, most frequent first.
MAX_KEYS = 256
# Bounds for `unpack` of what was checked when it came.
ANY_TIME = (-(2**62), 2**62)
MEDIA_TYPE = "application/vnd.fingerpost.reports+msgpack"
_MAX_WINDOW_S = 3600.0
# Counts, seconds, bytes and rates all lie far within this.
_MOST = 1e15
# A list for each key, and a few lists and maps besides; fields of later versions may bring more.
_REPORT = Bounds(containers=MAX_KEYS + 32, array=MAX_ROWS + 64, map=64, text=4 * MAX_TEXT, binary=2**20)
Source = Literal["host", "proxy"]


@dataclass(frozen=True)
class WindowReport:
    """One window of one host, or only that the host is there.

    Args:
        source: `host`: its own agent; `proxy`: the agent of a proxy, which sees its requests from outside.
        reporter: who reports; of an agent of the host the host's own name, else the proxy's.
        boot_id: life of the reporter; `sequence` counts this host's reports within it, from 0.
        time_us: when it was made, microseconds since 1970.
        end_us: end of the window; 0: none is reported.
        window_s: length of windows, seconds.
        category_version: of the table that `categories` come from.
        categories: the categories that had requests in the window, R of them.
        windows: WINDOW_COLUMNS of each, shape (R, K), float32; NaN where not known.
        load: LOAD_COLUMNS of the host over the window, shape (L,); None: it was not sampled.
        sample: SAMPLE_COLUMNS, as last sampled, shape (5,); NaN where not known.
        keys: finest keys with their number of requests since the last report that had any, at most MAX_KEYS.
        landed: the engine lands the window in the lake; else its requests are there by another way.
    """

    service: str
    host: str
    source: Source
    reporter: str
    boot_id: str
    sequence: int
    time_us: int
    end_us: int
    window_s: float
    category_version: str
    categories: tuple[str, ...]
    windows: Floats32
    load: Floats32 | None
    sample: Floats
    keys: tuple[tuple[Key, int], ...] = ()
    landed: bool = True

    def column(self, name: str) -> Floats:
        """One of WINDOW_COLUMNS of every category, shape (R,)."""
        return self.windows[:, WINDOW_COLUMNS.index(name)].astype(np.float64)


def window_matrix(windows: Arrays) -> Floats32:
    """The rows of `WindowReport.windows`, of windows of one end and host by `fingerpost.telemetry.windows`."""
    columns = [np.asarray(windows[name], dtype=np.float64) for name in WINDOW_COLUMNS]
    return np.stack(columns, axis=1).astype(np.float32)


def load_row(loads: Arrays) -> Floats32 | None:
    """`WindowReport.load`, of loads of one end and host; None: there are none."""
    if not len(loads["host"]):
        return None
    return np.array([float(loads[name][0]) for name in LOAD_COLUMNS], dtype=np.float32)


def pack(report: WindowReport) -> bytes:
    """One report as compact bytes."""
    packed: bytes = msgpack.packb(
        {
            "schema": SCHEMA_VERSION,
            "form": WINDOW_FORM,
            "service": report.service,
            "host": report.host,
            "source": report.source,
            "reporter": report.reporter,
            "boot_id": report.boot_id,
            "sequence": report.sequence,
            "time_us": report.time_us,
            "end_us": report.end_us,
            "window_s": report.window_s,
            "category_version": report.category_version,
            "categories": list(report.categories),
            "columns": WINDOW_COLUMNS,
            "windows": _shuffled(report.windows.T),
            **({} if report.load is None else _packed_load(report.load)),
            "sample": report.sample.astype("<f4").tobytes(),
            "keys": [[SEPARATOR.join(key), count] for key, count in report.keys],
            "landed": report.landed,
        }
    )
    return packed


def unpack(packed: bytes, earliest_us: int, latest_us: int) -> WindowReport:
    """One report, checked: its schema, names, times, and every number against its bounds.

    Columns that this program does not know are left out, known ones that are not there are NaN.

    Args:
        earliest_us, latest_us: inclusive bounds of its times, microseconds since 1970.

    Raises:
        RefusedError: `<field>:<what>`, as in `fingerpost.records.refusal`; `schema:older` or `schema:newer` where the
            program that made it speaks another version, or makes windows in another way.
    """
    try:
        given = unpacked(packed, _REPORT)
    except ValueError as error:
        raise RefusedError("report:malformed") from error
    if not isinstance(given, dict):
        raise RefusedError("report:malformed")
    for name, own in (("schema", SCHEMA_VERSION), ("form", WINDOW_FORM)):
        _check_version(given.get(name), own)
    for name in ("service", "host", "reporter", "boot_id"):
        if not is_name(given.get(name)):
            raise RefusedError(f"{name}:bad_name")
    source = given.get("source")
    if source not in ("host", "proxy"):
        raise RefusedError("source:unknown")
    time_us = _integer(given, "time_us", -(2**62), 2**62)
    if not earliest_us <= time_us <= latest_us:
        raise RefusedError("time:too_old" if time_us < earliest_us else "time:future")
    window_s = given.get("window_s")
    if isinstance(window_s, bool) or not isinstance(window_s, int | float) or not 0 < window_s <= _MAX_WINDOW_S:
        raise RefusedError("window_s:type")
    end_us = _integer(given, "end_us", 0, 2**62)
    if end_us and (end_us > time_us + round(window_s * US) or end_us % round(window_s * US)):
        raise RefusedError("end_us:future" if end_us > time_us else "end_us:not_aligned")
    if end_us and end_us < earliest_us:
        raise RefusedError("end_us:too_old")
    version = given.get("category_version")
    if not isinstance(version, str) or len(version) > MAX_TEXT:
        raise RefusedError("category_version:type")
    categories = _categories(given.get("categories"))
    if categories and not end_us:
        raise RefusedError("end_us:missing")
    windows = _windows(given, len(categories))
    load = _load(given["load"], given.get("signs", {})) if given.get("load") is not None and end_us else None
    landed = given.get("landed", True)
    if not isinstance(landed, bool):
        raise RefusedError("landed:type")
    return WindowReport(
        service=given["service"],
        host=given["host"],
        source=source,
        reporter=given["reporter"],
        boot_id=given["boot_id"],
        sequence=_integer(given, "sequence", 0, 2**53),
        time_us=time_us,
        end_us=end_us,
        window_s=float(window_s),
        category_version=version,
        categories=categories,
        windows=windows,
        load=load,
        sample=_row(given.get("sample"), _SAMPLE, "sample").astype(np.float64),
        keys=_keys(given.get("keys", [])),
        landed=landed,
    )


def _check_version(version: Any, own: int) -> None:
    if version == own and not isinstance(version, bool):
        return
    if isinstance(version, bool) or not isinstance(version, int):
        raise RefusedError("schema:unknown")
    raise RefusedError("schema:older" if version < own else "schema:newer")


def _windows(given: dict[str, Any], rows: int) -> Floats32:
    names, raw = given.get("columns"), given.get("windows")
    if not _are_texts(names) or len(set(names)) != len(names) or not set(COUNTS) <= set(names):
        raise RefusedError("columns:type")
    if not isinstance(raw, bytes) or len(raw) != 4 * len(names) * rows:
        raise RefusedError("windows:size")
    told = dict(zip(names, _unshuffled(raw, len(names), rows), strict=True))
    windows = np.full((len(_WINDOW), rows), np.nan, dtype=np.float32)
    for place, column in enumerate(_WINDOW):
        if column.name in told:
            windows[place] = told[column.name]
    _check_bounds(_WINDOW, windows)
    # Unlike other numbers, counts are always known, whole, and no part is more than the whole.
    requests, errors, measured = (windows[WINDOW_COLUMNS.index(name)] for name in COUNTS)
    for name, counts, least in (("requests", requests, 1), ("errors", errors, 0), ("measured", measured, 0)):
        if not (np.floor(counts) == counts).all() or not ((counts >= least) & (counts <= requests)).all():
            raise RefusedError(f"{name}:type")
    return np.ascontiguousarray(windows.T)


def _row(raw: Any, columns: tuple[Column, ...], what: str) -> Floats32:
    if not isinstance(raw, bytes) or len(raw) != 4 * len(columns):
        raise RefusedError(f"{what}:size")
    values = np.frombuffer(raw, dtype="<f4")
    _check_bounds(columns, values[:, None])
    return values


def _packed_load(load: Floats32) -> dict[str, Any]:
    signs = zip(SIGNS, load[len(_PLAIN_LOAD) :].tolist(), strict=True)
    plain = load[: len(_PLAIN_LOAD)].astype("<f4").tobytes()
    return {"load": plain, "signs": {name: value for name, value in signs if math.isfinite(value)}}


def _load(raw: Any, signs: Any) -> Floats32:
    plain = _row(raw, _PLAIN_LOAD, "load")
    told = [signs.get(name, math.nan) for name in SIGNS] if isinstance(signs, dict) else []
    if not told or not all(isinstance(value, float) for value in told):
        raise RefusedError("signs:type")
    values = np.array(told, dtype=np.float64)
    _check_bounds(HOST_SIGN, values[:, None])
    return np.concatenate([plain, values]).astype(np.float32)


def _check_bounds(columns: tuple[Column, ...], values: Floats | Floats32) -> None:
    """Checks a row of values for each column, in the precision of the wire, where a limit may have been rounded up.

    NaN is within all bounds.
    """
    if not values.size:
        return
    least, most = (reduce(values, axis=1).tolist() for reduce in (np.fmin.reduce, np.fmax.reduce))
    for column, low, high in zip(columns, least, most, strict=True):
        if max(-low, high) > _MOST:
            raise RefusedError(f"{column.name}:{'not_finite' if math.isinf(max(-low, high)) else 'too_large'}")
        if column.low is not None and low < np.float32(column.low):
            raise RefusedError(f"{column.name}:{'negative' if low < 0 else 'too_small'}")
        if column.high is not None and high > np.float32(column.high):
            raise RefusedError(f"{column.name}:too_large")


def _categories(given: Any) -> tuple[str, ...]:
    if not _are_texts(given):
        raise RefusedError("categories:type")
    if len(given) > MAX_ROWS:
        raise RefusedError("categories:too_many")
    if max(map(len, given), default=0) > MAX_TEXT:
        raise RefusedError("categories:too_long")
    if len(set(given)) != len(given):
        raise RefusedError("categories:repeated")
    return tuple(given)


def _keys(given: Any) -> tuple[tuple[Key, int], ...]:
    if not isinstance(given, list) or len(given) > MAX_KEYS:
        raise RefusedError("keys:type")
    found = []
    for each in given:
        if not isinstance(each, list) or len(each) != 2 or not isinstance(each[0], str):
            raise RefusedError("keys:type")
        key, count = tuple(each[0].split(SEPARATOR)), each[1]
        if len(key) < len(ATTRIBUTES) or len(each[0]) > MAX_TEXT or not key[0]:
            raise RefusedError("keys:bad_key")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= 2**40:
            raise RefusedError("keys:count")
        found.append((key, count))
    return tuple(found)


def _integer(given: dict[str, Any], name: str, low: int, high: int) -> int:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RefusedError(f"{name}:type")
    return value


def _are_texts(given: Any) -> TypeGuard[list[str]]:
    return isinstance(given, list) and set(map(type, given)) <= {str}


def _shuffled(columns: Floats32) -> bytes:
    """Columns one by one, of each first all lowest bytes, then the next: exponents, side by side, pack well."""
    count, rows = columns.shape
    raw = np.ascontiguousarray(columns, dtype="<f4").view(np.uint8).reshape(count, rows, 4)
    return raw.transpose(0, 2, 1).tobytes()


def _unshuffled(raw: bytes, columns: int, rows: int) -> Floats32:
    given = np.frombuffer(raw, dtype=np.uint8).reshape(columns, 4, rows)
    return np.ascontiguousarray(given.transpose(0, 2, 1)).view("<f4").reshape(columns, rows)
