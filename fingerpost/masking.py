"""Secrets out of what is shown, logged or stored: passwords and tokens in URLs, and settings that are secrets."""

import re
from typing import Any
from urllib.parse import urlsplit

MASK = "***"
# Up to the last @ before a space or quote: a password may hold an @ or a slash that nobody quoted. Bounded, so that no
# line of a log takes long.
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,30}://)(?P<user>[^\s'\"<>`]{0,500})@", re.IGNORECASE)
_VALUE = re.compile(
    r"(?P<name>[?&;][\w.-]{0,40}?(?:passw(?:or)?d|pwd|token|secret|api[_-]?key|credential|signature|\bsig)[\w.-]{0,40}=)"
    r"[^\s&;#'\"<>`]+",
    re.IGNORECASE,
)
_SECRETS = ("_token", "_auth")
# Whoever knows the path may send: webhooks have no other password.
_WEBHOOKS = ("alert_url",)


def masked(text: str) -> str:
    """The text with the passwords, and values that are called secrets, of every URL in it as `***`."""
    if "://" not in text and "=" not in text:
        return text
    return _VALUE.sub(rf"\g<name>{MASK}", _USER.sub(_without_password, text))


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
