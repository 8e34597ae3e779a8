"""`make demo`, which is `python -m examples.demo`; and `... host`, `... load`: the hosts and clients of its fleet."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


@app.callback()
def demo(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End after the story instead of staying up.")] = False,
    short: Annotated[
        bool, typer.Option("--short", help="Only up to the first predictions: no routing by them, drift, promotion.")
    ] = False,
    skip_gates: Annotated[
        bool,
        typer.Option("--skip-gates", help="Let the bad version through at the end, for the watch to take it back."),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON; progress goes to stderr.")
    ] = False,
    hosts: Annotated[int, typer.Option(min=3, max=24, help="Hosts of the fleet, in three classes.")] = 6,
    seconds: Annotated[float, typer.Option(min=40, max=3600, help="For how long the fleet is driven, at first.")] = 60,
    rate: Annotated[float, typer.Option(min=1, max=1000, help="Requests a second, on average.")] = 80,
    seed: Annotated[int, typer.Option(help="The same seed plans the same requests.")] = 1,
) -> None:
    """Runs the whole loop on this machine: a real fleet, its telemetry, a model that routes, and what keeps it good."""
    if context.invoked_subcommand:
        return
    from examples.demo.runner import Demo, DemoOptions
    from fingerpost.errors import FingerpostError
    from fingerpost.settings import get_settings

    if short and skip_gates:
        raise FingerpostError("--short ends before there is a version to let through: leave out --skip-gates")
    Demo(get_settings(), DemoOptions(once, json_output, hosts, seconds, rate, seed, short, skip_gates)).run()


@app.command()
def host(
    host_class: Annotated[str, typer.Option("--class", help="compute, storage or general.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")],
    name: Annotated[str | None, typer.Option(help="Name of the host; default CLASS-PORT.")] = None,
    service: Annotated[str | None, typer.Option(help="Service it serves; default FINGERPOST_SERVICE.")] = None,
    middleware_socket: Annotated[
        Path | None, typer.Option(help="Socket of the agent that takes its request records.")
    ] = None,
    job: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Be slow every so many seconds, for so many seconds, so many times."),
    ] = None,
) -> None:
    """Serves one demo host, until stopped."""
    from examples.demo.classes import HOST_CLASSES, Job
    from examples.demo.host import serve
    from fingerpost.errors import FingerpostError
    from fingerpost.names import check_name
    from fingerpost.settings import LOOPBACK, get_settings

    if host_class not in HOST_CLASSES:
        raise FingerpostError(f"--class {host_class!r} is not one of {', '.join(HOST_CLASSES)}")
    name, service = name or f"{host_class}-{port}", service or get_settings().service
    try:
        check_name(name, "--name")
        check_name(service, "--service")
        made = Job(*job) if job else None
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    serve(host_class, LOOPBACK, port, service, name, middleware_socket, made)


@app.command()
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

    from examples.demo.load import arrivals, drive
    from fingerpost.errors import FingerpostError

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


if __name__ == "__main__":
    from fingerpost.cli import run

    run(app)
