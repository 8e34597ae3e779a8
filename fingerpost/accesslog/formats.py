"""The access-log formats that can be read: by name, or as the format string of nginx, Apache, HAProxy or Envoy."""

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fingerpost.accesslog import combined as combined_log
from fingerpost.accesslog import envoy as envoy_log
from fingerpost.accesslog import haproxy as haproxy_log
from fingerpost.accesslog.format_string import compile_format
from fingerpost.accesslog.json_lines import caddy_values, envoy_values, json_values, traefik_values, usual_values
from fingerpost.accesslog.prefixes import without_prefix, without_time
from fingerpost.accesslog.values import Values, host_named, record_of
from fingerpost.errors import RefusedError

Claim = Callable[[bytes, str], str | None]
Parse = Callable[[bytes, str, str | None], dict[str, Any]]
Tells = Callable[[bytes], Set[str]]
_SWITCHING = 101


@dataclass(frozen=True)
class LogFormat:
    """How to read one format.

    Args:
        claim: (line, own host) to the host the line is about, without parsing it; None: nobody can claim the line.
        parse: (line, service, claimed host) to a request record, with the client's address under the private key
            `client`; raises RefusedError.
        tells: a line to the names of the values that lines like it tell (`fingerpost.accesslog.values`).
    """

    claim: Claim
    parse: Parse
    tells: Tells


def _prefixed(claim: Claim | None, parse: Parse, tells: Tells) -> LogFormat:
    """A format whose lines may have come through a collector.

    Args:
        claim: as of `LogFormat`; None: every line is of the host whose log it is in.
    """

    def claimed(line: bytes, host: str) -> str | None:
        if claim is None:
            return host
        try:
            return claim(without_prefix(line), host)
        except RefusedError:
            return claim(line, host)

    def parsed(line: bytes, service: str, host: str | None) -> dict[str, Any]:
        bare = without_prefix(line)
        try:
            row = parse(bare, service, host)
        except RefusedError:
            timeless = without_time(bare)
            if timeless is bare:
                raise
            row = parse(timeless, service, host)
        # How long a connection lasted, of a websocket or a tunnel, is no time that a request took.
        if row["status"] == _SWITCHING or row["method"] == "CONNECT":
            row["duration_s"] = row["service_time_s"] = None
        return row

    return LogFormat(claimed, parsed, tells)


def _by_values(values_of: Callable[[bytes], Values], names_host: bool) -> LogFormat:
    """A format whose lines give named values.

    Args:
        names_host: a line may name the host that answered, as the log of a proxy before several does.
    """

    def claim(line: bytes, host: str) -> str | None:
        try:
            values = values_of(line)
        except RefusedError:
            return None
        # A line that names nobody is of the host whose log it is in.
        return host_named(values) if values.get("host") else host

    def tells(line: bytes) -> Set[str]:
        try:
            return {*values_of(without_prefix(line))}
        except RefusedError:
            return frozenset()

    return _prefixed(
        claim if names_host else None,
        lambda line, service, host: record_of(values_of(line), service, host or ""),
        tells,
    )


def _json(names: Callable[..., Values], names_host: bool = False) -> LogFormat:
    return _by_values(lambda line: json_values(line, names), names_host)


def _declared(text: str) -> LogFormat:
    compiled = compile_format(text)
    return _by_values(compiled.values, "host" in compiled.names)


_NAMED_FIELDS = {b"cl": "length", b"rl": "length_all", b"auth": "auth", b"cc": "country", b"host": "host"}
_CAPTURED = ("agent", "length", "auth", "country")
LOG_FORMATS: dict[str, LogFormat] = {
    "envoy": _prefixed(
        lambda line, _host: envoy_log.claimed_host(line),
        envoy_log.parse_line,
        lambda _line: {"length", "host", "agent", "auth", "country"},
    ),
    # A combined log does not name the host: it is the host's own.
    "combined": _prefixed(
        lambda _line, host: host,
        lambda line, service, claimed: combined_log.parse_line(line, service, claimed or ""),
        lambda line: {_NAMED_FIELDS[name] for name in re.findall(rb"\s(cl|rl|auth|cc|host)=", line)},
    ),
    "haproxy": _prefixed(
        lambda line, _host: haproxy_log.claimed_host(line),
        lambda line, service, _claimed: haproxy_log.parse_line(line, service),
        lambda line: {"host", *(_CAPTURED if line.count(b"|") > 1 else ())},
    ),
}
_COMBINED = r"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\""
_NGINX = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)
# Formats that are declared by others: defaults of proxies, ingresses and servers.
_STRINGS = {
    "ingress-nginx": f"nginx:{_NGINX} $request_length $request_time [$proxy_upstream_name] "
    "[$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time "
    "$upstream_status $req_id",
    "apache-combinedio": f"apache:{_COMBINED} %I %O",
    "apache-vhost": f"apache:%v:%p {_COMBINED}",
    # A whole number at the end: of what unit the line does not say.
    "apache-s": f"apache:{_COMBINED} %T",
    "apache-ms": f"apache:{_COMBINED} %{{ms}}T",
    "apache-us": f"apache:{_COMBINED} %D",
    "tomcat": f"tomcat:{_COMBINED} %D",
    "tomcat-common": r"tomcat:%h %l %u %t \"%r\" %s %b %D",
    "traefik": f'nginx:{_NGINX} $count "$router" "$server" ${{request_time}}',
    "haproxy-tcp": "haproxy:%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq",
    "haproxy-https": "haproxy:%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc "
    "%sq/%bq %hr %hs %{+Q}r %[fc_err]/%[ssl_fc_err,hex]/%[ssl_c_err]/%[ssl_c_ca_err]/%[ssl_fc_is_resumed] "
    "%[ssl_fc_sni]/%sslv/%sslc",
    "envoy-text": 'envoy:[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" '
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"',
    "istio": 'envoy:[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% '
    '%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
    '%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" '
    '"%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% '
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% "
    "%ROUTE_NAME%",
}
_JSON = {"caddy": caddy_values, "traefik-json": traefik_values, "envoy-json": envoy_values, "json": usual_values}
# All names, those first that `logs check` tries first.
FORMAT_NAMES = (*LOG_FORMATS, *_STRINGS, *_JSON)


@lru_cache(maxsize=64)
def log_format(name: str) -> LogFormat:
    """The format of a name of FORMAT_NAMES, or of a format string: see `compile_format`.

    Raises:
        FingerpostError: it is neither.
    """
    if name in LOG_FORMATS:
        return LOG_FORMATS[name]
    if name in _JSON:
        return _json(_JSON[name], name == "envoy-json")
    return _declared(_STRINGS.get(name, name))
