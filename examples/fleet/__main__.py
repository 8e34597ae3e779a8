"""`make fleet`, which is `python -m examples.fleet`; and `... host`, `... load`: what runs on its machines."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


@app.callback()
def fleet(
    context: typer.Context,
    short: Annotated[bool, typer.Option("--short", help="Shorter spans, and no training: some two minutes.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON; progress goes to stderr.")
    ] = False,
) -> None:
    """Runs a fleet of machines that share a network and nothing else, and shows what becomes of requests.

    Eight hosts of three classes, two services, two proxies and a control plane, each a network namespace with files of
    its own. It learns to route over the network alone; then a host joins, one drains, one dies, the control plane is
    cut off, and the engine is replaced. Exit code 1: something of it failed. Needs root, or user namespaces.
    """
    if context.invoked_subcommand:
        return
    from examples.fleet.network import enter, inside

    if not inside():
        sys.exit(enter(sys.argv[1:]))
    from examples.fleet.story import run
    from fingerpost.settings import get_settings

    sys.exit(run(get_settings(), short, json_output))


@app.command()
def host(
    host_class: Annotated[str, typer.Option("--class", help="compute, storage or general.")],
    address: Annotated[str, typer.Option(help="Address to listen on.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")],
    name: Annotated[str, typer.Option(help="Name of the host.")],
    service: Annotated[str, typer.Option(help="Service it serves.")],
    middleware_socket: Annotated[
        Path | None, typer.Option(help="Socket of the agent that takes its request records.")
    ] = None,
) -> None:
    """Serves one host of the fleet, until stopped."""
    from examples.fleet.host import serve

    serve(host_class, address, port, service, name, middleware_socket)


@app.command()
def load(
    target: Annotated[
        list[str], typer.Option(help="SERVICE@URL=RATE: where to send so many requests a second; repeated.")
    ],
) -> None:
    """Sends a bursting mix of requests to every target until stopped; prints what became of them, as JSON."""
    import asyncio
    import json

    from examples.fleet.load import drive_all

    targets = []
    for each in target:
        service, _, rest = each.partition("@")
        url, _, rate = rest.rpartition("=")
        targets.append((service, url, float(rate)))
    typer.echo(json.dumps(asyncio.run(drive_all(targets))))


if __name__ == "__main__":
    from fingerpost.cli import run as run_app

    run_app(app)
