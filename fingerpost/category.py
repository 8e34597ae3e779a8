"""The category of a request: one definition for agent, picker and training.

A category is a tuple of attributes: (request type, payload-size bucket, auth method,
user-agent class, region). A rare combination is folded into a coarser one by dropping attributes from the right,
and in the end into `other`, so that a service never has more than a given number of categories.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

ATTRIBUTES = ("request_type", "size_bucket", "auth", "user_agent_class", "region")
OTHER = "other"
SEPARATOR = "|"

_ID = re.compile(r"\d+|[0-9a-fA-F]{8,}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F-]{4,}|[A-Za-z0-9_-]{20,}")
_SIZES = ((1, "0"), (2**10, "1K"), (2**14, "16K"), (2**18, "256K"), (2**22, "4M"))
_MAX_SEGMENTS = 6


def route_template(path: str) -> str:
    """The route of a path: no query, ids collapsed to `*`, at most six segments.

    >>> route_template("/users/42/orders/9f8e7d6c5b4a?page=2")
    '/users/*/orders/*'
    """
    segments = [segment for segment in path.split("?", 1)[0].split("/") if segment]
    kept = ["*" if _ID.fullmatch(segment) else segment[:64].replace(SEPARATOR, "_") for segment in segments]
    if len(kept) > _MAX_SEGMENTS:
        kept = [*kept[:_MAX_SEGMENTS], "*"]
    return "/" + "/".join(kept)


def size_bucket(bytes_in: float) -> str:
    """The payload-size bucket: the first of 0, 1K, 16K, 256K, 4M bytes that is larger than the payload, or `big`."""
    return next((name for limit, name in _SIZES if bytes_in < limit), "big")


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
    """

    keys: tuple[Key, ...] = ()
    _known: frozenset[Key] = field(init=False, repr=False, compare=False, default=frozenset())

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.keys))

    def assign(self, key: Key) -> str:
        """The name of the finest category that holds a request with this key."""
        for length in range(len(key), 0, -1):
            if key[:length] in self._known:
                return SEPARATOR.join(key[:length])
        return OTHER

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all categories, `other` last."""
        return (*(SEPARATOR.join(key) for key in self.keys), OTHER)

    @cached_property
    def version(self) -> str:
        """A hash of the table: the same categories have the same version in every process."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, object]:
        return {"version": self.version, "attributes": list(ATTRIBUTES), "keys": [list(key) for key in self.keys]}

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "CategoryTable":
        keys = data["keys"]
        if not isinstance(keys, list):
            raise TypeError("a category table needs a list of keys")
        return cls(tuple(tuple(str(part) for part in key) for key in keys))


def category_attributes(name: str) -> dict[str, str]:
    """The attributes of a category by its name; those folded away, and all of `other`, are empty strings."""
    parts = [] if name == OTHER else name.split(SEPARATOR)
    return dict(zip(ATTRIBUTES, [*parts, *[""] * len(ATTRIBUTES)], strict=False))


def fit_categories(keys: Iterable[tuple[Key, int]], max_categories: int, min_requests: int) -> CategoryTable:
    """Chooses the categories of a service from counts of its finest keys.

    Level by level from the finest, a category with fewer than `min_requests` is folded into the one without its last
    attribute; then the rarest go, finest first among equals, until `max_categories` are left, `other` included. The
    result depends on the counts alone, not on their order.

    Args:
        keys: finest keys with their number of requests; a key may come more than once.
        max_categories: most categories, `other` included, at least 1.
        min_requests: least requests of a category of its own.
    """
    counts: Counter[Key] = Counter()
    for key, count in keys:
        counts[key] += count
    for length in range(len(ATTRIBUTES), 0, -1):
        for key in [key for key in counts if len(key) == length and counts[key] < min_requests]:
            _fold(counts, key)
    while len(counts) - (() in counts) > max_categories - 1:
        candidates = [key for key in counts if key]
        _fold(counts, min(candidates, key=lambda key: (counts[key], -len(key), key)))
    counts.pop((), None)
    return CategoryTable(tuple(sorted(counts)))


def _fold(counts: Counter[Key], key: Key) -> None:
    counts[key[:-1]] += counts.pop(key)
