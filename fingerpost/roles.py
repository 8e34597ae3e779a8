"""Reads from the installed metadata which libraries a role needs, and which of them are absent.

A role is an extra of the distribution: `pip install 'fingerpost[agent]'`. The lists are those of pyproject.toml.
"""

import re
from importlib.metadata import PackageNotFoundError, requires, version

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,. -]+)\])?[^;]*(;.*extra == [\"'](?P<of>[\w-]+)[\"'])?")
_SELF = "fingerpost"


def requirements(*roles: str) -> dict[str, str]:
    """The requirements of roles, those of the base and of roles within them included.

    Returns:
        By name of the distribution: the requirement as it was written, without its marker. Empty where the program
        runs from a copy of its sources, of which there is no metadata.
    """
    try:
        written = requires(_SELF) or []
    except PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in written:
        match = _REQUIREMENT.match(line)
        if match is None or match["of"] not in (None, *roles):
            continue
        if match["name"] == _SELF:
            within = [role.strip() for role in match["extras"].split(",")]
            found |= {name: text for name, text in requirements(*within).items() if name not in found}
        else:
            found[match["name"]] = line.partition(";")[0].strip()
    return found


def absent(*roles: str) -> list[str]:
    """Names of the distributions that roles need and that are not installed."""
    return [name for name in requirements(*roles) if installed_version(name) is None]


def installed_version(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
