"""`fingerpost fleet host|load`: the demo fleet's hosts and clients, one process each."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    fleet = typer.Typer(help="The parts of the local demo fleet.", no_args_is_help=True)
    fleet.command()(host)
    fleet.command()(load)
    app.add_typer(fleet, name="fleet")


def host(
    host_class: Annotated[str, typer.Option("--class", help="compute, storage or general.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")],
    name: Annotated[str | None, typer.Option(help="Name of the host; default CLASS-PORT.")] = None,
    service: Annotated[str | None, typer.Option(help="Service it serves; default FINGERPOST_SERVICE.")] = None,
    middleware_socket: Annotated[
        Path | None, typer.Option(help="Socket of the agent that takes its request records.")
    ] = None,
) -> None:
    """Serves one demo host, until stopped."""
    from fingerpost.errors import FingerpostError
    from fingerpost.names import check_name
    from fingerpost.settings import LOOPBACK, get_settings
    from fleet.demo.classes import HOST_CLASSES
    from fleet.demo.host import serve

    if host_class not in HOST_CLASSES:
        raise FingerpostError(f"--class {host_class!r} is not one of {', '.join(HOST_CLASSES)}")
    name, service = name or f"{host_class}-{port}", service or get_settings().service
    try:
        check_name(name, "--name")
        check_name(service, "--service")
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    serve(host_class, LOOPBACK, port, service, name, middleware_socket)


def load(
    url: Annotated[str, typer.Option(help="Where to send the requests, such as http://127.0.0.1:8080.")],
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="For how long.")] = 60,
    rate: Annotated[float, typer.Option(min=0.1, max=5000, help="Requests a second, on average.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed plans the same requests.")] = 1,
) -> None:
    """Sends a bursting mix of requests and prints what became of them, as JSON."""
    import asyncio
    import json
    import statistics

    from fingerpost.errors import FingerpostError
    from fleet.demo.load import arrivals, drive

    if not url.startswith(("http://", "https://")):
        raise FingerpostError(f"--url {url!r} must begin with http:// or https://")
    report = asyncio.run(drive(url, arrivals(rate, seconds, seed)))
    durations = report.durations_s
    cuts = statistics.quantiles(durations, n=100) if len(durations) > 1 else [0.0] * 99
    answer = {
        "sent": report.sent,
        "statuses": dict(report.statuses),
        "latency_p50_s": round(cuts[49], 5),
        "latency_p99_s": round(cuts[98], 5),
    }
    typer.echo(json.dumps(answer))
