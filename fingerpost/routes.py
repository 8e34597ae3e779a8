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
# A method of gRPC, `/package.Service/Method`: a name, however long.
_CALL = re.compile(r"/(?:[A-Za-z_]\w*\.)+[A-Z]\w*/[A-Za-z_]\w*", re.ASCII)
_CACHED_PATHS = 16_384
# What a path names besides its resource, and may hold a session's id: parameters (`;jsessionid=...`), query, fragment.
_PARAMETERS = re.compile(r";[^/]*")
_RUN = re.compile(r"[A-Za-z0-9_-]+")
_HEX = re.compile(r"[0-9a-fA-F]{8,}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F-]{4,}")
_NUMBER = re.compile(r"[0-9_-]*[0-9][0-9_-]*")
# Words between dashes, each perhaps with a number at its end: `export-2024-report`, `oauth2-token`.
_WORDS = re.compile(r"(?:[A-Za-z]*[0-9]*[_-])*[A-Za-z]*[0-9]*")
_ENDING = re.compile(r"(?:\.[a-z][a-z0-9]{0,4})?")
_BESIDE_NUMBER = ":,+="
# So many digits no word has; so long are tokens, and short ones where capitals, small letters and digits are mixed.
_MANY_DIGITS, _FEW_DIGITS = 6, 4
_LONG, _SHORT = 20, 10


def route_template(path: str) -> str:
    """The route of a path: without query and parameters, ids and tokens collapsed to `*`, at most six segments.

    An id is a number, hexadecimal digits, an address of mail, or what looks like a token: long, and no words. The
    native picker has the same rules (`routing/native/category.c`). A method of gRPC, `/package.Service/Method`, has no
    ids. What a session or a user is known by is cut before anything is remembered.

    >>> route_template("/users/42/orders/9f8e7d6c5b4a;v=1?page=2")
    '/users/*/orders/*'
    """
    asked = path[:4096].partition("?")[0].partition("#")[0]
    return _route_of(_PARAMETERS.sub("", asked) if ";" in asked else asked)


@lru_cache(maxsize=_CACHED_PATHS)
def _route_of(asked: str) -> str:
    segments = [segment for segment in asked.split("/") if segment]
    call = _CALL.fullmatch(asked) is not None
    kept = [
        WILDCARD if not call and _is_id(segment) else segment[:MAX_SEGMENT_CHARS].replace("|", "_")
        for segment in segments[:MAX_SEGMENTS]
    ]
    if len(segments) > MAX_SEGMENTS:
        kept.append(WILDCARD)
    return "/" + "/".join(kept)


def _is_id(segment: str) -> bool:
    """Whether a segment names one thing rather than an operation: in it stands a number, an id, or a token."""
    if "@" in segment or "%40" in segment:
        return True
    for found in _RUN.finditer(segment):
        begin, end = found.span()
        before = begin == 0 or segment[begin - 1] in _BESIDE_NUMBER
        after = end == len(segment) or segment[end] in _BESIDE_NUMBER or _ENDING.fullmatch(segment, end) is not None
        if before and after and _NUMBER.fullmatch(found[0]):
            return True
        if is_token(found[0]):
            return True
    return False


def is_token(run: str) -> bool:
    """Whether letters, digits, dashes and underscores are an id or a token, and no words."""
    digits = sum(map(str.isdigit, run))
    if digits >= _MANY_DIGITS or _HEX.fullmatch(run):
        return True
    if len(run) < _SHORT:
        return False
    capitals, small = sum(map(str.isupper, run)), sum(map(str.islower, run))
    mixed = bool(small) and 2 * capitals > small
    if len(run) < _LONG:
        return mixed and digits > 0
    return mixed or (digits > 0 and not (digits <= _FEW_DIGITS and _WORDS.fullmatch(run) is not None))


class RouteTable:
    """Maps routes to the templates that hold them; a route that none holds stays what it is.

    Where several hold a route, a word in place of `*` wins, from the left.

    Args:
        templates: in our form, see `fingerpost.route_templates`; a `*` holds any one segment.
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
