"""`fingerpost settings`, `fingerpost fingerprint` and `fingerpost version`."""

from datetime import datetime
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(settings)
    app.command()(fingerprint)
    app.command()(version)


def settings(
    json_output: Annotated[bool, typer.Option("--json", help="The values in force, as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Names, defaults and meanings, as Markdown.")] = False,
) -> None:
    """Shows the settings in force, and what they mean."""
    import json
    import os

    from fingerpost.masking import masked_setting
    from fingerpost.settings import Settings, get_settings, settings_tables
    from fingerpost.settings.file import settings_file

    if markdown:
        typer.echo(settings_tables(), nl=False)
        return
    current = get_settings()
    shown = current.model_dump(mode="json")
    if json_output:
        typer.echo(json.dumps({name: masked_setting(name, value) for name, value in shown.items()}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("variable", "value", "meaning")
    for name, field in Settings.model_fields.items():
        mark = " *" if name in current.model_fields_set else ""
        table.add_row(f"FINGERPOST_{name.upper()}", f"{masked_setting(name, shown[name])}{mark}", field.description)
    Console().print(table)
    path = settings_file(os.environ)
    typer.echo(f"* set in the environment{f' or in {path}' if path else ''}")


def fingerprint(
    host: Annotated[str, typer.Argument(help="The host, by its name in the telemetry.")],
    at: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"], help="As of this time, UTC, in place of now."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="All columns, as JSON.")] = False,
) -> None:
    """Shows a host's fingerprint as the lake has it: the last one of the day before a time."""
    import json
    from datetime import UTC, timedelta

    import pyarrow.compute as pc

    from fingerpost.clock import US
    from fingerpost.errors import NoDataError
    from fingerpost.lake import read
    from fingerpost.settings import get_settings

    settings = get_settings()
    moment = datetime.now(UTC) if at is None else at.replace(tzinfo=UTC)
    span_us = [round(edge.timestamp() * US) for edge in (moment - timedelta(days=1), moment)]
    table = read(settings.lake, "fingerprints", settings.service, span_us[0], span_us[1] + 1)
    table = table.filter(pc.equal(table.column("host"), host))
    if not table.num_rows:
        raise NoDataError(
            f"no fingerprint of host {host!r} of service {settings.service!r} in the day before "
            f"{moment:%Y-%m-%dT%H:%M}: is its agent running, and has `fingerpost run ingest` run since?"
        )
    rows = table.filter(pc.equal(table.column("time"), table.column("time")[-1])).to_pylist()
    if json_output:
        typer.echo(json.dumps(rows, indent=2, default=datetime.isoformat))
        return
    from rich.console import Console
    from rich.table import Table

    columns = ("rate_rps", "error_rate", "latency_p50_s", "latency_p99_s", "cpu_s", "inflight_mean", "age_s")
    shown = Table("category", *columns, title=f"{host} at {rows[0]['time']:%Y-%m-%d %H:%M:%S} UTC")
    for row in sorted(rows, key=lambda row: -(row["rate_rps"] or 0.0)):
        shown.add_row(row["category"], *("" if row[name] is None else f"{row[name]:.4g}" for name in columns))
    Console().print(shown)


def version() -> None:
    """Shows the program's version."""
    from fingerpost import __version__

    typer.echo(__version__)
