"""The lines of Envoy's access log: what a request record needs, how the request was routed, and no secret."""

from typing import Any

# Measured at the host, sent as response headers, moved into the log, never shown to the client.
HOST_HEADERS = {"inflight": "x-fingerpost-inflight", "cpu_s": "x-fingerpost-cpu-s"}
MAX_USER_AGENT = 256
# Envoy writes its log so often, for the router and agents to hear of requests soon: `--file-flush-interval-msec`.
FLUSH_MS = 250
# What the native picker says of its decision, as `fingerpost.accesslog.envoy` parses it: set when the request is done.
DECISION_HEADER = "x-fingerpost-decision"
# The endpoint picker says the same in its metadata; where it was away, the request went by least request.
_METADATA_DECISION = {"decision": "%DYNAMIC_METADATA(fingerpost:decision)%", "policy": "least_request"}


def decision_header(service: str) -> str:
    """The request header that holds the decisions of a service; an Envoy with one service alone need not name it."""
    return f"{DECISION_HEADER}-{service}" if service else DECISION_HEADER


def access_log_format(policy: str, hosts: int, log_client: bool = False, service: str = "") -> dict[str, Any]:
    """The fields of an access-log line: what a request record needs and no secret.

    Of the Authorization header only the scheme's first six characters are kept, of the API key and the cookie that they
    were sent, and the query is left out. Times are microseconds, the start is seconds since 1970.

    Args:
        policy: the routing policy in force; with `random` every host is as likely, so the propensity is known; with
            `fingerpost` and `endpoint_picker` each line has the decision itself.
        log_client: also log the client's address, which is personal data: only where agents shall look regions up by
            it. They drop it then; the log keeps it.
        service: see `decision_header`.
    """
    client = {"client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"} if log_client else {}
    propensity = {"propensity": 1 / hosts} if policy == "random" and hosts else {}
    decisions: dict[str, dict[str, Any]] = {
        "fingerpost": {"decision": f"%REQ({decision_header(service)})%"},
        "endpoint_picker": _METADATA_DECISION,
    }
    return {
        "start": "%START_TIME(%s.%6f)%",
        "host": "%UPSTREAM_HOST_NAME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ):512%",
        "status": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        # Of calls by gRPC alone: their status is 200 whatever became of them.
        "grpc_status": "%GRPC_STATUS_NUMBER%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "service_time_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
        # Of a request whose client gave up, the end of whose answer there never was: the time until then.
        "lasted_ms": "%DURATION%",
        "auth_scheme": "%REQ(AUTHORIZATION):6%",
        # None of it, but that it was sent: empty, or null. Asking by CEL takes Envoy a twentieth of a request's time.
        "api_key": "%REQ(X-API-KEY):0%",
        "cookie": "%REQ(COOKIE):0%",
        "user_agent": f"%REQ(USER-AGENT):{MAX_USER_AGENT}%",
        "region": "%REQ(CF-IPCOUNTRY):2%",
        **client,
        **decisions.get(policy, {"policy": policy, **propensity}),
        **{name: f"%DYNAMIC_METADATA(fingerpost:{name})%" for name in HOST_HEADERS},
    }
