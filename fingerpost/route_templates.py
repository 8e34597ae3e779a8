"""Route templates as frameworks and people write them, in the form of logs and pickers: `/users/*`."""

import re
from functools import lru_cache

from fingerpost.routes import MAX_SEGMENT_CHARS, MAX_SEGMENTS, WILDCARD, route_template

_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
# `GET /users/{id}` and `GET shop.example/users/{id}` of Go 1.22.
_METHOD = re.compile(r"[A-Z]{3,16}\s+", re.ASCII)
_REGEX = re.compile(r"/?\^|\\A|\(\?|.*(?:\$/?|\\[zZ])$", re.DOTALL)
# Included patterns keep theirs within the whole: `^api/^users/$`.
_ANCHORS = re.compile(r"(?:^|(?<=/))(?:\^|\\A)+|(?:/\?)?(?:\$|\\[zZ])+/?$")
# `(.:format)` of Rails, `(/:page)`: what may as well be left out.
_OPTIONAL = re.compile(r"\([./][^()]*\)|\{[/?.;&][^{}]*\}")
# `(marketing)` of Next.js and SvelteKit groups files, and is no part of the path.
_GROUP = re.compile(r"\([\w-]+\)", re.ASCII)
_PLACEHOLDER = re.compile(r"[({\[<*]|^:?[$:][A-Za-z_]|^[$+]$|[-._~]:[A-Za-z_]", re.ASCII)
# What stands for several texts in a regular expression.
_VARIABLE = re.compile(r"[({\[<*+?|]|\\[dDwWsS]|(?<!\\)\.", re.ASCII)
_ESCAPED = re.compile(r"\\([^A-Za-z0-9])")
# `{name=shelves/*}:cancel` of Google's APIs: the template of a variable.
_WITH_TEMPLATE = re.compile(r"\{[A-Za-z_][\w.]*=([^{}]*)\}", re.ASCII)


def normal_template(text: str) -> str:
    """A template as people write it (`/users/{id}`, `/users/:id`, `/users/<int:id>`) in our form: `/users/*`.

    Raises:
        ValueError: it does not begin with a slash, or is longer than a route can be.
    """
    segments = _segments(text)
    if not text.startswith("/") or len(segments) > MAX_SEGMENTS + 1:
        raise ValueError(f"route template {text!r}: begin with '/' and use at most {MAX_SEGMENTS + 1} segments")
    return "/" + "/".join(segments)


@lru_cache(maxsize=4096)
def framework_route(template: str, prefix: str = "") -> str:
    """The route of a template that a framework tells: every parameter is `*`, words stay as they are.

    Logs and proxies see paths only, so the names of parameters cannot be part of a route.

    Args:
        template: such as `/users/{id:[0-9]+}`, `/users/:id(.:format)`, `^users/(?P<pk>[0-9]+)/$`, `GET /users/{id}`.
        prefix: path before the template, of mounts and included routers; ids in it collapse too.
    """
    before = [each for each in route_template(prefix).split("/") if each]
    kept = before + _segments(template)
    return "/" + "/".join(kept[:MAX_SEGMENTS] + [WILDCARD] * (len(kept) > MAX_SEGMENTS))


def _segments(template: str) -> list[str]:
    method = _METHOD.match(template)
    if method:
        template = template[method.end() :]
        if not template.startswith(("/", "^", "\\")):
            template = template[template.find("/") :] if "/" in template else "/"
    regex = _REGEX.match(template) is not None
    if regex:
        template = _ANCHORS.sub("", template).replace("\\/", "/")
    else:
        template = _OPTIONAL.sub("", _WITH_TEMPLATE.sub(r"\1", template))
    kept = []
    for segment in _split(template):
        word = _ESCAPED.sub(r"\1", segment) if regex else segment
        if not regex and _GROUP.fullmatch(segment):
            continue
        variable = (_VARIABLE if regex else _PLACEHOLDER).search(segment) is not None
        kept.append(WILDCARD if variable else word[:MAX_SEGMENT_CHARS].replace("|", "_"))
    return kept


def _split(template: str) -> list[str]:
    """The parts between slashes; slashes within brackets, as of a regular expression, part nothing."""
    parts, awaited, escaped = [""], "", False
    for character in template:
        if character == "/" and not awaited:
            parts.append("")
            continue
        if not escaped and awaited.endswith(character) and awaited:
            awaited = awaited[:-1]
        # Within `[...]` of a regular expression brackets are plain characters.
        elif not escaped and character in _CLOSING and not awaited.endswith("]"):
            awaited += _CLOSING[character]
        escaped = character == "\\" and not escaped
        parts[-1] += character
    # A bracket that never closes is none.
    return [part for part in (template.split("/") if awaited else parts) if part]
