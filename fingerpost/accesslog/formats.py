"""The access-log formats an agent can follow, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fingerpost.accesslog import combined as combined_log
from fingerpost.accesslog import envoy as envoy_log
from fingerpost.accesslog import haproxy as haproxy_log


@dataclass(frozen=True)
class LogFormat:
    """How to read one format.

    Args:
        claim: (line, own host) to the host the line is about, without parsing it; None: nobody can claim the line.
        parse: (line, service, claimed host) to a request record, with the client's address under the private key
            `client`; raises RefusedError.
    """

    claim: Callable[[bytes, str], str | None]
    parse: Callable[[bytes, str, str | None], dict[str, Any]]


LOG_FORMATS: dict[str, LogFormat] = {
    "envoy": LogFormat(
        lambda line, _host: envoy_log.claimed_host(line),
        envoy_log.parse_line,
    ),
    # A combined log does not name the host: it is the host's own.
    "combined": LogFormat(
        lambda _line, host: host, lambda line, service, claimed: combined_log.parse_line(line, service, claimed or "")
    ),
    "haproxy": LogFormat(
        lambda line, _host: haproxy_log.claimed_host(line),
        lambda line, service, _claimed: haproxy_log.parse_line(line, service),
    ),
}
