"""Defines the messages on the middleware's socket: a version byte, then a msgpack map, at most 60 kB a datagram.

The map has `records`, a list of maps with the keys below, and `dropped`, how many records were given up since the last
datagram. Text is at most 256 characters. Anything else in it is left out by the receiver.
"""

from typing import Any

VERSION = 1
MAX_DATAGRAM = 60_000
MAX_FIELD = 256

# What a record may have, with the types it may have. Secrets are not among it: of credentials only their kind, of a
# client's certificate only whether a proxy or the server has verified it.
RECORD_KEYS: dict[str, tuple[type, ...]] = {
    "time": (int,),
    "service": (str,),
    "host": (str,),
    "method": (str,),
    "route": (str,),
    "status": (int,),
    "bytes_in": (int,),
    "bytes_out": (int,),
    "auth": (str,),
    "client_cert": (bool,),
    "user_agent": (str,),
    "region_header": (str,),
    "client": (str,),
    "forwarded_for": (str,),
    "duration_s": (float, int),
    "service_time_s": (float, int),
    "inflight": (int,),
    "cpu_s": (float, int),
    "mem_bytes": (int,),
}


def allowed(record: dict[Any, Any]) -> dict[str, Any]:
    """The record with the keys and types it may have; text is cut, None and all else are left out."""
    kept: dict[str, Any] = {}
    for name, kinds in RECORD_KEYS.items():
        value = record.get(name)
        if type(value) not in kinds:
            continue
        kept[name] = value[:MAX_FIELD] if isinstance(value, str) else value
    return kept
