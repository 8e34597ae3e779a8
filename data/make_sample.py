"""Makes `data/sample`: `python -m data.make_sample`. The same seed gives the same sample, whenever it is made."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.sample_logs import write_logs
from data.sample_run import BEGIN_US, HOSTS, SERVICE, SLOTS
from data.sample_traffic import Frame, Traffic, make_traffic
from fingerpost.agent.batches import write_batch
from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.features.build import FeaturesReport, build_features
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import parquet_files
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, Column
from fingerpost.settings.telemetry import Telemetry

SAMPLE = Path(__file__).parent / "sample"
SEED, MINUTES = 1, 20.0
ABOUT = "about.json"
# What the features step keeps besides is of the machine it runs on: which files it has seen, and where it stands.
_KINDS = ("requests", "samples", "windows", "loads", "features", "fingerprints", "categories", "hosts")
_DAY_S = 86_400.0
# Of features, which are most of the sample: more says nothing about what was measured.
FEATURE_DIGITS = 6


def make_sample(seed: int, minutes: float, out: Path) -> FeaturesReport:
    """Makes a lake and the logs of the same traffic in a folder, in place of an older sample there.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: see `make_traffic`.
    """
    if out.exists() and any(out.iterdir()) and not (out / ABOUT).exists():
        raise FileExistsError(f"{out} is no sample (it has no {ABOUT}) and is left as it is: name another folder")
    traffic = make_traffic(seed, minutes)
    with tempfile.TemporaryDirectory(prefix="fingerpost-sample-") as scratch:
        lake, made = Path(scratch) / "lake", Path(scratch) / "sample"
        write_records(traffic, lake)
        report = build_features(lake, SERVICE, feature_settings())
        for unneeded in lake.rglob("made_from.json"):
            unneeded.unlink()
        for kind in _KINDS:
            shutil.copytree(lake / kind, made / kind)
        for path in parquet_files(made):
            pack(path, FEATURE_DIGITS if path.is_relative_to(made / "features") else None)
        write_logs(traffic.requests, made / "logs")
        (made / ABOUT).write_text(json.dumps(_about(seed, minutes, traffic, report), indent=1) + "\n")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out, copy_function=shutil.copyfile)
    return report


def _about(seed: int, minutes: float, traffic: Traffic, report: FeaturesReport) -> dict[str, Any]:
    return {
        "seed": seed,
        "minutes": minutes,
        "service": SERVICE,
        "begin_us": BEGIN_US,
        "end_us": traffic.end_us,
        "slots": dict(zip(HOSTS, SLOTS, strict=True)),
        "experiment": asdict(traffic.experiment),
        "schema_hash": report.schema_hash,
    }


def pack(path: Path, digits: int | None) -> None:
    """Writes a Parquet file again as small as it gets, with the same rows, columns and metadata.

    Args:
        digits: floats are rounded to so many significant digits; None: they stay as they are.
    """
    table = pq.read_table(path, partitioning=None)
    floats = [field.name for field in table.schema if field.type == pa.float64()]
    if digits is not None:
        for place, field in enumerate(table.schema):
            if field.name in floats:
                values = rounded(table.column(place).to_numpy(), digits)
                table = table.set_column(place, field, pa.array(values, from_pandas=False))
    others = [field.name for field in table.schema if field.name not in floats]
    pq.write_table(
        table, path, compression="zstd", compression_level=19, use_dictionary=others, use_byte_stream_split=floats
    )


def rounded(values: Floats, digits: int) -> Floats:
    """Numbers to so many significant digits, as the nearest with a short binary fraction: zeros take no room."""
    mantissa, exponent = np.frexp(values)
    bits = np.ceil(digits * np.log2(10))
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def write_records(traffic: Traffic, lake: Path) -> None:
    """Reports the traffic as each host's agent does, and takes it in as the platform does."""
    for host in HOSTS:
        for kind, columns, frame in (
            ("samples", HOST_SAMPLE, traffic.samples),
            ("requests", REQUEST_RECORD, traffic.requests),
        ):
            write_batch(lake, kind, columns, record_rows(frame[frame["host"] == host], columns), host)
    now_s = traffic.end_us / US + 60
    report = ingest(lake, SERVICE, Telemetry().clock_skew_s, _DAY_S, now_s)
    if report.refused or report.refused_files:
        raise ValueError(f"the lake refuses what was made: {report.to_json()}")


def record_rows(frame: Frame, columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    """A frame's rows as records: what is not known is None, what is a whole number is one."""
    made: dict[str, list[Any]] = {}
    for column in columns:
        if column.name not in frame:
            made[column.name] = [None] * len(frame)
            continue
        whole = column.kind in ("int64", "timestamp")
        values = frame[column.name].astype(object).where(frame[column.name].notna(), None).tolist()
        made[column.name] = [int(value) if whole and value is not None else value for value in values]
    return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]


def feature_settings() -> FeatureSettings:
    """The shipped ones, whatever the environment says."""
    shipped = Telemetry()
    return FeatureSettings(shipped.window_s, shipped.halflife_s, shipped.max_categories, shipped.min_category_requests)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m data.make_sample", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help=f"of all that is drawn (default: {SEED})")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of traffic, 2 to 60 (default: {MINUTES:g})")
    parser.add_argument("--out", type=Path, default=SAMPLE, help="folder to make (default: data/sample)")
    given = parser.parse_args()
    try:
        report = make_sample(given.seed, given.minutes, given.out)
    except (FileExistsError, ValueError) as error:
        sys.exit(f"make_sample: {error}")
    print(
        f"{given.out}: {report.request_records} requests, {len(report.hosts)} hosts, "
        f"{len(report.categories)} categories, {report.windows} windows, {report.training_rows} training rows"
    )


if __name__ == "__main__":
    main()
