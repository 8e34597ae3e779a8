"""How a foreign table of telemetry becomes ours: which file, which columns, which units; a TOML file, no code."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerpost.errors import NoDataError

if TYPE_CHECKING:
    import pandas as pd

_SHIPPED = Path(__file__).parent / "mappings"
REQUEST_FIELDS = frozenset(
    {"time", "start", "host", "method", "route", "status", "bytes_in", "bytes_out", "auth", "user_agent_class"}
    | {"region", "duration_s", "service_time_s", "cpu_s", "inflight"}
)
SAMPLE_FIELDS = frozenset(
    {
        "time",
        "host",
        "cpu_util",
        "cores",
        "cores_used",
        "mem_bytes",
        "mem_limit_bytes",
        "mem_share",
        "inflight",
        "slots",
    }
)


@dataclass(frozen=True)
class Source:
    """Where one column comes from.

    Args:
        name: the foreign column.
        scale: what its numbers are multiplied by to be in our unit.
        unit: of a time that is a number: s, ms, us or ns since 1970.
    """

    name: str
    scale: float = 1.0
    unit: str = "us"
    optional: bool = False


@dataclass(frozen=True)
class TableMapping:
    """One table: a Parquet or CSV file, named by a pattern, and the source of each of our columns."""

    file: str
    columns: dict[str, Source]
    optional: bool = False

    def files(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.glob(self.file) if path.is_file())

    def fits(self, folder: Path) -> bool:
        """Whether the files are there with all columns that are needed."""
        files = self.files(folder)
        if not files:
            return self.optional
        present = set(_column_names(files[0]))
        return all(source.optional or source.name in present for source in self.columns.values())

    def read(self, folder: Path) -> "pd.DataFrame":
        """The table with our names, in our units, unchecked; columns that are absent are left out."""
        import pandas as pd

        parts = []
        for path in self.files(folder):
            present = set(_column_names(path))
            chosen = {name: source for name, source in self.columns.items() if source.name in present}
            wanted = sorted({source.name for source in chosen.values()})
            frame = (
                pd.read_csv(path, usecols=wanted) if path.suffix == ".csv" else pd.read_parquet(path, columns=wanted)
            )
            parts.append(
                pd.DataFrame({name: _converted(frame[source.name], name, source) for name, source in chosen.items()})
            )
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@dataclass(frozen=True)
class Mapping:
    """How to read one kind of foreign telemetry."""

    name: str
    requests: TableMapping
    samples: TableMapping | None


def load_mapping(path: Path) -> Mapping:
    """Reads a mapping file.

    Raises:
        NoDataError: it does not say what it must; the message names the place.
    """
    try:
        data = tomllib.loads(path.read_text())
        samples = _table(data["samples"], SAMPLE_FIELDS) if "samples" in data else None
        mapping = Mapping(str(data.get("name", path.stem)), _table(data["requests"], REQUEST_FIELDS), samples)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"{path} is not a mapping: {error}") from error
    missing = [name for name in ("host", "route", "duration_s") if name not in mapping.requests.columns]
    if missing or not {"time", "start"} & set(mapping.requests.columns):
        raise NoDataError(f"{path}: [requests.columns] lacks {', '.join(missing) or 'time or start'}")
    return mapping


def find_mapping(folder: Path) -> Mapping:
    """The shipped mapping whose files and columns are in a folder.

    Raises:
        NoDataError: none fits.
    """
    tried = []
    for path in sorted(_SHIPPED.glob("*.toml")):
        mapping = load_mapping(path)
        tried.append(mapping.name)
        if mapping.requests.fits(folder) and mapping.requests.files(folder):
            usable = mapping.samples is not None and mapping.samples.fits(folder)
            return Mapping(mapping.name, mapping.requests, mapping.samples if usable else None)
    raise NoDataError(
        f"{folder} is neither a lake (requests/service=.../) nor fits a shipped mapping ({', '.join(tried)}): "
        "say how to read it with --mapping FILE"
    )


def _table(data: dict[str, Any], fields: frozenset[str]) -> TableMapping:
    unknown = sorted(set(data["columns"]) - fields)
    if unknown:
        raise ValueError(f"unknown columns {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    columns = {
        name: Source(
            str(each["from"]),
            float(each.get("scale", 1.0)),
            str(each.get("unit", "us")),
            bool(each.get("optional", False)),
        )
        for name, each in data["columns"].items()
    }
    return TableMapping(str(data["file"]), columns, bool(data.get("optional", False)))


def _column_names(path: Path) -> list[str]:
    if path.suffix == ".csv":
        import pandas as pd

        return [str(name) for name in pd.read_csv(path, nrows=0).columns]
    import pyarrow.parquet as pq

    return [str(name) for name in pq.read_schema(path).names]


def _converted(values: "pd.Series", name: str, source: Source) -> "pd.Series":
    import pandas as pd

    if name in ("time", "start"):
        if pd.api.types.is_numeric_dtype(values):
            return pd.to_datetime(values, unit=source.unit, utc=True, errors="coerce")  # type: ignore[call-overload]
        return pd.to_datetime(values, utc=True, errors="coerce")
    if name in ("host", "method", "route", "auth", "user_agent_class", "region"):
        return values.astype("str").astype("category").where(values.notna())
    return pd.to_numeric(values, errors="coerce").astype("float64") * source.scale
