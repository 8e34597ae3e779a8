"""The columns of the lake as Arrow schemas."""

import pyarrow as pa

from fingerpost.records import FINGERPRINT, HOST_SAMPLE, HOST_WINDOW, REQUEST_RECORD, WINDOW, Column

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
}
