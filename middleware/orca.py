"""The ORCA load report as a response header, in the three encodings that Envoy reads.

Names and numbers of the fields: xDS `data/orca/v3/orca_load_report.proto`; the header: `endpoint-load-metrics`, its
value beginning with TEXT, JSON or BIN. Envoy's weight of a host is rps / (utilisation + penalty x eps / rps), the
utilisation being `application_utilization` if there is one, else `cpu_utilization`.
"""

import base64
import json
import struct
from collections.abc import Mapping

from fingerpost.middleware.load import Load

HEADER = "endpoint-load-metrics"
FORMATS = ("text", "json", "bin")
_NAMED = "named_metrics"
_NAMED_NUMBER = 8
_NUMBERS = {
    "cpu_utilization": 1,
    "mem_utilization": 2,
    "rps_fractional": 6,
    "eps": 7,
    "application_utilization": 9,
}


def load_report(load: Load, named: Mapping[str, float], encoding: str) -> str:
    """The header's value.

    Args:
        named: metrics of one's own; names without comma, colon and equals sign.
        encoding: `text`, `json` or `bin`.

    Raises:
        ValueError: another encoding.
    """
    values = {
        "cpu_utilization": load.cpu,
        "mem_utilization": load.memory,
        "application_utilization": load.application,
        "rps_fractional": load.rps,
        "eps": load.eps,
    }
    known = {name: round(value, 6) for name, value in values.items() if value is not None}
    if encoding == "text":
        pairs = [f"{name}={value:.6f}" for name, value in known.items()]
        return "TEXT " + ",".join(pairs + [f"{_NAMED}.{name}={value:.6f}" for name, value in named.items()])
    if encoding == "json":
        return "JSON " + json.dumps({**known, _NAMED: dict(named)}, separators=(",", ":"))
    if encoding == "bin":
        return "BIN " + base64.b64encode(_protobuf(known, named)).decode()
    raise ValueError(f"unknown encoding {encoding!r} of the load report: use {', '.join(FORMATS)}")


def with_inflight(report: str, inflight: int) -> str:
    """The report with the metric `inflight`: requests in flight, the one that is answered among them.

    Args:
        report: text or JSON without metrics of one's own; in the binary form it stays as it is.
    """
    if report.startswith("TEXT "):
        return f"{report},{_NAMED}.inflight={inflight}"
    return f'{report[:-2]}"inflight":{inflight}}}}}' if report.startswith("JSON ") else report


def _protobuf(known: Mapping[str, float], named: Mapping[str, float]) -> bytes:
    parts = [_double(_NUMBERS[name], value) for name, value in known.items()]
    for name, value in named.items():
        key = name.encode()[:100]
        entry = bytes([1 << 3 | 2, len(key)]) + key + _double(2, value)
        parts.append(bytes([_NAMED_NUMBER << 3 | 2, len(entry)]) + entry)
    return b"".join(parts)


def _double(number: int, value: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<d", value)
