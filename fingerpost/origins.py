"""Checks who may call a server that trusts this machine: no web page that is open in a browser on it.

A page can send requests to any address, and read the answers of a server by a name that it made point there (DNS
rebinding). It cannot choose the headers `Host`, `Origin` and `Sec-Fetch-Site`, and knows no token.
"""

import base64
import hmac
import ipaddress
import socket
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What a form can send to another site without asking first.
_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_OWN_PAGES = frozenset({"same-origin", "none"})
_LOCAL = ("localhost", "*.localhost")

HOST, ORIGIN, FORM = "host:unknown", "origin:foreign", "content_type:form"


def own_names(bind_host: str, allowed: Collection[str]) -> tuple[str, ...]:
    """The names that a server on this machine goes by, in lower case: its address, the machine's name, the allowed."""
    return tuple(name.lower() for name in (bind_host, socket.gethostname(), *allowed))


def refusal(method: str, header: Callable[[str], str], names: Collection[str]) -> str | None:
    """Why a request is refused, as a stable name; None: it is not.

    Args:
        header: gives a header by its name in lower case; empty: not sent.
        names: as of `own_names`; `*` stands for any letters. Addresses and `localhost` always pass: no page can have
            them for a name of its own.
    """
    host = header("host").lower()
    if not is_known(host, names):
        return HOST
    if method in _READING:
        return None
    site, origin = header("sec-fetch-site"), header("origin").lower()
    # Browsers that do not say where a page is from say its origin; a proxy between may have changed the host.
    if site not in _OWN_PAGES if site else origin and origin.partition("://")[2] != host:
        return ORIGIN
    if header("content-type").partition(";")[0].strip().lower() in _FORMS:
        return FORM
    return None


def is_known(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` header names a server of these names; one that is not sent is no browser's."""
    name = _name(host)
    if not name:
        return True
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return _matches(name, (*_LOCAL, *names))


def bearer(authorization: str) -> str:
    """The bearer token in an `Authorization` header; empty: it holds none."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def password(authorization: str) -> str:
    """The password in an `Authorization` header of the scheme Basic, which browsers send; empty: it holds none."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def has_token(authorization: str, token: str) -> bool:
    """Whether an `Authorization` header holds the bearer token; never where there is no token."""
    return bool(token) and hmac.compare_digest(bearer(authorization).encode(), token.encode())


def _name(place: str) -> str:
    """The host of `host:port`; an IPv6 address without its brackets."""
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
