"""`fingerpost worth PATH...`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(worth)


def worth(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", exists=True, help="A lake, a folder of foreign telemetry, or access logs."),
    ],
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            "--format",
            help="A name, or the format string of nginx, Apache, HAProxy or Envoy; default: the one that fits best.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="How to read foreign telemetry (TOML).")
    ] = None,
    service: Annotated[str | None, typer.Option(help="The service, of a lake with several.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Requests that a host serves at once; else as measured.")
    ] = None,
    cores: Annotated[float | None, typer.Option(min=0.1, max=4096, help="Cores of a host; else as told.")] = None,
    slo_ms: Annotated[
        float | None, typer.Option(min=0.01, help="The p99 that a load must keep; else twice the present one.")
    ] = None,
    loads: Annotated[str, typer.Option(help="Shares of the bound, beside the present load.")] = "0.3,0.5,0.7,0.9",
    policies: Annotated[
        str, typer.Option(help="Policies of the simulator; least_request and fingerpost must be among them.")
    ] = "least_request,orca,fingerpost",
    proxies: Annotated[int, typer.Option(min=1, max=100, help="Proxies that route.")] = 1,
    fleets: Annotated[
        int, typer.Option(min=1, max=20, help="Fleets that fit what was measured; their spread is the uncertainty.")
    ] = 2,
    max_requests: Annotated[
        int, typer.Option(min=1000, max=20_000_000, help="Requests that are read at most.")
    ] = 1_000_000,
    highest: Annotated[bool, typer.Option(help="Also look for the highest load of each policy.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write one HTML page.")] = None,
) -> None:
    """Tells what predictive routing is worth for your fleet, from its logs or records; installs and changes nothing."""
    import json

    from fingerpost.accesslog.formats import log_format as format_named
    from fingerpost.cli.simulate import number
    from fingerpost.errors import FingerpostError
    from fingerpost.lake import write_text_atomically
    from fingerpost.simulator.policies import parse_policy

    if log_format is not None:
        try:
            format_named(log_format)
        except FingerpostError as error:
            raise FingerpostError(f"--log-format: {error}") from None
    names = tuple(name.strip() for name in policies.split(","))
    for name in names:
        try:
            parse_policy(name)
        except ValueError as error:
            raise FingerpostError(f"--policies: {error}") from None
    if missing := {"least_request", "fingerpost"} - {*names}:
        raise FingerpostError(
            f"--policies: {', '.join(sorted(missing))} must be among them: the gain is told of the two"
        )
    shares = tuple(number(each, "--loads", 0.001, 1.2) for each in loads.split(",")) if loads else ()

    from fingerpost.simulator.worth.page import html as page
    from fingerpost.simulator.worth.page import text
    from fingerpost.simulator.worth.worth import Options, what_it_is_worth

    options = Options(slots, cores, None if slo_ms is None else slo_ms / 1000, proxies, fleets, names, shares, highest)
    found = what_it_is_worth(
        paths, options, log_format, mapping, service, max_requests,
        progress=lambda line: typer.echo(f"fingerpost: {line}", err=True),
    )  # fmt: skip
    if html is not None:
        write_text_atomically(html, page(found))
        typer.echo(f"wrote {html}", err=True)
    typer.echo(json.dumps(found.as_dict(), indent=1) if json_output else text(found))
