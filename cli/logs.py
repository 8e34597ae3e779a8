"""`fingerpost logs check FILE`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

if TYPE_CHECKING:
    from fingerpost.accesslog.check import LogCheck


def register(app: typer.Typer) -> None:
    logs = typer.Typer(help="Access logs: try one before an agent follows it.", no_args_is_help=True)
    logs.command("check")(check)
    app.add_typer(logs, name="logs")


def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The log, also a .gz; - for standard input.")],
    log_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "--log-format",
            help="A name, or the format string of nginx, Apache, HAProxy or Envoy; default: the one that fits best.",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Tells which format fits a log, what is refused and why, the first records as read, and what is missing.

    Exit code 0: most lines can be read; 1: they cannot.
    """
    import json
    import sys
    from pathlib import Path

    from fingerpost.accesslog.check import check_lines
    from fingerpost.accesslog.rotation import UNPACKING_ERRORS, open_log
    from fingerpost.errors import FingerpostError

    if file == "-":
        found = check_lines(_lines(sys.stdin.buffer), log_format)
    else:
        path = Path(file)
        if path.is_dir():
            raise FingerpostError(f"{path} is a folder: name a log")
        if not path.exists():
            raise FingerpostError(f"{path} does not exist")
        try:
            with open_log(path) as log:
                found = check_lines(_lines(log), log_format)
        except UNPACKING_ERRORS as error:
            raise FingerpostError(f"{path} cannot be unpacked: {error}") from error
    if json_output:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    raise typer.Exit(0 if found.fits else 1)


def _lines(log: BinaryIO) -> Iterator[bytes]:
    """The lines of a log, long ones cut as an agent cuts them."""
    from fingerpost.accesslog.tail import MAX_LINE_BYTES

    while line := log.readline(MAX_LINE_BYTES):
        whole = line.endswith(b"\n")
        yield line.rstrip(b"\r\n")
        while not whole and (more := log.readline(MAX_LINE_BYTES)):
            whole = more.endswith(b"\n")


def _print(found: "LogCheck") -> None:
    from datetime import UTC, datetime

    from fingerpost.accesslog.formats import FORMAT_NAMES
    from fingerpost.clock import US
    from fingerpost.shown import visible

    if found.format is None:
        typer.echo(f"no known format fits ({', '.join(FORMAT_NAMES)}): give the log's format string by --format")
    else:
        typer.echo(f"format: {visible(found.format)}")
    typer.echo(f"{found.lines} lines, {found.parsed} parsed, {found.lines - found.parsed} refused")
    for reason, count in found.refused.most_common():
        typer.echo(f"  refused {count}: {visible(reason)}")
    for row in found.records:
        when = datetime.fromtimestamp(row["time"] / US, UTC).isoformat(timespec="milliseconds")
        told = {name: value for name, value in row.items() if name not in ("time", "service") and value is not None}
        typer.echo(f"  {when} {visible(', '.join(f'{name}={value}' for name, value in told.items()))}")
    if found.missing:
        typer.echo(f"missing: {', '.join(found.missing)} (docs/logs.md says what tells them)")
    for note in found.notes:
        typer.echo(f"note: {note}")
