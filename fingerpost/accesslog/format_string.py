"""Compiles a format as nginx, Apache, Tomcat, HAProxy or Envoy declare it into a parser of its lines."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fingerpost.accesslog.format_names import APACHE_DIRECTIVES, ENVOY_OPERATORS, HAPROXY_NAMES, NGINX_VARIABLES, header
from fingerpost.accesslog.values import Values
from fingerpost.clock import US
from fingerpost.errors import FingerpostError, RefusedError

SYNTAXES = ("nginx", "apache", "tomcat", "haproxy", "envoy")
_MAX_FORMAT, _MAX_PARTS = 8192, 100
_NGINX = re.compile(r"\$\{(\w+)\}|\$(\w+)", re.ASCII)
_APACHE = re.compile(r"%(?:!?\d{3}(?:,\d{3})*)?[<>]?(?:\{([^}]*)\})?(\^?[A-Za-z]{1,2}(?<=\^..)|[A-Za-z%])", re.ASCII)
_HAPROXY = re.compile(r"%(?:\{([^}]*)\})?(?:\(([^)]*)\))?(?:\[((?:[^\[\]]|\[[^\]]*\])*)\]|([A-Za-z]{1,5}|%))", re.ASCII)
# Its own times hold signs of percent within brackets.
_ENVOY = re.compile(r"%([A-Z_0-9]{3,})(?:\(((?:[^()%]|%\d*[A-Za-z])*)\))?(?::(\d+))?%|%%", re.ASCII)
# What a directive of a configuration has around the format.
_DIRECTIVE = re.compile(
    r"\s*(?:(?P<nginx>log_format)\s+\S+\s+(?:escape=\w+\s+)?|(?P<apache>(?:LogFormat|CustomLog(?:\s+[^\s\"]+)?)\s+)"
    r"|(?P<haproxy>log-format)\s+)(?P<rest>.*)",
    re.DOTALL,
)
_PIECE = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_TIME = r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: [+-]\d{4})?"
# Several upstreams: `10.0.0.7:80, 10.0.0.8:80 : 10.0.1.1:80`.
_LIST = r"[^\s,\"]*+(?:(?:,\s*| : )[^\s,\"]++)*"


# What strftime writes for its letters, so that parts of a time are told apart where nothing stands between them.
_STRFTIME = {
    **dict.fromkeys("dHIMSmyjUW", r"\d{1,3}"),
    **{"Y": r"\d{4}", "b": r"\w{3}", "h": r"\w{3}", "a": r"\w{3}", "B": r"\w+", "A": r"\w+", "p": r"\w{2}"},
    **{"z": r"[+-]\d{2}:?\d{2}", "Z": r"\w{1,5}", "f": r"\d{6}", "%": "%"},
}


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
                values[name] = _by_format(*zip(*values[f"{name}_parts"], strict=True))
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
    parts = {"nginx": _nginx, "apache": _apache, "tomcat": _tomcat, "haproxy": _haproxy, "envoy": _envoy}[syntax](
        declared
    )
    if len(parts) > _MAX_PARTS:
        raise FingerpostError(f"a log format of {len(parts)} parts is too long: at most {_MAX_PARTS}")
    names = frozenset(name for part in parts if isinstance(part, Part) for name in part.names)
    told = {"ended"} if syntax == "haproxy" and not names & {"request", "path"} else {"request", "path"}
    if not names & told or not names & {"status", "ended"} or not names & {"end", "begin", "end_ms", "begin_ms"}:
        raise FingerpostError(
            f"the log format {declared[:200]!r} lacks the request, its status or its time: no request can be read by it"
        )
    return CompiledFormat(syntax, _pattern(parts), tuple(p.read for p in parts if isinstance(p, Part)), names)


@dataclass(frozen=True)
class Part:
    """A variable of a format.

    Args:
        names: the values that it tells; empty: none that is wanted.
        read: puts them in.
        shape: of its text, as a regular expression; empty: all up to what follows.
    """

    names: tuple[str, ...]
    read: Callable[[str, dict[str, Any]], None]
    shape: str = ""


def _part(name: str, shape: str = "") -> Part:
    """A variable whose text is one value; without a name, one that is not wanted."""
    if not name:
        return Part((), lambda _text, _values: None, shape)

    def read(text: str, values: dict[str, Any]) -> None:
        values.setdefault(name, text)

    return Part((name,), read, shape)


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
    if _NGINX.search(text):
        return "nginx", text
    if _ENVOY.search(text.replace("%%", "")):
        return "envoy", text
    if re.search(r"%(?:\{[+-][^}]*\})?(?:ci|ST|hr|hs|HM|tr|Tr|Ta|ft|ac|ts|\[)", text):
        return "haproxy", text
    if "%" in text:
        return "apache", text
    raise FingerpostError(
        f"the log format {text[:200]!r} is neither a known name nor a format string: it has no variables such as "
        "$status, %>s or %ST"
    )


def _split(text: str, variable: re.Pattern[str], made: Callable[[re.Match[str]], list[str | Part]]) -> list[str | Part]:
    """Literal texts and variables, in order; texts that touch are one."""
    parts: list[str | Part] = []
    at = 0
    for found in variable.finditer(text):
        for part in (text[at : found.start()], *made(found)):
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part != "":
                parts.append(part)
        at = found.end()
    if text[at:]:
        if parts and isinstance(parts[-1], str):
            parts[-1] += text[at:]
        else:
            parts.append(text[at:])
    return parts


def _nginx(text: str) -> list[str | Part]:
    def made(found: re.Match[str]) -> list[str | Part]:
        variable = found[1] or found[2]
        name = NGINX_VARIABLES.get(variable) or header(variable.removeprefix("http_"), "_") * variable.startswith(
            "http_"
        )
        listed = variable.startswith("upstream_") and not variable.startswith("upstream_http_")
        shape = _TIME if variable == "time_local" else _LIST if listed else ""
        return [_part(name, shape)]

    return _split(text, _NGINX, made)


def _tomcat(text: str) -> list[str | Part]:
    return _apache(text, tomcat=True)


def _apache(text: str, tomcat: bool = False) -> list[str | Part]:
    def made(found: re.Match[str]) -> list[str | Part]:
        argument, letter = found[1], found[2]
        if letter == "%":
            return ["%"]
        if letter == "t":
            return [_apache_time(argument, tomcat)]
        if letter == "T":
            return [_part({"ms": "duration_ms", "us": "duration_us"}.get(argument or "s", "duration_s"))]
        if letter == "i":
            return [_part(header(argument or "", "-"))]
        if letter == "e":
            return [_part({"FINGERPOST_AUTH": "auth", "SSL_CLIENT_VERIFY": "verified"}.get(argument or "", ""))]
        if letter == "X":
            return [Part(("aborted",), lambda told, values: values.update(aborted=told == "X"))]
        if tomcat and letter in ("D", "F", "I", "S"):
            return [_part("duration_ms" if letter == "D" else "")]
        # `%{c}a` is the address of the connection.
        return [_part(APACHE_DIRECTIVES.get(letter, "") if argument in (None, "c") else "")]

    return _split(re.sub(r"\\([\"'])", r"\1", text), _APACHE, made)


def _apache_time(argument: str | None, ends: bool) -> Part:
    """Apache stamps a line with when the request came, Tomcat with when it was done."""
    told = argument or ""
    for word, value in (("begin:", False), ("end:", True)):
        if told.startswith(word):
            told, ends = told[len(word) :], value
    name = "end" if ends else "begin"
    if not told:
        return _part(name, rf"\[{_TIME}\]")
    if told in ("sec", "msec", "usec"):
        scale = {"sec": 1, "msec": 1_000, "usec": US}[told]

        def count(text: str, values: dict[str, Any]) -> None:
            values.setdefault(name, _fixed(text, scale))

        return Part((name,), count, r"\d{1,17}")
    if told in ("msec_frac", "usec_frac"):
        digits = 3 if told == "msec_frac" else 6

        def fraction(text: str, values: dict[str, Any]) -> None:
            values.setdefault(f"{name}_fraction", f"0.{text.rjust(digits, '0')}")

        return Part((f"{name}_fraction",), fraction, r"\d{1,6}")
    return _strptime(name, told)


def _fixed(text: str, scale: int) -> str:
    """A count of parts of a second as seconds, exactly."""
    whole, part = divmod(int(text), scale)
    return f"{whole}.{part * (US // scale):06d}"


def _strptime(name: str, wanted: str) -> Part:
    """A time, or a part of one, by the format that C's strftime wrote it with."""
    if wanted == "%s":
        return _part(name, r"\d{1,12}")
    # Python knows no %T, %D, %F, %R and %e.
    known = wanted
    for short, long in (("%T", "%H:%M:%S"), ("%D", "%m/%d/%y"), ("%F", "%Y-%m-%d"), ("%R", "%H:%M"), ("%e", "%d")):
        known = known.replace(short, long)

    def read(text: str, values: dict[str, Any]) -> None:
        values.setdefault(f"{name}_parts", []).append((known, text.strip()))

    shape = "".join(
        re.escape(literal) if literal else _STRFTIME.get(letter, ".+?")
        for letter, literal in re.findall(r"%([A-Za-z%])|([^%]+)", known)
    )
    return Part((name,), read, shape)


def _by_format(formats: tuple[str, ...], texts: tuple[str, ...]) -> str:
    try:
        moment = datetime.strptime(" ".join(texts), " ".join(formats))
        at = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise RefusedError("time:malformed") from error
    return _fixed(str(max(0, at // timedelta(microseconds=1))), US)


def _haproxy(text: str) -> list[str | Part]:
    quoted = False

    def made(found: re.Match[str]) -> list[str | Part]:
        nonlocal quoted
        flags, expression, name = found[1] or "", found[3], found[4]
        if name == "%":
            return ["%"]
        if name == "o":  # flags for all that follow
            quoted = "+Q" in flags or (quoted and "-Q" not in flags)
            return []
        if expression is not None:
            part = _part(_haproxy_expression(expression))
        elif name in ("hr", "hs"):
            # Nothing at all, and no blank either, where no header is captured.
            part = Part((), lambda _text, _values: None, r"(?:\{[^}]*\} )?")
        elif name in ("t", "tr", "T", "Tl", "trg", "trl", "tg"):
            part = _part("begin", rf"\[?{_TIME}\]?")
        elif name in ("tsc", "ts"):
            part = Part(("ended", "aborted", "flags"), _ended, r"\S{2,4}")
        elif name == "r" and not (quoted or "+Q" in flags):
            part = _part("request", r"[^\"]*?")
        else:
            part = _part(HAPROXY_NAMES.get(name, ""), r"\+?-?\d*" if name[0] == "T" and name != "Ts" else "")
        return ['"', part, '"'] if (quoted or "+Q" in flags) and name not in ("hr", "hs", "t", "tr") else [part]

    # In its configuration blanks are escaped; outside of quotes they would end the word.
    plain = text.replace("\\ ", " ").replace("%hr ", "%hr").replace("%hs ", "%hs")
    return _split(plain, _HAPROXY, made)


def _haproxy_expression(expression: str) -> str:
    """The value of a sample expression such as `req.fhdr(user-agent)`, `capture.req.hdr(0)`, `var(txn.auth)`."""
    found = re.search(r"\b(?:req\.f?hdr|capture\.req\.f?hdr|hdr)\(([A-Za-z0-9_-]+)", expression)
    if found:
        return header(found[1].lower(), "-")
    if "txn.auth" in expression:
        return "auth"
    known = {"method": "method", "path": "path", "url": "path", "status": "status", "src": "client", "srv_name": "host"}
    return known.get(expression.partition(",")[0].partition("(")[0], "")


def _ended(text: str, values: dict[str, Any]) -> None:
    """HAProxy's state at the end: the first sign says who broke off, the client or the server."""
    values["ended"] = text
    values["aborted"] = text[0] in "Cc"
    if text[0] in "SsPRUDILK" and text[0] != "L":
        values["flags"] = "UC"


def _envoy(text: str) -> list[str | Part]:
    def made(found: re.Match[str]) -> list[str | Part]:
        if found[0] == "%%":
            return ["%"]
        operator, argument = found[1], found[2] or ""
        if operator == "START_TIME":
            return [_part("begin_ms" if argument == "%s%3f" else "begin")]
        if operator == "REQ":
            names = [each.lower() for each in argument.split("?")]
            return [_part({":method": "method", ":path": "path", "x-envoy-original-path": "path"}.get(
                names[-1], header(names[-1], "-")
            ))]  # fmt: skip
        if operator == "RESP":
            return [_part("service_ms" if argument.lower() == "x-envoy-upstream-service-time" else "")]
        if operator == "COMMON_DURATION":
            unit = argument.rpartition(":")[2]
            whole = argument.startswith("DS_RX_BEG:DS_TX_END")
            return [_part(f"duration_{unit}" if whole and unit in ("ms", "us", "ns") else "")]
        if operator == "START_TIME_LOCAL":
            return [_part("begin")]
        return [_part(ENVOY_OPERATORS.get(operator, ""))]

    return _split(text.rstrip("\n").removesuffix("\\n"), _ENVOY, made)
