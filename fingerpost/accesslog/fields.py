"""Parses the fields that log formats share: request lines, routes and clients, bounded whatever the line holds."""

import re
from typing import Any

import orjson

from fingerpost.errors import RefusedError
from fingerpost.routes import route_template

MAX_PATH = 1024
MAX_CLIENT = 256
_REQUEST = re.compile(r"(?P<method>[A-Z]{3,16}) (?P<target>\S+)(?: HTTP/[\d.]+)?", re.ASCII)
# The absolute form, of requests to proxies, and as HAProxy logs HTTP/2: `https://shop.example/users/42`.
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", re.ASCII)


def json_object(line: bytes) -> dict[str, Any]:
    """The object that a line of JSON holds.

    Raises:
        RefusedError: `line:malformed` (not JSON, cut off, not UTF-8), `line:not_an_object`.
    """
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RefusedError("line:malformed") from error
    if not isinstance(entry, dict):
        raise RefusedError("line:not_an_object")
    return entry


def route_of(path: str) -> str:
    """The route of a path; its query goes first, for a secret in it is not even remembered."""
    return route_template(path.partition("?")[0][:MAX_PATH] or "/")


def request_line(text: str) -> tuple[str, str]:
    """Method and path of a request line such as `GET /users/42 HTTP/1.1`, its target in any form.

    Raises:
        RefusedError: `request:malformed`.
    """
    found = _REQUEST.fullmatch(text)
    if not found:
        raise RefusedError("request:malformed")
    return found["method"], target_path(found["target"], found["method"])


def target_path(target: str, method: str = "") -> str:
    """The path of a request's target: itself, that of a URL, and `/` of CONNECT's authority."""
    if target.startswith("/"):
        return target
    if method == "CONNECT":
        return "/"
    found = _ABSOLUTE.match(target)
    if not found:
        return target
    path = target[found.end() :]
    return path if path.startswith("/") else f"/{path}"


def client_of(text: str | None) -> str | None:
    """A client's address as text, not checked, or None.

    Of a list (`X-Forwarded-For`) it is the last, the only one that a client cannot choose.
    """
    client = (text or "").rpartition(",")[2].strip()[:MAX_CLIENT]
    return None if client in ("", "-") else client
