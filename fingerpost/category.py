"""The category of a request: one definition for agent, picker and training.

A category is a tuple of attributes: (request type, payload-size bucket, auth method,
user-agent class, region). A rare combination is folded into a coarser one by dropping attributes from the right,
and in the end into `other`, so that a service never has more than a given number of categories. A request that no
category holds goes by one of the same route, of any client and then of any size, before it is `other`: the route says
most of what it costs.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from heapq import heapify, heappop, heappush

from fingerpost.routes import RouteTable, learn_templates, route_template

__all__ = [
    "ATTRIBUTES",
    "OTHER",
    "SEPARATOR",
    "CategoryTable",
    "Key",
    "category_attributes",
    "category_key",
    "fit_categories",
    "route_template",
    "size_bucket",
]
ATTRIBUTES = ("request_type", "size_bucket", "auth", "user_agent_class", "region")
OTHER = "other"
SEPARATOR = "|"

# Payload sizes up to the first limit that is larger; past the last, `big`.
SIZE_LIMITS = (1, 2**10, 2**14, 2**18, 2**22)
SIZE_NAMES = ("0", "1K", "16K", "256K", "4M", "big")


# A category that a request goes by without being held by it has at least its route and size, or another size.
_LEAST_ALIKE = 2


@cache
def _by_nearness(size: str) -> tuple[str, ...]:
    """All sizes, a size itself first, then those next to it, the larger of two first; none for what is no size."""
    if size not in SIZE_NAMES:
        return ()
    place = SIZE_NAMES.index(size)
    return tuple(sorted(SIZE_NAMES, key=lambda each: (abs(SIZE_NAMES.index(each) - place), -SIZE_NAMES.index(each))))


def size_bucket(bytes_in: float) -> str:
    """The payload-size bucket: the first of 0, 1K, 16K, 256K, 4M bytes that is larger than the payload, or `big`."""
    return SIZE_NAMES[bisect_right(SIZE_LIMITS, bytes_in)]


Key = tuple[str, ...]


def category_key(method: str, route: str, size: str, auth: str, user_agent_class: str, region: str) -> Key:
    """The finest category of a request, as its five attributes; `size` is its payload-size bucket."""
    parts = (f"{method} {route}", size, auth, user_agent_class, region)
    return tuple(part.replace(SEPARATOR, "_") for part in parts)


@dataclass(frozen=True)
class CategoryTable:
    """The categories of a service; maps every request to one of them.

    Args:
        keys: categories as attribute prefixes, 1 to 5 long, in order; `other` is not listed and always exists.
        routes: route templates that requests are brought to first; see `RouteTable`.
    """

    keys: tuple[Key, ...] = ()
    routes: tuple[str, ...] = ()
    _known: frozenset[Key] = field(init=False, repr=False, compare=False, default=frozenset())
    _routes: RouteTable = field(init=False, repr=False, compare=False, default_factory=RouteTable)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.keys))
        object.__setattr__(self, "_routes", RouteTable(self.routes))

    def assign(self, key: Key) -> str:
        """The name of the category of a request with this key.

        It is the finest that holds the request, which may be a coarser prefix; else one that is like it; else `other`.
        """
        key = _with_route(key, self._routes) if key else key
        exact = self._exact(key)
        if exact:
            return SEPARATOR.join(exact)
        for size in _by_nearness(key[1]) if len(key) > 1 else ():
            near = self._near((key[0], size, *key[2:]))
            if near:
                return SEPARATOR.join(near[1])
        return OTHER

    def assign_unsized(self, key: Key) -> str:
        """The category of a request with a body whose size is not declared, as of gRPC or in chunks.

        It is the finest that holds the request with a body of any size, and of equals that of the smallest body; else
        that which is most like it.
        """
        key = _with_route(key, self._routes)
        sized = [(key[0], size, *key[2:]) for size in (*SIZE_NAMES[1:], SIZE_NAMES[0])]
        exact = max(map(self._exact, sized), key=len)
        if exact:
            return SEPARATOR.join(exact)
        near = max((found for each in sized if (found := self._near(each))), key=lambda found: found[0], default=None)
        return SEPARATOR.join(near[1]) if near else OTHER

    def is_own(self, key: Key, name: str) -> bool:
        """Whether the category of a request is its own: neither coarser, nor one that is but like it."""
        return SEPARATOR.join(_with_route(key, self._routes)) == name

    def _exact(self, key: Key) -> Key:
        """The longest prefix that is a category; empty: none is."""
        return next((key[:length] for length in range(len(key), 0, -1) if key[:length] in self._known), ())

    def _near(self, key: Key) -> tuple[int, Key] | None:
        """How many attributes a category has in common from the left, and that category; route and size at least."""
        for length in range(len(key), _LEAST_ALIKE - 1, -1):
            found = self._first.get(key[:length])
            if found:
                return length, found
        return None

    @cached_property
    def _first(self) -> dict[Key, Key]:
        """The first category of the table that begins with each prefix."""
        first: dict[Key, Key] = {}
        for key in self.keys:
            for length in range(_LEAST_ALIKE, len(key) + 1):
                first.setdefault(key[:length], key)
        return first

    def fold(self, name: str) -> str:
        """The category of this table that holds all requests of a category of another table, by its name."""
        key = tuple(name.split(SEPARATOR))
        if name == OTHER or len(key) == len(ATTRIBUTES):
            return OTHER if name == OTHER else self.assign(key)
        # What a coarse category holds is not of one client, and is like no single category.
        return SEPARATOR.join(self._exact(_with_route(key, self._routes))) or OTHER

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all categories, `other` last; a category's place is its index."""
        return (*(SEPARATOR.join(key) for key in self.keys), OTHER)

    @cached_property
    def version(self) -> str:
        """A hash of the table: the same categories have the same version in every process."""
        return hashlib.sha256("\n".join((*self.names, *self.routes)).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, object]:
        return {
            "version": self.version,
            "attributes": list(ATTRIBUTES),
            "keys": [list(key) for key in self.keys],
            "routes": list(self.routes),
        }

    @classmethod
    def from_names(cls, names: Iterable[str], routes: Sequence[str] = ()) -> "CategoryTable":
        """The table of categories by their names, `other` among them or not."""
        return cls(tuple(tuple(name.split(SEPARATOR)) for name in names if name != OTHER), tuple(routes))

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "CategoryTable":
        """The table that `to_json` wrote.

        Raises:
            TypeError: `data` is not such a table.
        """
        keys, routes = data.get("keys"), data.get("routes", [])
        if not isinstance(keys, list) or not isinstance(routes, list):
            raise TypeError("a category table needs a list of keys and a list of routes")
        return cls(tuple(tuple(str(part) for part in key) for key in keys), tuple(str(route) for route in routes))


def category_attributes(name: str) -> dict[str, str]:
    """The attributes of a category by its name; those folded away, and all of `other`, are empty strings."""
    parts = [] if name == OTHER else name.split(SEPARATOR)
    return dict(zip(ATTRIBUTES, [*parts, *[""] * len(ATTRIBUTES)], strict=False))


def fit_categories(
    keys: Iterable[tuple[Key, int]], max_categories: int, min_requests: int, templates: Sequence[str] = ()
) -> CategoryTable:
    """Chooses the categories of a service from counts of its finest keys.

    Routes are brought to the given templates and to learned ones. Then, level by level from the finest, a category with
    fewer than `min_requests` is folded into the one without its last attribute; then the rarest go, finest first among
    equals, until `max_categories` are left, `other` included. The result depends on the counts alone, not on their
    order.

    Args:
        keys: finest keys with their number of requests; a key may come more than once.
        max_categories: most categories, `other` included, at least 1.
        min_requests: least requests of a category of its own.
        templates: route templates given by people, as `fingerpost.route_templates.normal_template` returns them.
    """
    found: Counter[Key] = Counter()
    for key, count in keys:
        found[key] += count
    routes = _fit_routes(found, templates, max_categories)
    counts: Counter[Key] = Counter()
    for key, count in found.items():
        counts[_with_route(key, routes)] += count
    for length in range(len(ATTRIBUTES), 0, -1):
        for key in [key for key in counts if len(key) == length and counts[key] < min_requests]:
            _fold(counts, key)
    _fold_rarest(counts, max_categories - 1)
    counts.pop((), None)
    return CategoryTable(tuple(sorted(counts)), routes.templates)


def _fit_routes(counts: Counter[Key], templates: Sequence[str], max_categories: int) -> RouteTable:
    """The given templates and the busiest learned ones, at most four for every category there may be."""
    given = RouteTable(templates)
    traffic: Counter[str] = Counter()
    for key, count in counts.items():
        if key:
            traffic[given.match(key[0].partition(" ")[2])] += count
    learned = RouteTable(learn_templates(traffic.items()))
    held: Counter[str] = Counter()
    for route, count in traffic.items():
        held[learned.match(route)] += count
    busiest = sorted(learned.templates, key=lambda route: (-held[route], route))[: 4 * max_categories]
    return RouteTable([*given.templates, *busiest])


def _with_route(key: Key, routes: RouteTable) -> Key:
    method, space, route = key[0].partition(" ")
    return (f"{method}{space}{routes.match(route)}", *key[1:])


def _fold_rarest(counts: Counter[Key], most: int) -> None:
    heap = [(count, -len(key), key) for key, count in counts.items() if key]
    heapify(heap)
    while len(counts) - (() in counts) > most:
        count, _, key = heappop(heap)
        if counts.get(key) == count:  # else it has grown since: its newer entry is in the heap
            _fold(counts, key)
            if key[:-1]:
                heappush(heap, (counts[key[:-1]], -len(key[:-1]), key[:-1]))


def _fold(counts: Counter[Key], key: Key) -> None:
    counts[key[:-1]] += counts.pop(key)
