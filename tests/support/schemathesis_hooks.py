"""How Schemathesis writes what it makes up for media types that it does not know: as the bytes they are."""

import schemathesis


@schemathesis.serializer("application/vnd.fingerpost.reports+msgpack", "application/vnd.apache.parquet")
def as_bytes(_context, value):
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode()
