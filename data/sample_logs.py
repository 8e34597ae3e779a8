"""The sample's traffic as the access logs and traces that the agent reads, line by line in the records' order.

Every format is written from what was served, not from request records, so that reading it back tests the readers.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.sample_run import HOSTS, SERVICE
from data.sample_traffic import Frame
from fingerpost.accesslog.envoy import DECISION, DECISION_MARK
from fingerpost.accesslog.envoy_format import access_log_format
from fingerpost.category import SEPARATOR, category_key, size_bucket
from fingerpost.clock import US

# docs/agent.md and docs/logs.md tell to configure these; a test holds them to what stands there.
NGINX_FORMAT = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
    '"$http_referer" "$http_user_agent" rt=$request_time urt=$upstream_response_time '
    'cl=$content_length auth=$fingerpost_auth cc="$http_cf_ipcountry" end=$msec'
)
HAPROXY_CAPTURES = (
    "req.fhdr(host) len 64",
    "req.fhdr(user-agent) len 256",
    "req.hdr(content-length) len 18",
    "var(txn.auth) len 8",
    "req.hdr(cf-ipcountry) len 2",
)
# HAProxy counts the answer's status line and headers too.
HAPROXY_HEADER_BYTES = 168
_SPANS_A_BODY_S = 60
_GAVE_UP, _SERVER, _ERROR = 499, 2, 2
_SITE = "shop.example"
_EXPERIMENT = "sample"

Row = dict[str, Any]


def write_logs(requests: Frame, folder: Path) -> None:
    """Writes `envoy/access.log.gz`, `nginx/HOST.log.gz`, `haproxy/haproxy.log.gz` and `otlp/HOST.jsonl.gz`.

    A line of `otlp` is the JSON body of one OTLP/HTTP export: what a host served within a minute.

    Args:
        requests: of `Traffic`.
    """
    rows: list[Row] = requests.to_dict("records")  # type: ignore[assignment]
    _write(folder / "envoy" / "access.log.gz", map(_envoy_writer(), rows))
    _write(folder / "haproxy" / "haproxy.log.gz", map(haproxy_line, rows))
    for host in HOSTS:
        own = [row for row in rows if row["host"] == host]
        _write(folder / "nginx" / f"{host}.log.gz", map(nginx_line, own))
        _write(folder / "otlp" / f"{host}.jsonl.gz", otlp_bodies(own, host))


def read_lines(path: Path) -> list[bytes]:
    """The lines of a compressed log."""
    return gzip.decompress(path.read_bytes()).splitlines()


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No time of writing within, so that the same lines are the same file.
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0))


def _envoy_writer() -> Callable[[Row], str]:
    """Fills in the format that `fingerpost envoy config` writes; Envoy orders the fields by name."""
    fields = sorted(access_log_format("fingerpost", len(HOSTS)).items())
    return lambda row: json.dumps({name: _ENVOY[operator](row) for name, operator in fields}, separators=(",", ":"))


def _gave_up(row: Row) -> bool:
    return bool(row["status"] == _GAVE_UP)


def _start(row: Row) -> str:
    seconds, micros = divmod(row["start_us"], US)
    return f"{seconds}.{micros:06}"


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _decision(row: Row) -> str:
    category = category_key(
        row["method"], row["route"], size_bucket(row["bytes_in"]), row["auth"], row["user_agent_class"], row["region"]
    )
    parts = {
        "policy": row["policy"],
        "fallback": "",
        "explored": "1" if row["explored"] else "",
        "arm": row["arm"],
        "model_version": row["model_version"],
        "table_version": f"{_EXPERIMENT}-{row['table']}",
        "propensity": "" if np.isnan(row["propensity"]) else f"{row['propensity']:.6g}",
        "predicted_cost": f"{row['predicted_cost']:.6g}",
        "category": SEPARATOR.join(category),
    }
    return DECISION_MARK.join(parts[name] for name in DECISION)


_ENVOY: dict[str, Callable[[Row], Any]] = {
    "%START_TIME(%s.%6f)%": _start,
    "%UPSTREAM_HOST_NAME%": lambda row: row["host"],
    "%REQ(:METHOD)%": lambda row: row["method"],
    "%PATH(NQ):512%": lambda row: row["path"],
    # A client that left was sent no status.
    "%RESPONSE_CODE%": lambda row: 0 if _gave_up(row) else row["status"],
    "%RESPONSE_FLAGS%": lambda row: "DC" if _gave_up(row) else "-",
    "%GRPC_STATUS_NUMBER%": lambda _row: None,
    "%BYTES_RECEIVED%": lambda row: row["bytes_in"],
    "%BYTES_SENT%": lambda row: row["bytes_out"],
    "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%": lambda row: row["duration_us"],
    "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%": lambda row: None if row["service_us"] < 0 else row["service_us"],
    "%DURATION%": lambda row: round(row["duration_us"] / 1000),
    "%REQ(AUTHORIZATION):6%": lambda row: row["auth_scheme"] or None,
    "%REQ(X-API-KEY):0%": lambda row: "" if row["api_key"] else None,
    "%REQ(COOKIE):0%": lambda row: "" if row["cookie"] else None,
    "%REQ(USER-AGENT):256%": lambda row: row["user_agent"],
    "%REQ(CF-IPCOUNTRY):2%": lambda row: row["country"] or None,
    "%REQ(x-fingerpost-decision)%": _decision,
    "%DYNAMIC_METADATA(fingerpost:inflight)%": lambda row: None if np.isnan(row["inflight"]) else int(row["inflight"]),
    "%DYNAMIC_METADATA(fingerpost:cpu_s)%": lambda row: _known(row["cpu_s"]),
}


def nginx_line(row: Row) -> str:
    """A line of `NGINX_FORMAT`; nginx tells times in whole milliseconds, cut off."""
    end_ms = row["time"] // 1000
    line = NGINX_FORMAT
    # The longest names first: `$request` begins another's.
    for name, value in sorted(_nginx(row, end_ms).items(), reverse=True):
        line = line.replace(f"${name}", value)
    return line


def _nginx(row: Row, end_ms: int) -> dict[str, str]:
    return {
        "remote_addr": row["client"],
        "remote_user": "-",
        "time_local": datetime.fromtimestamp(end_ms // 1000, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "request": f"{row['method']} {row['path']}{row['query']} HTTP/1.1",
        "status": str(row["status"]),
        "body_bytes_sent": str(row["bytes_out"]),
        "http_referer": "-",
        "http_user_agent": row["user_agent"],
        "request_time": _milli(row["duration_us"] // 1000),
        "upstream_response_time": "-" if row["service_us"] < 0 else _milli(row["service_us"] // 1000),
        "content_length": str(row["bytes_in"]) if row["bytes_in"] else "-",
        "fingerpost_auth": row["auth"],
        "http_cf_ipcountry": row["country"] or "-",
        "msec": _milli(end_ms),
    }


def _milli(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03}"


def haproxy_line(row: Row) -> str:
    """A line of `option httplog` with the documented captures; of a machine whose clock tells UTC."""
    start_ms = row["start_us"] // 1000
    began = datetime.fromtimestamp(start_ms // 1000, UTC).strftime("%d/%b/%Y:%H:%M:%S")
    total_ms = row["duration_us"] // 1000
    response_ms = -1 if row["service_us"] < 0 else row["service_us"] // 1000
    status, ended = (-1, "CH--") if _gave_up(row) else (row["status"], "----")
    sent = 0 if _gave_up(row) else row["bytes_out"] + HAPROXY_HEADER_BYTES
    auth = "" if row["auth"] == "none" else row["auth"]
    captured = "|".join([_SITE, row["user_agent"], str(row["bytes_in"] or ""), auth, row["country"]])
    return (
        f"{row['client']}:{40_000 + row['start_us'] % 20_000} [{began}.{start_ms % 1000:03}] web hosts/{row['host']} "
        f"0/0/0/{response_ms}/{total_ms} {status} {sent} - - {ended} 1/1/0/0/0 0/0 {{{captured}}} "
        f'"{row["method"]} {row["path"]}{row["query"]} HTTP/1.1"'
    )


def otlp_bodies(rows: list[Row], host: str) -> Iterator[str]:
    """Exports of one host's spans, each as the JSON of an `ExportTraceServiceRequest`."""
    resource = {"attributes": _attributes({"service.name": SERVICE, "host.name": host})}
    for minute in sorted({row["time"] // (_SPANS_A_BODY_S * US) for row in rows}):
        spans = [_span(row) for row in rows if row["time"] // (_SPANS_A_BODY_S * US) == minute]
        scope = {"scope": {"name": "shop"}, "spans": spans}
        body = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
        yield json.dumps(body, separators=(",", ":"))


def _span(row: Row) -> dict[str, Any]:
    """A span of the server: what it took, of a client that left until the answer was made in vain."""
    attributes: dict[str, Any] = {
        "http.request.method": row["method"],
        "url.path": row["path"],
        "http.response.status_code": row["status"],
        "user_agent.original": row["user_agent"],
        "http.response.body.size": row["bytes_out"],
    }
    if row["bytes_in"]:
        attributes["http.request.body.size"] = row["bytes_in"]
    headers = {
        "authorization": "Bearer ***" if row["auth_scheme"] else "",
        "x-api-key": "***" if row["api_key"] else "",
        "cookie": "***" if row["cookie"] else "",
        "cf-ipcountry": row["country"],
    }
    attributes |= {f"http.request.header.{name}": [value] for name, value in headers.items() if value}
    begin_us = row["arrived_us"]
    return {
        # No two requests of a host begin in the same microsecond.
        "traceId": f"{begin_us:032x}",
        "spanId": f"{begin_us:016x}",
        "name": f"{row['method']} {row['route']}",
        "kind": _SERVER,
        "startTimeUnixNano": f"{begin_us}000",
        "endTimeUnixNano": f"{begin_us + row['residence_us']}000",
        "attributes": _attributes(attributes),
        "status": {"code": _ERROR} if row["status"] >= 500 else {},
    }


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
