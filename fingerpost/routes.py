"""Route templates: paths with what identifies one thing collapsed to `*`, given by people or learned from traffic."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

WILDCARD = "*"
MAX_SEGMENTS = 6
MAX_SEGMENT_CHARS = 64
# More different words than this in one place of a path, and they are names of things, not of operations.
MAX_WORDS = 24
_ID = re.compile(r"\d+|[0-9a-fA-F]{8,}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F-]{4,}|[A-Za-z0-9_-]{20,}", re.ASCII)
# A method of gRPC, `/package.Service/Method`: a name, however long.
_CALL = re.compile(r"/(?:[A-Za-z_]\w*\.)+[A-Z]\w*/[A-Za-z_]\w*", re.ASCII)
_PLACEHOLDER = re.compile(r"\*|\{[^/{}]*\}|:[A-Za-z_]\w*|<[^/<>]*>")
_CACHED_PATHS = 16_384


@lru_cache(maxsize=_CACHED_PATHS)
def route_template(path: str) -> str:
    """The route of a path: no query, ids collapsed to `*`, at most six segments and then `*`.

    A method of gRPC, `/package.Service/Method`, has no ids.

    >>> route_template("/users/42/orders/9f8e7d6c5b4a?page=2")
    '/users/*/orders/*'
    """
    asked = path[:4096].split("?", 1)[0]
    segments = [segment for segment in asked.split("/") if segment]
    call = _CALL.fullmatch(asked) is not None
    kept = [
        WILDCARD if not call and _ID.fullmatch(segment) else segment[:MAX_SEGMENT_CHARS].replace("|", "_")
        for segment in segments[:MAX_SEGMENTS]
    ]
    if len(segments) > MAX_SEGMENTS:
        kept.append(WILDCARD)
    return "/" + "/".join(kept)


def normal_template(text: str) -> str:
    """A template as people write it (`/users/{id}`, `/users/:id`, `/users/<int:id>`) in our form: `/users/*`.

    Raises:
        ValueError: it does not begin with a slash, or is longer than a route can be.
    """
    segments = [segment for segment in text.split("/") if segment]
    if not text.startswith("/") or len(segments) > MAX_SEGMENTS + 1:
        raise ValueError(f"route template {text!r}: begin with '/' and use at most {MAX_SEGMENTS + 1} segments")
    kept = [WILDCARD if _PLACEHOLDER.fullmatch(segment) else segment[:MAX_SEGMENT_CHARS] for segment in segments]
    return "/" + "/".join(segment.replace("|", "_") for segment in kept)


class RouteTable:
    """Maps routes to the templates that hold them; a route that none holds stays what it is.

    Where several hold a route, a word in place of `*` wins, from the left.

    Args:
        templates: in our form, see `normal_template`; a `*` holds any one segment.
    """

    def __init__(self, templates: Sequence[str] = ()) -> None:
        self.templates = tuple(sorted(set(templates)))
        self._root: dict[str, Any] = {}
        for template in self.templates:
            node = self._root
            for segment in _segments(template):
                node = node.setdefault(segment, {})
            node[""] = {}
        self._cached = lru_cache(maxsize=_CACHED_PATHS)(self._find)

    def match(self, route: str) -> str:
        """The template that holds a route of `route_template`, or the route."""
        return self._cached(route) if self.templates else route

    def _find(self, route: str) -> str:
        found = _walk(self._root, _segments(route))
        return route if found is None else "/" + "/".join(found)


def learn_templates(routes: Iterable[tuple[str, int]], max_words: int = MAX_WORDS) -> list[str]:
    """Templates for the places of a path where too many different words stand, from counts of routes.

    Level by level from the root: where one place has more than `max_words` words, all but the common ones (with more
    than 1 / `max_words` of its traffic each) become `*`. The result depends on the counts alone, not on their order.

    Args:
        routes: routes of `route_template` with their number of requests.
        max_words: most different words in one place.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for route, count in routes:
        counts[_segments(route)] += count
    known = set(counts)
    for depth in range(MAX_SEGMENTS + 1):
        words: dict[tuple[str, ...], Counter[str]] = {}
        for segments, count in counts.items():
            if len(segments) > depth:
                words.setdefault(segments[:depth], Counter())[segments[depth]] += count
        crowded = {prefix: _rare(each, max_words) for prefix, each in words.items() if len(each) > max_words}
        merged: Counter[tuple[str, ...]] = Counter()
        for segments, count in counts.items():
            rare = crowded.get(segments[:depth], frozenset()) if len(segments) > depth else frozenset()
            collapse = bool(rare) and segments[depth] in rare
            merged[(*segments[:depth], WILDCARD, *segments[depth + 1 :]) if collapse else segments] += count
        counts = merged
    learned = RouteTable(["/" + "/".join(segments) for segments in counts if segments not in known])
    # A common word beside a learned `*` must be listed too, or the `*` would hold it.
    kept = [route for route in ("/" + "/".join(segments) for segments in counts) if learned.match(route) != route]
    return sorted({*learned.templates, *kept})


def _rare(words: Counter[str], max_words: int) -> frozenset[str]:
    total = sum(words.values())
    return frozenset(word for word, count in words.items() if count * max_words <= total or word == WILDCARD)


def _segments(route: str) -> tuple[str, ...]:
    return tuple(segment for segment in route.split("/") if segment)


def _walk(node: dict[str, Any], rest: tuple[str, ...]) -> tuple[str, ...] | None:
    if not rest:
        return () if "" in node else None
    for choice in (rest[0], WILDCARD):
        if choice in node:
            found = _walk(node[choice], rest[1:])
            if found is not None:
                return (choice, *found)
    return None
