"""Reads the tables of foreign telemetry: Parquet, or CSV of any usual separator, encoding and compression."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fingerpost.errors import NoDataError

_ENDINGS = ("", ".gz", ".bz2", ".xz", ".zst")
# By their first bytes, whatever a file is called.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ENCODED = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SEPARATORS = (",", ";", "\t", "|")
_COMMA = re.compile(r"\s*-?\d+,\d+\s*")
# A length with its unit: `12ms`, `1.5 s`.
_LENGTH = r"^\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(ns|us|µs|ms|s|min)\s*$"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


def table_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern such as `requests*.csv`, compressed ones among them."""
    found = {path for ending in _ENDINGS for path in folder.glob(f"{pattern}{ending}") if path.is_file()}
    return sorted(found)


def column_names(path: Path) -> dict[str, str]:
    """The columns of a file, by their names without case and blanks around them; the value is how the file has them.

    Raises:
        NoDataError: it cannot be read.
    """
    if path.suffix == ".parquet":
        try:
            names: Iterable[Any] = pq.read_schema(path).names
        except (pa.ArrowException, OSError) as error:
            raise NoDataError(f"{path} is no Parquet file: {error}") from error
    else:
        names = _csv(path, nrows=0).columns
    return {plain(str(name)): str(name) for name in names}


def plain(name: str) -> str:
    """A column's name without case and blanks around it."""
    return name.strip().casefold()


def read_columns(path: Path, names: list[str]) -> pd.DataFrame:
    """Some columns of a file, by their names there.

    Raises:
        NoDataError: it cannot be read.
    """
    if path.suffix == ".parquet":
        try:
            return pd.read_parquet(path, columns=names)
        except (pa.ArrowException, OSError) as error:
            raise NoDataError(f"{path} is no Parquet file: {error}") from error
    return _csv(path, usecols=names)


def _csv(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV file; bytes that are not UTF-8 are read as Latin-1, which any byte is."""
    with path.open("rb") as file:
        head = file.read(8)
    packed: Any = next((kind for mark, kind in _PACKED.items() if head.startswith(mark)), None)
    problem: Exception | None = None
    for encoding in (None, "latin-1"):
        try:
            encoded = encoding or _encoding(path, packed)
            first_line: dict[str, Any] = {
                "sep": "\0",
                "header": None,
                "nrows": 1,
                "quoting": csv.QUOTE_NONE,
                "dtype": str,
            }
            top = pd.read_csv(path, encoding=encoded, compression=packed, engine="python", **first_line)
            first = "" if top.empty else str(top.iloc[0, 0])
            separator = max(_SEPARATORS, key=first.count)
            return pd.read_csv(path, sep=separator, encoding=encoded, compression=packed, low_memory=False, **options)
        except UnicodeDecodeError as error:
            problem = error
        except (ValueError, OSError, EOFError, LookupError, ImportError) as error:
            raise NoDataError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error
    raise NoDataError(f"{path} cannot be read as CSV: {problem}")


def _encoding(path: Path, packed: str | None) -> str:
    """By the mark that a text in Unicode may begin with; else UTF-8."""
    if packed is not None:
        return "utf-8-sig"
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _ENCODED.items() if head.startswith(mark)), "utf-8")


def numbers(values: pd.Series, lengths: bool) -> pd.Series:
    """A column of numbers; what is none is null.

    Args:
        values: numbers, or texts with a decimal comma.
        lengths: they are lengths of time, which a unit may follow: seconds are returned.
    """
    if pd.api.types.is_numeric_dtype(values):
        return values.astype("float64")
    text = values.astype("string")
    comma = text.str.fullmatch(_COMMA.pattern).fillna(False).astype(bool)
    text = text.where(~comma, text.str.replace(",", ".", regex=False))
    found = pd.to_numeric(text, errors="coerce").astype("float64")
    if lengths and found.isna().any():
        parts = text.str.extract(_LENGTH)
        seconds = pd.to_numeric(parts[0], errors="coerce").astype("float64") * parts[1].map(_SECONDS).astype("float64")
        found = found.where(found.notna(), seconds)
    return found
