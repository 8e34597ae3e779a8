"""Routing tables as bytes: JSON for people, a Lua literal for pickers, Arrow for programs."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from fingerpost.serving.table import RoutingTable

JSON, LUA, ARROW = "application/json", "text/x-lua", "application/vnd.apache.arrow.stream"
MATRICES = ("throughput_rps", "latency_p50_s", "latency_p99_s", "success_rate", "age_s")
_TO_BRACES = bytes.maketrans(b"[]", b"{}")
_LUA_UNSAFE = re.compile(rb"[^ !#-\[\]-~]")


def render_json(table: RoutingTable, expires_at: float) -> bytes:
    """One object; a row a category in every matrix, a place a host; null where nothing can be said."""
    about = {
        **_about(table),
        "hosts": [
            {
                "name": name,
                "weight": round(float(table.weights[place]), 2),
                "as_of": int(table.times_us[place]) / 1e6,
                "inflight": _or_none(table.inflight[place]),
                "slots": _or_none(table.slots[place]),
            }
            for place, name in enumerate(table.hosts)
        ],
        "categories": table.categories,
        "routes": table.routes,
    }
    matrices = b",".join(b'"%s":%s' % (name.encode(), _rows(getattr(table, name))) for name in MATRICES)
    head = b'{"expires_at":%.3f,' % expires_at
    return head + orjson.dumps(about)[1:-1] + b"," + matrices + b"}"


def render_lua(table: RoutingTable, expires_at: float) -> bytes:
    """`return {...}`, to be read by `dofile`: nothing in it runs.

    `throughput_rps[c][h]` is of category c and host h, counted from 1; what is not known is 0, and so is never chosen.
    """
    about = _about(table)
    fields = [
        b"expires_at=%.3f" % expires_at,
        *(b"%s=%s" % (name.encode(), _lua_value(value)) for name, value in about.items()),
        b"hosts=" + _lua_list(table.hosts),
        b"categories=" + _lua_list(table.categories),
        b"routes=" + _lua_list(table.routes),
        b"weights=" + _lua_row(table.weights),
        b"inflight=" + _lua_row(table.inflight),
        b"slots=" + _lua_row(table.slots),
        *(b"%s=%s" % (name.encode(), _lua_numbers(_rows(getattr(table, name)))) for name in MATRICES),
    ]
    return b"return {\n" + b",\n".join(fields) + b"\n}\n"


def render_arrow(table: RoutingTable, expires_at: float) -> bytes:
    """A stream of one batch, a row a cell: category, host, weight, as_of_us and the matrices; the rest is metadata."""
    import pyarrow as pa

    hosts, categories = len(table.hosts), len(table.categories)

    def named(names: Sequence[str], places: NDArray[np.int32]) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(names, type=pa.string()))

    columns = {
        "category": named(table.categories, np.repeat(np.arange(categories, dtype=np.int32), hosts)),
        "host": named(table.hosts, np.tile(np.arange(hosts, dtype=np.int32), categories)),
        "weight": pa.array(np.tile(table.weights, categories)),
        "as_of_us": pa.array(np.tile(table.times_us, categories)),
        **{name: pa.array(getattr(table, name).reshape(-1), from_pandas=True) for name in MATRICES},
    }
    about = {**_about(table), "expires_at": expires_at, "routes": list(table.routes)}
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata({"fingerpost": orjson.dumps(about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


RENDERERS: dict[str, Callable[[RoutingTable, float], bytes]] = {JSON: render_json, LUA: render_lua, ARROW: render_arrow}


def lua_string(text: str) -> bytes:
    """A quoted Lua string; all but plain characters become decimal escapes, so that nothing can end it early."""
    return b'"' + _LUA_UNSAFE.sub(lambda found: b"\\%03d" % found.group()[0], text.encode()) + b'"'


def _about(table: RoutingTable) -> dict[str, Any]:
    return {
        "service": table.service,
        "version": table.version,
        "source": table.source,
        "model_version": table.model_version,
        "arm": table.arm,
        "experiment": table.experiment,
        "category_version": table.category_version,
        "as_of": table.as_of_us / 1e6,
    }


def _rows(matrix: NDArray[np.float32]) -> bytes:
    # Row by row: one call for all of a large table would hold up every request for as long as it takes.
    return b"[" + b",\n".join(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in matrix) + b"]"


def _lua_numbers(text: bytes) -> bytes:
    return text.replace(b"null", b"0").translate(_TO_BRACES)


def _lua_row(values: NDArray[np.float32]) -> bytes:
    return _lua_numbers(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))


def _lua_list(names: Sequence[str]) -> bytes:
    return b"{" + b",".join(lua_string(name) for name in names) + b"}"


def _lua_value(value: object) -> bytes:
    return lua_string(value) if isinstance(value, str) else b"%.6f" % float(str(value))


def _or_none(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
