"""Reads the requests of a whole fleet: from a lake, from access logs that name hosts, or from foreign telemetry."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.categoriser import Categoriser
from fingerpost.category import fit_categories
from fingerpost.clock import US
from fingerpost.errors import NoDataError
from fingerpost.features.foreign import find_mapping, import_telemetry, load_mapping, plausible
from fingerpost.features.windows import category_counts, in_flight_at
from fingerpost.lake import read, service_folder
from fingerpost.request_status import failed, measures
from fingerpost.simulator.worth.logs import COLUMNS, read_logs
from fingerpost.telemetry.throughput import at_resolution

MAX_HOSTS, MAX_CATEGORIES = 1000, 256
MIN_REQUESTS, MIN_HOSTS = 500, 2
_MIN_CATEGORY_REQUESTS = 30
_ATTRIBUTES = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")
# Of the requests, so many tell a thing that is then taken to be told.
_MOST = 0.9


@dataclass(frozen=True)
class Traffic:
    """Requests of one service in order of their ends; all arrays of requests have shape (n,).

    Attributes:
        hosts, categories: names; `host` and `category` are places in them.
        end_s: when a request ended, seconds from the first beginning.
        took_s: what the host took, waiting there included; `duration_s`: what the client waited.
        measured: answered with 100 to 399, with a known time: only these tell how fast a host is.
        failed: errors of the host.
        found: requests in flight on the host when it came, itself not counted.
        slots: requests that each host serves at once, where it is told, shape (hosts,); NaN elsewhere.
        cores: of each host, shape (hosts,); NaN where not known.
        told: hosts told with their answers how many requests were in flight.
        notes: what was assumed or left out, in sentences.
        refused: lines or rows left out, by reason.
    """

    hosts: list[str]
    categories: list[str]
    end_s: Floats
    host: Ints
    category: Ints
    took_s: Floats
    duration_s: Floats
    measured: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    found: Floats
    slots: Floats
    cores: Floats
    told: bool
    notes: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def begin_s(self) -> Floats:
        """When each request was sent to its host, seconds from the first beginning."""
        return self.end_s - self.took_s


def read_traffic(
    paths: Sequence[Path],
    log_format: str | None = None,
    mapping: Path | None = None,
    service: str | None = None,
    max_requests: int = 1_000_000,
    progress: Callable[[str], None] = lambda _text: None,
) -> Traffic:
    """Reads everything that is named; touches none of it.

    Args:
        paths: a lake, a folder of foreign telemetry, or access logs, compressed or not.
        log_format: a name or a format string (`fingerpost.accesslog.formats.log_format`); None: what fits best.
        mapping: how to read foreign telemetry; None: the shipped one that fits.
        service: of a lake with several.
        max_requests: no more are read; what comes after them is left out, and said.

    Raises:
        NoDataError: too few requests or hosts, no host or no duration in them, or nothing that can be read.
        FingerpostError: no such format.
    """
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise NoDataError(f"{folders[0]} is a folder: name one lake or folder alone, or any number of logs")
    refused: Counter[str] = Counter()
    notes: list[str] = []
    told = pd.DataFrame(columns=["host", "slots", "cores"])
    if folders:
        frame, told = _folder(folders[0], mapping, service, max_requests, notes, refused, progress)
    else:
        frame = read_logs(paths, log_format, max_requests, notes, refused, progress)
    return traffic_of(frame, told, notes, refused)


def traffic_of(frame: pd.DataFrame, told: pd.DataFrame, notes: list[str], refused: Counter[str]) -> Traffic:
    """Turns request records into traffic.

    Args:
        frame: columns of request records, `time` as integer microseconds, in any order.
        told: `host`, `slots` and `cores`, where hosts tell them.

    Raises:
        NoDataError: see `read_traffic`.
    """
    low, high = plausible(frame["time"].to_numpy(np.int64))
    near = frame["time"].between(low, high)
    if not near.all():
        refused["time:far_off"] += int((~near).sum())
        frame = frame[near]
    because = f"; left out: {dict(refused.most_common(5))}" if refused else ""
    if frame["host"].nunique() < MIN_HOSTS:
        raise NoDataError(
            f"requests of {frame['host'].nunique()} host(s) are in there, and {MIN_HOSTS} at least are needed to "
            f"compare: give the log of a proxy before all hosts, or one log a host{because}"
        )
    frame = _of_few_hosts(frame, notes).sort_values("time", kind="stable")
    took = frame["service_time_s"].to_numpy(np.float64)
    duration = frame["duration_s"].to_numpy(np.float64)
    known = np.isfinite(took)
    if not known.any() and not np.isfinite(duration).any():
        raise NoDataError(
            "no request has a duration: log it (nginx: rt=$request_time urt=$upstream_response_time; Apache: %D; "
            "docs/logs.md has the formats)"
        )
    if known.mean() < 0.5:
        notes.append("Times are what the client waited: the log has no times of the upstream.")
        took, known = duration, np.isfinite(duration)
    status = frame["status"].to_numpy(np.float64)
    hosts = sorted(frame["host"].unique())
    host = pd.Categorical(frame["host"], categories=hosts).codes.astype(np.int64)
    took = at_resolution(took, np.zeros(len(took), dtype=np.int64))
    usable = measures(status) & known & (took > 0)
    if usable.sum() < MIN_REQUESTS:
        raise NoDataError(
            f"{int(usable.sum())} requests were answered with a known duration, and {MIN_REQUESTS} at least are needed"
            f"{because}"
        )
    end_us = _ends(frame["time"].to_numpy(np.int64), notes)
    took = np.where(known, took, 0.0)
    begin_us = end_us - np.round(took * US).astype(np.int64)
    first = int(begin_us.min())
    categories, category = _categories(frame)
    inflight = frame["inflight"].to_numpy(np.float64)
    told_inflight = bool(np.isfinite(inflight).mean() > _MOST)
    slots, cores = (
        told.groupby("host", observed=True)[name].median().reindex(hosts).to_numpy(np.float64)
        for name in ("slots", "cores")
    )
    return Traffic(
        hosts=hosts,
        categories=categories,
        end_s=(end_us - first) / US,
        host=host,
        category=category,
        took_s=took,
        duration_s=np.where(np.isfinite(duration), duration, took),
        measured=usable,
        failed=failed(status),
        found=_found(inflight if told_inflight else None, host, begin_us, end_us, notes),
        slots=slots,
        cores=cores,
        told=told_inflight,
        notes=notes,
        refused=refused,
    )


def _folder(
    folder: Path,
    mapping: Path | None,
    service: str | None,
    max_requests: int,
    notes: list[str],
    refused: Counter[str],
    progress: Callable[[str], None],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if mapping is None and (folder / "requests").is_dir():
        return _lake(folder, service or _only_service(folder), max_requests, notes)
    chosen = load_mapping(mapping) if mapping else find_mapping(folder)
    progress(f"reading {folder} by the mapping {chosen.name}")
    with tempfile.TemporaryDirectory(prefix="fingerpost-worth-") as scratch:
        refused.update(import_telemetry(folder, chosen, Path(scratch), service or "worth"))
        return _lake(Path(scratch), service or "worth", max_requests, notes)


def _only_service(lake: Path) -> str:
    names = sorted(path.name.removeprefix("service=") for path in (lake / "requests").glob("service=*"))
    if len(names) != 1:
        raise NoDataError(f"{lake} has requests of {len(names)} services ({', '.join(names)}): name one by --service")
    return names[0]


def _lake(lake: Path, service: str, max_requests: int, notes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not service_folder(lake, "requests", service).is_dir():
        raise NoDataError(f"{lake} has no requests of service {service!r}")
    table = read(lake, "requests", service, columns=list(COLUMNS))
    if table.num_rows > max_requests:
        notes.append(f"The latest {max_requests:,} of {table.num_rows:,} requests were taken.")
        table = table.slice(table.num_rows - max_requests)
    frame: pd.DataFrame = table.to_pandas()
    frame["time"] = table.column("time").cast("int64").to_numpy()
    samples = read(lake, "samples", service, columns=["time", "host", "slots", "cores"])
    return frame, samples.select(["host", "slots", "cores"]).to_pandas()


def _of_few_hosts(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    names = frame["host"].unique()
    if len(names) <= MAX_HOSTS:
        return frame
    kept = np.random.default_rng(1).choice(sorted(names), MAX_HOSTS, replace=False)
    notes.append(f"{MAX_HOSTS:,} of {len(names):,} hosts were drawn at random, and only their requests were taken.")
    return frame[frame["host"].isin(kept)]


def _categories(frame: pd.DataFrame) -> tuple[list[str], Ints]:
    table = fit_categories(category_counts(frame), MAX_CATEGORIES, _MIN_CATEGORY_REQUESTS)
    category = Categoriser(table).assign(*(frame[name].tolist() for name in _ATTRIBUTES))
    present, places = np.unique(category, return_inverse=True)
    return [table.names[each] for each in present], places.astype(np.int64)


def _ends(time_us: Ints, notes: list[str]) -> Ints:
    """Ends of requests; those in whole seconds are spread over their second, at random but the same every time."""
    if (time_us % US != 0).any():
        return time_us
    notes.append("Times of the log are in whole seconds: requests in flight are known roughly.")
    return time_us + np.random.default_rng(1).integers(0, US, len(time_us))


def _found(told: Floats | None, host: Ints, begin_us: Ints, end_us: Ints, notes: list[str]) -> Floats:
    """Requests in flight that each found: as hosts told, else counted from the requests themselves."""
    if told is not None:
        notes.append("Requests in flight are as the hosts told.")
        return told
    notes.append("Requests in flight are counted from the log: it must hold all requests of its hosts.")
    found = np.zeros(len(host))
    for each in np.unique(host):
        of = host == each
        found[of] = in_flight_at(begin_us[of], begin_us[of], end_us[of])
    return found
