"""Which value (`fingerpost.accesslog.values`) each variable of a proxy's or server's log format tells."""

_HEADERS = {
    "user-agent": "agent",
    "content-length": "length",
    "cf-ipcountry": "country",
    "x-country-code": "country",
    "authorization": "authorization",
    "x-api-key": "api_key",
    "cookie": "cookie",
}


def header(name: str, dash: str) -> str:
    """The value that a request header tells, by its name with its dashes written as `dash`; empty: none."""
    return _HEADERS.get(name.lower().replace(dash, "-"), "")


NGINX_VARIABLES = {
    "remote_addr": "client",
    "remote_user": "user",
    "time_local": "end",
    "time_iso8601": "end",
    "msec": "end",
    "request": "request",
    "request_method": "method",
    "request_uri": "path",
    "uri": "path",
    "document_uri": "path",
    "status": "status",
    "body_bytes_sent": "sent",
    "bytes_sent": "sent_all",
    "request_length": "length_all",
    "content_length": "length",
    "request_time": "duration_s",
    "upstream_response_time": "service_s",
    "fingerpost_auth": "auth",
    "fingerpost_host": "host",
    "ssl_client_verify": "verified",
    "sent_trailer_grpc_status": "grpc_status",
    "upstream_trailer_grpc_status": "grpc_status",
    "sent_http_grpc_status": "grpc_status",
}
APACHE_DIRECTIVES = {
    "h": "client",
    "a": "client",
    "u": "user",
    "r": "request",
    "m": "method",
    "U": "path",
    "s": "status",
    "b": "sent",
    "B": "sent",
    "O": "sent_all",
    "I": "length_all",
    "D": "duration_us",
}
HAPROXY_NAMES = {
    "ci": "client",
    "s": "host",
    "Tr": "service_ms",
    "Ta": "duration_ms",
    "Tt": "duration_ms",
    "Tu": "duration_ms",
    "ST": "status",
    "B": "sent_all",
    "U": "length_all",
    "r": "request",
    "HM": "method",
    "HP": "path",
    "HPO": "path",
    "HU": "path",
    "Ts": "begin",
}
ENVOY_OPERATORS = {
    "PROTOCOL": "",
    "PATH": "path",
    "RESPONSE_CODE": "status",
    "RESPONSE_FLAGS": "flags",
    "GRPC_STATUS": "grpc_status",
    "GRPC_STATUS_NUMBER": "grpc_status",
    "BYTES_RECEIVED": "length",
    "BYTES_SENT": "sent",
    "DURATION": "duration_ms",
    "DOWNSTREAM_REMOTE_ADDRESS": "client",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": "client",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": "client",
    "UPSTREAM_HOST_NAME": "host",
}
