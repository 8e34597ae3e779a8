"""Secrets out of what is shown, logged or stored: passwords and tokens in URLs, and settings that are secrets."""

import re
from typing import Any
from urllib.parse import urlsplit

from fingerpost.routes import is_token

MASK = "***"
# Up to the last @ before a space or quote: a password may hold an @ or a slash that nobody quoted. Bounded, so that no
# line of a log takes long.
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,30}://)(?P<user>[^\s'\"<>`]{0,500})@", re.IGNORECASE)
_VALUE = re.compile(
    r"(?P<name>[?&;][\w.-]{0,40}?(?:passw(?:or)?d|pwd|token|secret|api[_-]?key|credential|signature|\bsig)[\w.-]{0,40}=)"
    r"[^\s&;#'\"<>`]+",
    re.IGNORECASE,
)
# Of a line of a log: query and parameters of a path, credentials, addresses of mail and of clients, tokens.
_QUERY = re.compile(r"(?P<mark>\?|#(?=[^\s\"'/;]*=))[^\s\"']+")
_PARAMETER = re.compile(r"(?<=[\w*]);[^\s\"'/;=]{1,64}=[^\s\"'/]+")
_CREDENTIALS = re.compile(
    r"(?P<name>\b(?:(?:proxy-)?authorization|(?:set-)?cookie|passw(?:or)?d|secret|api[_-]?key|token)"
    r"[\"']?\s{0,3}[:=]\s{0,3})"
    r"(?:\"[^\"]{0,500}\"?|\[[^\]]{0,500}\]?|[^\s,;\"'\]}]{1,500})",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"(?P<scheme>\b(?:bearer|basic|digest|negotiate)\s)[\w+/.=~-]{8,500}", re.IGNORECASE)
_MAIL = re.compile(r"[\w.+-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63})+", re.ASCII)
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:])(?=[0-9A-Fa-f]*:)(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9_-]{8,}(?:[.:=]+[A-Za-z0-9_-]+)*=*", re.ASCII)
_LEAST_TOKEN = 16
_SECRETS = ("_token", "_auth")
# Whoever knows the path may send: webhooks have no other password.
_WEBHOOKS = ("alert_url",)


def masked(text: str) -> str:
    """The text with the passwords, and values that are called secrets, of every URL in it as `***`."""
    if "://" not in text and "=" not in text:
        return text
    return _VALUE.sub(rf"\g<name>{MASK}", _USER.sub(_without_password, text))


def masked_line(line: str) -> str:
    """A line of a log as it may be kept: its form, and nothing of who asked and what for.

    Queries, parameters of paths, credentials, addresses of mail and tokens become `***`, addresses of clients 0.0.0.0
    or ::.
    """
    line = _PARAMETER.sub(f";{MASK}", _QUERY.sub(rf"\g<mark>{MASK}", masked(line)))
    line = _CREDENTIALS.sub(rf"\g<name>{MASK}", _SCHEME.sub(rf"\g<scheme>{MASK}", line))
    line = _MAIL.sub(MASK, line)
    line = _RUN.sub(lambda found: MASK if _holds_token(found[0]) else found[0], line)
    return _IPV6.sub(lambda found: found[0] if _is_time(found[0]) else "::", _IPV4.sub("0.0.0.0", line))  # noqa: S104


def _holds_token(run: str) -> bool:
    return any(len(piece) >= _LEAST_TOKEN and is_token(piece) for piece in re.split(r"[.:=]", run))


def _is_time(text: str) -> bool:
    """Whether it is a time such as 10:05:03, or a year before one."""
    return re.fullmatch(r"(?:\d{4}:)?\d\d:\d\d(?::\d\d)?", text) is not None


def masked_webhook(url: str) -> str:
    """Of a webhook's URL only where it is."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{MASK}"


def masked_setting(name: str, value: Any) -> Any:
    """A setting as it may be shown: of a token that there is one, of a webhook where it is, of a URL no password.

    Args:
        name: in lower case, without the prefix.
        value: as JSON has it.
    """
    if not isinstance(value, str) or not value:
        return value
    if name.endswith(_SECRETS):
        return MASK
    return masked_webhook(value) if name in _WEBHOOKS else masked(value)


def described(error: BaseException, limit: int = 300) -> str:
    """An error as one line for logs and answers: its type and its text, masked, and only then cut."""
    return masked(f"{type(error).__name__}: {error}")[:limit]


def mask_error(error: BaseException) -> None:
    """Masks the text of an error, and of those it came of, where it is: others will log and store it."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        found.args = tuple(masked(each) if isinstance(each, str) else each for each in found.args)
        if isinstance(found, OSError):
            # Its text is not made of its arguments.
            found.strerror, found.filename = (
                masked(each) if isinstance(each, str) else each for each in (found.strerror, found.filename)
            )
        found = found.__cause__ or found.__context__


def _without_password(found: re.Match[str]) -> str:
    user, colon, _ = found["user"].partition(":")
    # A user without a password is a token, or nothing that helps to understand.
    return f"{found['scheme']}{f'{user}:' if colon else ''}{MASK}@"
