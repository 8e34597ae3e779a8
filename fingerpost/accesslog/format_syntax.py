"""Takes the format strings of nginx, Apache, Tomcat, HAProxy and Envoy apart: texts, and what each variable tells."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fingerpost.accesslog.format_names import APACHE_DIRECTIVES, ENVOY_OPERATORS, HAPROXY_NAMES, NGINX_VARIABLES, header
from fingerpost.clock import US
from fingerpost.errors import RefusedError

NGINX = re.compile(r"\$\{(\w+)\}|\$(\w+)", re.ASCII)
_APACHE = re.compile(r"%(?:!?\d{3}(?:,\d{3})*)?[<>]?(?:\{([^}]*)\})?(\^?[A-Za-z]{1,2}(?<=\^..)|[A-Za-z%])", re.ASCII)
_HAPROXY = re.compile(r"%(?:\{([^}]*)\})?(?:\(([^)]*)\))?(?:\[((?:[^\[\]]|\[[^\]]*\])*)\]|([A-Za-z]{1,5}|%))", re.ASCII)
# Its own times hold signs of percent within brackets.
ENVOY = re.compile(r"%([A-Z_0-9]{3,})(?:\(((?:[^()%]|%\d*[A-Za-z])*)\))?(?::(\d+))?%|%%", re.ASCII)
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


def nginx_parts(text: str) -> list[str | Part]:
    """Of nginx's `log_format`."""

    def made(found: re.Match[str]) -> list[str | Part]:
        variable = found[1] or found[2]
        name = NGINX_VARIABLES.get(variable) or header(variable.removeprefix("http_"), "_") * variable.startswith(
            "http_"
        )
        listed = variable.startswith("upstream_") and not variable.startswith("upstream_http_")
        shape = _TIME if variable == "time_local" else _LIST if listed else ""
        return [_part(name, shape)]

    return _split(text, NGINX, made)


def tomcat_parts(text: str) -> list[str | Part]:
    """Of the pattern of Tomcat's AccessLogValve: Apache's, with other units and another time."""
    return apache_parts(text, tomcat=True)


def apache_parts(text: str, tomcat: bool = False) -> list[str | Part]:
    """Of Apache's `LogFormat`."""

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


def moment_of(formats: tuple[str, ...], texts: tuple[str, ...]) -> str:
    """Seconds since 1970 of a time by its parts, each with the format that wrote it.

    Raises:
        RefusedError: `time:malformed`.
    """
    try:
        moment = datetime.strptime(" ".join(texts), " ".join(formats))
        at = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise RefusedError("time:malformed") from error
    return _fixed(str(max(0, at // timedelta(microseconds=1))), US)


def haproxy_parts(text: str) -> list[str | Part]:
    """Of HAProxy's `log-format`."""
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


def envoy_parts(text: str) -> list[str | Part]:
    """Of Envoy's text format."""

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

    return _split(text.rstrip("\n").removesuffix("\\n"), ENVOY, made)
