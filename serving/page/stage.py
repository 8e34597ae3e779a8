"""Tells above the panels what happens just now: one stage of a story that somebody else runs, such as the demo."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from fingerpost.errors import FingerpostError
from fingerpost.lake import write_text_atomically

_MAX_BYTES, _MAX_CHARACTERS, _MAX_FOUND = 64 * 1024, 600, 6


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        number, of: which stage it is, of how many.
        now: what happens.
        look: what to look at, in which panel (`panel`, its id).
        begun_s: when it began, seconds since 1970.
        found: what the stages before have found, the latest first.
    """

    number: int
    of: int
    title: str
    now: str
    look: str
    panel: str
    begun_s: float
    found: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Writes it for `read_stage`."""
        write_text_atomically(path, orjson.dumps(asdict(self)).decode())


def checked_story(path: Path) -> None:
    """Makes sure that a file tells of a stage, before anybody waits for what it never will.

    Raises:
        FingerpostError: there is no such file, or it holds no stage; the message says what to do.
    """
    if not path.is_file():
        raise FingerpostError(f"there is no story in {path}: write a stage there first, then serve the page")
    if read_stage(path) is None:
        names = ", ".join(each.name for each in fields(Stage))
        raise FingerpostError(f"{path} tells of no stage: it must be a JSON object with {names}")


def read_stage(path: Path) -> dict[str, Any] | None:
    """The stage that a file tells of, with `elapsed_s`; None: there is none, or what lies there is not one.

    Texts are cut to what a page can show; they are text, never markup.
    """
    try:
        with path.open("rb") as file:
            told = orjson.loads(file.read(_MAX_BYTES))
        stage = Stage(**{each.name: told[each.name] for each in fields(Stage)})
        texts = {name: str(getattr(stage, name))[:_MAX_CHARACTERS] for name in ("title", "now", "look", "panel")}
        return {
            "number": int(stage.number),
            "of": int(stage.of),
            **texts,
            "elapsed_s": max(0.0, round(time.time() - float(stage.begun_s), 1)),
            "found": [str(each)[:_MAX_CHARACTERS] for each in list(stage.found)[:_MAX_FOUND]],
        }
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
