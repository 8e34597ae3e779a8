"""Reads settings from a TOML file, which the environment goes before."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError

# Names the file; what finds one by itself sets it, so that children read the same one wherever they are started.
VARIABLE = "FINGERPOST_CONFIG"
FILE_NAME = "fingerpost.toml"
SYSTEM_FILE = Path("/etc/fingerpost") / FILE_NAME
_MAX_BYTES = 2**20


def settings_file(environment: Mapping[str, str]) -> Path | None:
    """The file that is read: the one `FINGERPOST_CONFIG` names, else one in the working directory, else the system's.

    Raises:
        FingerpostError: the named one is not there.
    """
    named = environment.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise FingerpostError(f"{VARIABLE}={named}: there is no such file")
        return Path(named).absolute()
    found = (path for path in (Path(FILE_NAME), SYSTEM_FILE) if path.is_file())
    path = next(found, None)
    return path.absolute() if path else None


def read_settings(path: Path, fields: Iterable[str], groups: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings that a file holds, and its keys that are none.

    A key is a setting's name in lower case. Keys may stand in a table named after their group, `[routing]`, or in none.
    A relative `home` or `lake` is relative to the file's folder, so that it means one place wherever a command is
    started.

    Args:
        fields: names of all settings.
        groups: names of the groups, in lower case.

    Raises:
        FingerpostError: it cannot be read, is no TOML, or says something twice.
    """
    known, tables = set(fields), set(groups)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FingerpostError(f"{path} is larger than {_MAX_BYTES} bytes: that is no file of settings")
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FingerpostError(f"{path} cannot be read: {error}") from error
    values: dict[str, Any] = {}
    unknown = []
    for name, value in content.items():
        entries = value.items() if name in tables and isinstance(value, dict) else ((name, value),)
        for key, each in entries:
            if key not in known:
                unknown.append(key)
            elif key in values:
                raise FingerpostError(f"{path} sets {key} twice")
            else:
                values[key] = each
    for key in ("home", "lake"):
        # What is no path is refused where settings are checked, by a message of its own.
        if key in values and "://" not in str(values[key]):
            values[key] = str(path.parent / str(values[key]))
    return values, unknown


def remember(path: Path | None) -> None:
    """Names the file to this process's children."""
    if path:
        os.environ[VARIABLE] = str(path)
