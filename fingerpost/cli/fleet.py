"""`fingerpost fleet host|load`: the demo fleet's hosts and clients, one process each."""

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
) -> None:
    """Serves one demo host, until stopped."""
    from fingerpost.errors import FingerpostError
    from fingerpost.settings import LOOPBACK
    from fleet.demo.classes import HOST_CLASSES
    from fleet.demo.host import serve

    if host_class not in HOST_CLASSES:
        raise FingerpostError(f"--class {host_class!r} is not one of {', '.join(HOST_CLASSES)}")
    serve(host_class, LOOPBACK, port)


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
