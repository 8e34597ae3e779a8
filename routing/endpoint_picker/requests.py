"""A request by its headers: what decides its category and its arm. The same rules as the native picker's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fingerpost.accesslog.envoy_format import MAX_USER_AGENT
from fingerpost.accesslog.fields import route_of
from fingerpost.categoriser import Categoriser
from fingerpost.category import CategoryTable, category_key
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class

_MAX_PATH = 512
_SCHEME = 6
_WANTED = frozenset(
    {
        *(":method", ":path", "authorization", "user-agent", "cf-ipcountry", "content-length"),
        *("x-api-key", "cookie"),
    }
)


@dataclass(frozen=True)
class Request:
    """What the headers say; texts that were not sent are empty, and so is the size of a body that is not declared."""

    method: str = ""
    route: str = "/"
    bytes_in: int | None = 0
    auth: str = "none"
    user_agent_class: str = "other"
    region: str = "none"
    arm_key: bytes = b""


def request_of(headers: Iterable[Any], arm_header: str = "", ends: bool = True) -> Request:
    """The request of a message's headers (`HeaderValue`); of a header that was sent twice the first counts.

    Args:
        arm_header: the header whose value decides the arm, in lower case; empty: none does.
        ends: nothing follows the headers.
    """
    found: dict[str, bytes] = {}
    for header in headers:
        key = header.key
        if (key in _WANTED or key == arm_header) and key not in found:
            found[key] = header.raw_value or header.value.encode()
    text = {key: value.decode("utf-8", "replace") for key, value in found.items()}
    path = text.get(":path", "/").partition("?")[0][:_MAX_PATH]
    return Request(
        text.get(":method", ""),
        route_of(path),
        _declared_length(text.get("content-length", "")) if ends or "content-length" in text else None,
        auth_method(text.get("authorization", "")[:_SCHEME], "x-api-key" in found, "cookie" in found),
        user_agent_class(text.get("user-agent", "")[:MAX_USER_AGENT]),
        coarse_region(text.get("cf-ipcountry", "")[:2]),
        found.get(arm_header, b"") if arm_header else b"",
    )


def _declared_length(text: str) -> int:
    """A length that is no number counts as none."""
    return int(text[:18]) if text.isascii() and text.isdigit() else 0


class RequestCategories:
    """The categories of a picker's table, for requests.

    Args:
        names, routes: the table's categories and route templates.
    """

    def __init__(self, names: tuple[str, ...], routes: tuple[str, ...]) -> None:
        self._find = Categoriser(CategoryTable.from_names(names, routes))
        self._by_name = {name: place for place, name in enumerate(names)}
        self._places = [self._by_name.get(name) for name in self._find.table.names]

    def place_of(self, request: Request) -> int | None:
        """The place of a request's category in the table's, None where the table has none for it."""
        attributes = request.auth, request.user_agent_class, request.region
        if request.bytes_in is None:
            key = category_key(request.method, request.route, "", *attributes)
            return self._by_name.get(self._find.table.assign_unsized(key))
        found = self._find.assign(
            [request.method], [request.route], [request.bytes_in], *([value] for value in attributes)
        )
        return self._places[int(found[0])]
