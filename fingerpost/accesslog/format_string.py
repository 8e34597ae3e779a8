"""Compiles a format as nginx, Apache, Tomcat, HAProxy or Envoy declare it into a parser of its lines."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fingerpost.accesslog.format_syntax import (
    ENVOY,
    NGINX,
    Part,
    apache_parts,
    envoy_parts,
    haproxy_parts,
    moment_of,
    nginx_parts,
    tomcat_parts,
)
from fingerpost.accesslog.values import Values
from fingerpost.errors import FingerpostError, RefusedError

_PARTS: dict[str, Callable[[str], list[str | Part]]] = {
    "nginx": nginx_parts,
    "apache": apache_parts,
    "tomcat": tomcat_parts,
    "haproxy": haproxy_parts,
    "envoy": envoy_parts,
}
SYNTAXES = tuple(_PARTS)
_MAX_FORMAT, _MAX_PARTS = 8192, 100
# What a directive of a configuration has around the format.
_DIRECTIVE = re.compile(
    r"\s*(?:(?P<nginx>log_format)\s+\S+\s+(?:escape=\w+\s+)?|(?P<apache>(?:LogFormat|CustomLog(?:\s+[^\s\"]+)?)\s+)"
    r"|(?P<haproxy>log-format)\s+)(?P<rest>.*)",
    re.DOTALL,
)
_PIECE = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)


@dataclass(frozen=True)
class CompiledFormat:
    """A declared format.

    Args:
        syntax: one of SYNTAXES.
        pattern: that a whole line has to fit; its groups are called `v0`, `v1`, ...
        readers: what each group tells: takes its text and puts named values (`fingerpost.accesslog.values`) in.
        names: the values that a line may tell.
    """

    syntax: str
    pattern: re.Pattern[str]
    readers: tuple[Callable[[str, dict[str, Any]], None], ...]
    names: frozenset[str]

    @property
    def is_of_connections(self) -> bool:
        """Whether its lines tell of connections, not of requests, as `option tcplog` has them."""
        return not self.names & {"request", "path"}

    def values(self, line: bytes) -> Values:
        """The named values of a line.

        Raises:
            RefusedError: `line:malformed`: it is of another format; `time:malformed`.
        """
        found = self.pattern.fullmatch(line.decode("utf-8", "replace").rstrip("\r\n"))
        if not found:
            raise RefusedError("line:malformed")
        values: dict[str, Any] = {"method": "TCP", "path": "/", "status": 200} if self.is_of_connections else {}
        for reader, text in zip(self.readers, found.groups(), strict=True):
            if text is not None:
                reader(text, values)
        for name in ("begin", "end"):
            if name not in values and f"{name}_parts" in values:
                values[name] = moment_of(*zip(*values[f"{name}_parts"], strict=True))
        return values


def compile_format(text: str) -> CompiledFormat:
    """The parser of a declared format: the format itself, or the whole directive that declares it.

    Args:
        text: such as `$remote_addr [$time_local] "$request" $status $request_time`, or
            `LogFormat "%h %l %u %t \\"%r\\" %>s %b %D" timed`. Its syntax is found by its signs; `nginx:`, `apache:`,
            `tomcat:`, `haproxy:` or `envoy:` before it says so.

    Raises:
        FingerpostError: no syntax fits, nothing in it tells a request and its status, or it is too long.
    """
    if len(text) > _MAX_FORMAT:
        raise FingerpostError(f"a log format of {len(text)} characters is too long: at most {_MAX_FORMAT}")
    syntax, declared = _syntax(text)
    parts = _PARTS[syntax](declared)
    if len(parts) > _MAX_PARTS:
        raise FingerpostError(f"a log format of {len(parts)} parts is too long: at most {_MAX_PARTS}")
    names = frozenset(name for part in parts if isinstance(part, Part) for name in part.names)
    told = {"ended"} if syntax == "haproxy" and not names & {"request", "path"} else {"request", "path"}
    if not names & told or not names & {"status", "ended"} or not names & {"end", "begin", "end_ms", "begin_ms"}:
        raise FingerpostError(
            f"the log format {declared[:200]!r} lacks the request, its status or its time: no request can be read by it"
        )
    return CompiledFormat(syntax, _pattern(parts), tuple(p.read for p in parts if isinstance(p, Part)), names)


def _pattern(parts: list[str | Part]) -> re.Pattern[str]:
    """A part goes on to the sign that follows it; within quotes escaped ones do not end it."""
    made = []
    for place, part in enumerate(parts):
        if isinstance(part, str):
            # Blanks may be more than one, as in formats that people write by hand.
            made.append(re.sub(r"(?:\\ )+", lambda found: " +" if len(found[0]) > 2 else " ", re.escape(part)))
            continue
        before = parts[place - 1] if place else ""
        after = parts[place + 1] if place + 1 < len(parts) else ""
        made.append(f"({part.shape or _shape(before, after)})")
    return re.compile("".join(made) + r"\s*", re.ASCII | re.DOTALL)


def _shape(before: str | Part, after: str | Part) -> str:
    opened, following = before[-1:] if isinstance(before, str) else "", after[:1] if isinstance(after, str) else ""
    if following == '"':
        return r'(?:[^"\\]|\\.)*+' if opened == '"' or not opened.strip() else r'[^"]*+'
    if not following:
        return r"\S*+" if isinstance(after, Part) else ".*+"
    return f"[^{re.escape(following)}]*+"


def _syntax(text: str) -> tuple[str, str]:
    found = _DIRECTIVE.fullmatch(text)
    if found:
        syntax = next(name for name in ("nginx", "apache", "haproxy") if found[name])
        pieces = _PIECE.findall(found["rest"])
        if pieces:
            joined = "".join(single or double for single, double in (pieces if syntax == "nginx" else pieces[:1]))
            return syntax, re.sub(r"\\([\"'])", r"\1", joined)
        return syntax, found["rest"].strip()
    named, colon, rest = text.partition(":")
    if colon and named in SYNTAXES:
        return named, rest
    if NGINX.search(text):
        return "nginx", text
    if ENVOY.search(text.replace("%%", "")):
        return "envoy", text
    if re.search(r"%(?:\{[+-][^}]*\})?(?:ci|ST|hr|hs|HM|tr|Tr|Ta|ft|ac|ts|\[)", text):
        return "haproxy", text
    if "%" in text:
        return "apache", text
    raise FingerpostError(
        f"the log format {text[:200]!r} is neither a known name nor a format string: it has no variables such as "
        "$status, %>s or %ST"
    )
