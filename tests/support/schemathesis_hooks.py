"""How Schemathesis writes what it makes up for our own media type: as the bytes they are."""

import schemathesis


@schemathesis.serializer("application/vnd.fingerpost.fingerprints+msgpack")
def as_bytes(_context, value):
    data = getattr(value, "data", value)
    return data if isinstance(data, bytes) else str(data).encode()
