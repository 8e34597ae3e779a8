"""`bundle.json`: what a saved model says of itself, with size and SHA-256 of every file; checked before any is read."""

import hashlib
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from fingerpost.arrays import Bools
from fingerpost.errors import FingerpostError
from fingerpost.features.definition import CATEGORICAL_FEATURES, TARGETS, schema_hash

FORMAT = 3
ABOUT = "bundle.json"
# Forecasts that are blended for a cell with a history, and for one without.
_BOTH = ("host_off", "category_off", "baseline")
OWN = ("last", "previous", "short", "long", "level", "median", "mixed", "shrunk", *_BOTH)
NEW = ("shrunk", "type", "peers", *_BOTH)
MAX_ABOUT_BYTES = 8 * 2**20
_MAX_FILE_BYTES = 64 * 2**20
_MAX_BOOSTERS = 32
_MAX_VALUES = 100_000
_MAX_TEXT = 4096


class SchemaMismatchError(FingerpostError, ValueError):
    """A model was made for other features than these, or by a program of another format."""


class DamagedModelError(FingerpostError, ValueError):
    """The files of a model are not what was saved, or no model at all."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(_Strict):
    """One file: its size in bytes and the SHA-256 of its content, in hexadecimal."""

    size: Annotated[int, Field(ge=0, le=_MAX_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, content: bytes) -> "FileEntry":
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())


class BlendEntry(_Strict):
    """The weights of a blend; see `fingerpost.training.bundle.Blend`."""

    own: Annotated[list[FiniteFloat], Field(min_length=len(OWN), max_length=len(OWN))]
    new: Annotated[list[FiniteFloat], Field(min_length=len(NEW), max_length=len(NEW))]


class Verdict(_Strict):
    """Who serves which categories: what the training of a model found by replay of held-out windows.

    Args:
        by: who serves a category that is not named.
        but: categories that the other serves.
    """

    by: Literal["model", "baseline"] = "model"
    but: Annotated[list[Annotated[str, Field(max_length=_MAX_TEXT)]], Field(max_length=_MAX_VALUES)] = []

    def of(self, category: str) -> bool:
        """Whether the model serves a category."""
        return (self.by == "model") != (category in self.but)

    def by_model(self, categories: Sequence[str]) -> Bools:
        """Which categories the model serves, shape (C,)."""
        return np.array([self.of(name) for name in categories], dtype=bool)

    @property
    def serves(self) -> bool:
        """Whether the model serves anything."""
        return self.by == "model" or bool(self.but)

    @property
    def reason(self) -> str:
        """Why the baseline serves all or some categories; empty: it serves none."""
        if self == Verdict():
            return ""
        return "the baseline chooses hosts better in replays of held-out windows, in some categories or all"


_Values = Annotated[list[Annotated[str, Field(max_length=_MAX_TEXT)]], Field(max_length=_MAX_VALUES)]


class About(_Strict):
    """What `bundle.json` holds.

    Args:
        boosters: target to the number of its boosters.
        files: name to entry, of exactly the boosters' files.
        verdict: only there if the baseline serves something.
    """

    format: Literal[3]
    schema_hash: str
    boosters: dict[str, Annotated[int, Field(ge=1, le=_MAX_BOOSTERS)]]
    blends: dict[str, BlendEntry]
    shifts: dict[str, FiniteFloat]
    vocabulary: dict[str, _Values]
    files: dict[str, FileEntry]
    verdict: Verdict = Verdict()

    @model_validator(mode="after")
    def _fits(self) -> "About":
        targets = set(self.boosters)
        if not targets or not targets <= set(TARGETS):
            raise ValueError(f"the boosters are not of {', '.join(TARGETS)}")
        if targets != set(self.blends) or not set(self.shifts) <= targets:
            raise ValueError("boosters, blends and shifts are not of the same targets")
        if set(self.vocabulary) != set(CATEGORICAL_FEATURES):
            raise ValueError(f"the vocabulary is not of {', '.join(CATEGORICAL_FEATURES)}")
        if set(self.files) != {name for target in self.boosters for name in self.names_of(target)}:
            raise ValueError("the files listed are not those of the boosters")
        return self

    def names_of(self, target: str) -> list[str]:
        """The files of a target's boosters, in order."""
        return [booster_file(target, number) for number in range(self.boosters[target])]


def booster_file(target: str, number: int) -> str:
    """The name of the file of a target's booster."""
    return f"{target}-{number}.txt"


def read_about(folder: Path) -> About:
    """Reads and checks `bundle.json`.

    Raises:
        SchemaMismatchError: another format, or other features than this program's.
        DamagedModelError: it is not there, too large, or not what `ModelBundle.save` writes; the message says what.
    """
    raw = _read(folder / ABOUT, MAX_ABOUT_BYTES)
    try:
        given: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedModelError(f"{ABOUT} is not JSON: {type(error).__name__}") from error
    if not isinstance(given, dict):
        raise DamagedModelError(f"{ABOUT} is not a JSON object")
    found = (given.get("format"), given.get("schema_hash"))
    if found != (FORMAT, schema_hash()):
        raise SchemaMismatchError(
            f"the model has format {str(found[0])[:20]} and feature schema {str(found[1])[:40]}, this program "
            f"{FORMAT} and {schema_hash()}: train a new version (`fingerpost run train`)"
        )
    try:
        return About.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"]) or ABOUT
        raise DamagedModelError(f"{ABOUT} is not of a Fingerpost model: {where}: {first['msg']}") from error


def read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    """The content of a file, if it is what its entry says.

    Raises:
        DamagedModelError: it is not.
    """
    content = _read(folder / name, entry.size)
    if FileEntry.of(content) != entry:
        raise DamagedModelError(f"{name} is not what was saved: its SHA-256 or size differs from {ABOUT}")
    return content


def about_digest(folder: Path) -> str:
    """The SHA-256 of `bundle.json`, which holds those of all other files: the same for the same model only.

    Raises:
        DamagedModelError: there is none.
    """
    return hashlib.sha256(_read(folder / ABOUT, MAX_ABOUT_BYTES)).hexdigest()


def _read(path: Path, most_bytes: int) -> bytes:
    """A regular file of at most so many bytes; links and pipes are none."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise DamagedModelError(f"{path.name} is not a file")
        if found.st_size > most_bytes:
            raise DamagedModelError(f"{path.name} has {found.st_size} bytes, at most {most_bytes} are read")
        return path.read_bytes()
    except OSError as error:
        raise DamagedModelError(f"{path.name} cannot be read: {error.strerror}") from error
