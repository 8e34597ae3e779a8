"""Names of services and hosts become folder and file names, so they are checked at every door."""

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(value: object) -> bool:
    """True for 1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or digit."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def check_name(value: str, what: str) -> str:
    """Returns `value` if it is a name.

    Raises:
        ValueError: it is not; the message names `what` and the value.
    """
    if not is_name(value):
        raise ValueError(
            f"invalid {what} {value!r}: use 1 to 64 letters, digits, '.', '-', '_', beginning with a letter or digit"
        )
    return value
