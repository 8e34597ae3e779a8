"""How Envoy speaks with clients and with hosts: TLS, HTTP versions, upgrades, sessions that stay at their host."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fingerpost.routing.envoy.clusters import TYPE

_TLS = TYPE + "transport_sockets.tls.v3."
_OPTIONS = TYPE + "upstreams.http.v3.HttpProtocolOptions"
HTTP_VERSIONS = ("http1", "http2")
# Hosts close connections that are idle, uvicorn and Node after 5 s. A request that meets the end of one fails, and is
# not sent again, since the host may have seen it: so we close them first.
HOST_IDLE_S = 4


@dataclass(frozen=True)
class Certificate:
    """A chain of certificates and its key, PEM files that Envoy reads anew when they are replaced.

    Renew them by renaming both into place; Envoy watches their folder.
    """

    chain: Path
    key: Path


@dataclass(frozen=True)
class ClientSide:
    """What clients meet.

    Attributes:
        certificate: of the listener; None: it speaks in the clear.
        client_ca: only clients with a certificate of this authority are let in.
        upgrades: protocols that a request may change to, such as `websocket`.
        session_cookie: a cookie that keeps a client at the host that served it first, as long as that is healthy;
            empty: none.
    """

    certificate: Certificate | None = None
    client_ca: Path | None = None
    upgrades: tuple[str, ...] = ()
    session_cookie: str = ""


@dataclass(frozen=True)
class HostSide:
    """How hosts are spoken to.

    Attributes:
        http: `http1` or `http2`; gRPC needs the latter.
        ca: authority of the hosts' certificates; None: they are spoken to in the clear.
        name: what their certificates are issued for, sent as SNI; needed with `ca`.
        certificate: shown to hosts that ask for one.
    """

    http: str = "http1"
    ca: Path | None = None
    name: str = ""
    certificate: Certificate | None = None


def client_tls(side: ClientSide) -> dict[str, Any]:
    """For the listener's filter chain; empty without a certificate.

    Raises:
        ValueError: clients are asked for certificates by a listener that has none.
    """
    if side.certificate is None:
        if side.client_ca:
            raise ValueError("clients can show certificates only to a listener that has one: name it and its key")
        return {}
    common: dict[str, Any] = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [_files(side.certificate)]}
    context: dict[str, Any] = {"@type": _TLS + "DownstreamTlsContext", "common_tls_context": common}
    if side.client_ca:
        common["validation_context"] = {"trusted_ca": _watched(side.client_ca)}
        context["require_client_certificate"] = True
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def host_protocol(side: HostSide) -> dict[str, Any]:
    """For the hosts' cluster: HTTP's version, TLS.

    Raises:
        ValueError: an unknown version; an authority without a name to check, or the other way round.
    """
    if side.http not in HTTP_VERSIONS:
        raise ValueError(f"unknown HTTP version {side.http!r}: use {' or '.join(HTTP_VERSIONS)}")
    version = "http2_protocol_options" if side.http == "http2" else "http_protocol_options"
    options = {
        "@type": _OPTIONS,
        "explicit_http_config": {version: {}},
        "common_http_protocol_options": {"idle_timeout": f"{HOST_IDLE_S}s"},
    }
    found: dict[str, Any] = {
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    }
    if side.ca is None:
        if side.name or side.certificate:
            raise ValueError("hosts are spoken to by TLS only with the authority of their certificates")
        return found
    if not side.name:
        raise ValueError("the name that the hosts' certificates are issued for is missing: nothing would be checked")
    names = [{"san_type": "DNS", "matcher": {"exact": side.name}}]
    common: dict[str, Any] = {
        "alpn_protocols": ["h2" if side.http == "http2" else "http/1.1"],
        "validation_context": {"trusted_ca": _watched(side.ca), "match_typed_subject_alt_names": names},
    }
    if side.certificate:
        common["tls_certificates"] = [_files(side.certificate)]
    context = {"@type": _TLS + "UpstreamTlsContext", "sni": side.name, "common_tls_context": common}
    found["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return found


def manager_upgrades(side: ClientSide) -> dict[str, Any]:
    """For the HTTP connection manager; an upgraded request is routed as any other, and counts until it ends."""
    return {"upgrade_configs": [{"upgrade_type": each} for each in side.upgrades]} if side.upgrades else {}


def session_filters(side: ClientSide) -> list[dict[str, Any]]:
    """The filter that keeps sessions at their hosts; it stands after the picker's, so that a session goes first.

    Where the session's host is gone, the request goes by least request, and the client gets another host's cookie.
    """
    if not side.session_cookie:
        return []
    state = {
        "name": "envoy.http.stateful_session.cookie",
        "typed_config": {
            "@type": TYPE + "http.stateful_session.cookie.v3.CookieBasedSessionState",
            "cookie": {"name": side.session_cookie, "path": "/"},
        },
    }
    config = {"@type": TYPE + "filters.http.stateful_session.v3.StatefulSession", "session_state": state}
    return [{"name": "envoy.filters.http.stateful_session", "typed_config": config}]


def _files(certificate: Certificate) -> dict[str, Any]:
    return {
        "certificate_chain": {"filename": str(certificate.chain)},
        "private_key": {"filename": str(certificate.key)},
        "watched_directory": {"path": str(certificate.chain.parent)},
    }


def _watched(path: Path) -> dict[str, Any]:
    return {"filename": str(path), "watched_directory": {"path": str(path.parent)}}
