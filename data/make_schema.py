"""Makes `data/SCHEMA.md` out of the definitions of records and features: `python -m data.make_schema`."""

from pathlib import Path

from fingerpost import records
from fingerpost.features import definition
from fingerpost.records import Column
from fingerpost.telemetry.history_state import ERRORS, QUANTITIES

SCHEMA = Path(__file__).parent / "SCHEMA.md"

_TABLES: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    (
        "Request record",
        "`requests/service=S/date=D/*.parquet`: a row a request. The last six columns are the decision log: what sent "
        "it there, how likely, and for how many requests it stands.",
        records.REQUEST_RECORD,
    ),
    ("Host sample", "`samples/service=S/date=D/*.parquet`: a row a host and measurement.", records.HOST_SAMPLE),
    (
        "Window",
        "`windows/service=S/date=D/windows.parquet`: a row a window, host and category with requests.",
        records.WINDOW,
    ),
    (
        "Host window",
        "`loads/service=S/date=D/loads.parquet`: a row a window and host with samples.",
        records.HOST_WINDOW,
    ),
    (
        "Reported window",
        "`reported_windows/service=S/date=D/*.parquet`, as reports told them: a window as above, and who reports it; "
        "the features step makes `windows` of them.",
        records.REPORTED_WINDOW[-2:],
    ),
    (
        "Reported load",
        "`reported_loads/service=S/date=D/*.parquet`: a host window as above, and who reports it.",
        records.REPORTED_LOAD[-2:],
    ),
    (
        "Reported key",
        "`reported_keys/service=S/date=D/*.parquet`: how often each finest category came, to fit categories by.",
        records.REPORTED_KEY,
    ),
    (
        "Event",
        "`events/service=S/date=D/*.parquet`: deploys, changes of configuration, campaigns; see docs/events.md.",
        records.EVENT,
    ),
    (
        "Fingerprint",
        "`fingerprints/service=S/date=D/*.parquet`, as agents send them: a row a host and category. The sample has "
        "none: it was made without agents.",
        records.FINGERPRINT,
    ),
)
_TYPES = {
    "timestamp": "timestamp, microseconds, UTC",
    "string": "string",
    "int64": "int64",
    "float64": "float64",
}
# Units by how a name ends, the longest ending first; what is none of these is named.
_ENDINGS = {
    **{"_rps": "requests/s", "bytes": "bytes", "bytes_in": "bytes", "bytes_out": "bytes", "bytes_in_mean": "bytes"},
    **{
        "_s": "seconds",
        "_share": "share",
        "_pressure": "share",
        "_rate": "share",
        "_util": "share",
        "cores": "cores",
        "inflight": "requests",
    },
}
_NAMED = {
    **{"status": "HTTP status code", "cpu_attributed": "0 or 1", "propensity": "probability"},
    **{"predicted_cost": "seconds", "slots": "requests", "requests": "requests", "errors": "requests"},
    **{"at_us": "microseconds since 1970", "until_us": "microseconds since 1970"},
    **{"withdrawn_us": "microseconds since 1970"},
    **{"measured": "requests", "weight": "requests", "inflight_mean": "requests", "sequence": "count"},
}

_AVERAGE = "relative to the average"
_VIEWS = {
    "ewma": "average with the half-life of the settings",
    "last": f"last window with requests, {_AVERAGE}",
    "previous": f"the one before, {_AVERAGE}",
    "short": f"average with a quarter of the half-life, {_AVERAGE}",
    "long": f"average with eight times the half-life, {_AVERAGE}",
    "level": f"slow level that single windows hardly move, {_AVERAGE}",
    "median": f"median of the latest windows, {_AVERAGE}",
    "mixed": f"mean of these forecasts by how well each did of late, {_AVERAGE}",
    "error_lasting": "how far off forecasts were over longer",
    "bias": "mean error of forecasts, with its sign",
    "fleet": f"mean of the other hosts for the category, {_AVERAGE}",
    "type": f"that mean times the host's ratio in the same request type, {_AVERAGE}",
    "host": "ratio of the host to the fleet over all its categories",
    "peers": f"what the hosts most like it would make one expect, {_AVERAGE}",
    "shrunk": f"compromise of these and the cell's own average, {_AVERAGE}",
    "host_off": "how far the host is off its level just now",
    "host_drift": "the same over longer",
    "category_off": "how far the category is off its level on the other hosts just now",
    "fleet_off": "how far the fleet is off its level just now",
    "fleet_drift": "the same over longer",
    "worst_off": "how far the host that is off most is off its level just now",
}


def schema_notes() -> str:
    """The notes, as Markdown."""
    parts = [
        "# Schema notes",
        "",
        "Made by `python -m data.make_schema` from the definitions of records and features; do not edit.",
        "Request records, host samples and fingerprints outside a range are refused at the door, and counted.",
        "*Required* columns are never null; any other is null where it is not known.",
        "",
    ]
    for title, where, columns in _TABLES:
        parts += [f"## {title}", "", where, "", *_table(columns), ""]
    return "\n".join([*parts, *_features()]) + "\n"


def unit_of(column: Column) -> str:
    """The unit of a column's values, by its name.

    Raises:
        ValueError: a number whose name tells no unit.
    """
    if column.kind == "timestamp":
        return "microseconds since 1970"
    if column.kind == "string":
        return "text"
    if column.name in _NAMED:
        return _NAMED[column.name]
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if column.name.endswith(ending):
            return _ENDINGS[ending]
    raise ValueError(f"column {column.name!r} has no unit: name it in data/make_schema.py")


def _table(columns: tuple[Column, ...]) -> list[str]:
    rows = ["| column | type | unit | range | required | meaning |", "|---|---|---|---|---|---|"]
    return rows + [
        f"| `{each.name}` | {_TYPES[each.kind]} | {unit_of(each)} | {range_of(each)} | "
        f"{'yes' if each.required else 'no'} | {each.meaning} |"
        for each in columns
    ]


def range_of(column: Column) -> str:
    """The values that are taken, as text."""
    if column.kind == "timestamp":
        return "not in the future, not too old"
    if column.kind == "string":
        return "a name" if column.name in ("service", "host") else f"at most {records.MAX_TEXT} characters"
    if column.low is None and column.high is None:
        return "any finite number"
    if column.high is None:
        return f"{column.low:,g} or more"
    return f"{_number(column.low)} to {_number(column.high)}"


def _number(value: float | None) -> str:
    if value is None:
        return "any"
    power = int(value).bit_length() - 1
    return f"2^{power}" if power >= 30 and value == 2**power else f"{value:,.16g}"


def _features() -> list[str]:
    kinds = (
        ("time", "timestamp, microseconds, UTC", "beginning of the window that is to be predicted"),
        ("host", "string", "host"),
        ("category", "string", "category"),
        (", ".join(f"`{name}`" for name in definition.OUTCOMES), "float64", "what was measured, natural log"),
        (
            ", ".join(f"`{name}`" for name in definition.NAIVE_COLUMNS),
            "float64",
            "naive forecasts of these, natural log",
        ),
        (
            ", ".join(f"`{name}`" for name in definition.BASELINE_COLUMNS),
            "float64",
            "what the engine serves of the targets without a model, natural log",
        ),
        ("requests", "int64", "requests of the window"),
        ("own", "bool", "whether the cell had a history of its own"),
        ("cold_start", "bool", "whether the row was made as if the host were new to the category"),
        ("draw", "float64", "number in 0..1 that follows from the row's place; kept where it is below the share kept"),
        ("weight", "float64", "rows that it stands for: 1 / the share kept"),
        (", ".join(f"`{name}`" for name in definition.CATEGORICAL_FEATURES), "string", "attributes of the category"),
        (", ".join(f"`{name}`" for name in definition.TRAFFIC_FEATURES), "float64", "the cell's traffic"),
        (", ".join(f"`{name}`" for name in definition.HOST_FEATURES), "float64", "the host"),
        (", ".join(f"`{name}`" for name in definition.FLEET_FEATURES), "float64", "the fleet"),
        (", ".join(f"`{name}`" for name in definition.OUTSIDE_FEATURES), "float64", "events and holidays"),
        (", ".join(f"`{name}`" for name in definition.TIME_FEATURES), "float64", "time of day and week"),
        ("QUANTITY_VIEW", "float64", "natural log; see below"),
        (
            ", ".join(f"`{name}_{definition.BASELINE_VIEW}`" for name in definition.TARGETS),
            "float64",
            f"what the engine would serve without a model, {_AVERAGE}",
        ),
    )
    return [
        "## Training row",
        "",
        "`features/service=S/date=D/features.parquet`: a row a window, host and category with requests; features are",
        f"as of its beginning. Schema `{definition.schema_hash()}`. Of traffic, host and fleet, counts, rates,",
        "sizes and ages are natural logs of 1 + x. `fingerprints/service=S/latest.parquet` has every host's",
        "fingerprint as of the last window's end: `host`, `time`, and `fingerprint` as it travels (docs/models.md).",
        "",
        "| columns | type | meaning |",
        "|---|---|---|",
        *(f"| {name if '`' in name else f'`{name}`'} | {kind} | {meaning} |" for name, kind, meaning in kinds),
        "",
        f"QUANTITY is one of {', '.join(f'`{name}`' for name in QUANTITIES)}; VIEW one of",
        "",
        "| view | meaning |",
        "|---|---|",
        *(f"| `{name}` | {_view(name)} |" for name in definition.VIEWS),
    ]


def _view(name: str) -> str:
    error = f"how far off `{name.removeprefix('error_')}` was of late, as a forecast"
    return _VIEWS.get(name) or (error if name in ERRORS else _unknown(name))


def _unknown(name: str) -> str:
    raise ValueError(f"view {name!r} has no meaning: give it one in data/make_schema.py")


if __name__ == "__main__":
    SCHEMA.write_text(schema_notes(), encoding="utf-8")
