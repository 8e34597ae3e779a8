"""What each date's windows were made from, so that only what changed is made again."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from fingerpost.category import Key
from fingerpost.lake import parquet_files, partition, service_folder, write_text_atomically

_DAY_S = 86_400


@dataclass(frozen=True)
class Manifest:
    """How a partition came about; two partitions with the same need no second look.

    Args:
        inputs: file to [size, time of change in ns], of requests and samples.
        settings: what else the result depends on.
    """

    inputs: dict[str, list[int]]
    settings: dict[str, str]


def dates(lake: Path, kind: str, service: str) -> list[str]:
    """The dates of one kind of data of one service, in order."""
    return sorted(path.name.removeprefix("date=") for path in service_folder(lake, kind, service).glob("date=*"))


def input_files(lake: Path, kind: str, service: str, day: str, window_s: float, shift_s: float = 0.0) -> list[Path]:
    """The files that windows of a date are made from; where windows straddle midnight, the next day's too."""
    days = [day]
    if shift_s or _DAY_S % window_s:
        days.append(str(date.fromisoformat(day) + timedelta(days=1)))
    return [path for each in days for path in parquet_files(partition(lake, kind, service, each))]


def manifest(
    lake: Path, service: str, day: str, window_s: float, settings: dict[str, str], shift_s: float = 0.0
) -> Manifest:
    """The manifest that the date would have if it were made now."""
    inputs = {}
    for kind in ("requests", "samples"):
        for path in input_files(lake, kind, service, day, window_s, shift_s):
            stat = path.stat()
            inputs[str(path.relative_to(lake))] = [stat.st_size, stat.st_mtime_ns]
    return Manifest(inputs, settings)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a partition's folder, or None."""
    try:
        return Manifest(**json.loads((folder / "made_from.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_manifest(folder: Path, made_from: Manifest) -> None:
    """Written last: a partition without it is made again."""
    write_text_atomically(folder / "made_from.json", json.dumps(asdict(made_from), indent=1))


def bounds_us(day: str, window_s: float, shift_s: float = 0.0) -> tuple[int, int]:
    """The times whose windows begin on a date: from, inclusive, and to, exclusive; microseconds since 1970.

    Args:
        shift_s: how much later than at multiples of their length windows begin.
    """
    span = round(window_s * 1_000_000)
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    edges = [round((start + timedelta(days=days)).timestamp()) * 1_000_000 for days in (0, 1)]
    low, high = (-(-edge // span) * span for edge in edges)
    shift = round(shift_s * 1_000_000)
    return low + shift, high + shift


def counts_to_json(counts: list[tuple[Key, int]]) -> str:
    return json.dumps([[list(key), count] for key, count in counts])


def counts_from_json(text: str) -> list[tuple[Key, int]]:
    return [(tuple(key), int(count)) for key, count in json.loads(text)]
