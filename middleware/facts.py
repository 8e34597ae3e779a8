"""Derives a request's attributes from its headers; of credentials only their kind is kept."""

from collections.abc import Mapping
from typing import Any

from fingerpost.client_attributes import auth_method
from fingerpost.middleware.wire import MAX_FIELD

# Headers that are looked at, lower case.
HEADERS = (
    "authorization",
    "x-api-key",
    "cookie",
    "user-agent",
    "cf-ipcountry",
    "x-country-code",
    "x-forwarded-for",
    "x-forwarded-client-cert",
    "ssl-client-verify",
    "content-length",
)
_MAX_METHOD = 16


def client_facts(headers: Mapping[str, str], client: str | None, verified: bool) -> dict[str, Any]:
    """The part of a request record that comes from the client, raw but for the auth method.

    Args:
        headers: those of `HEADERS` that were sent.
        client: address of the peer, if known.
        verified: whether the server itself has verified the client's certificate.
    """
    authorization = headers.get("authorization")
    return {
        "auth": auth_method(authorization and authorization[:6], "x-api-key" in headers, "cookie" in headers),
        "client_cert": verified or client_certificate(headers),
        "user_agent": headers.get("user-agent", "")[:MAX_FIELD],
        "region_header": (headers.get("cf-ipcountry") or headers.get("x-country-code", ""))[:MAX_FIELD],
        "client": client,
        "forwarded_for": headers.get("x-forwarded-for", "")[:MAX_FIELD],
    }


def client_certificate(headers: Mapping[str, str]) -> bool:
    """Whether a proxy says that it verified the client's certificate (Envoy's and nginx's headers)."""
    return "x-forwarded-client-cert" in headers or headers.get("ssl-client-verify") == "SUCCESS"


def body_length(headers: Mapping[str, str]) -> int:
    """The declared length of the request's body, or 0."""
    text = headers.get("content-length")
    if text is None:
        return 0
    return int(text) if text.isdecimal() and len(text) < 15 else 0


def method_name(method: str) -> str:
    return method[:_MAX_METHOD]
