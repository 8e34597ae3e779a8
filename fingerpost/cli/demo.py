"""`fingerpost demo`."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
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
    from demo.runner import Demo, DemoOptions
    from fingerpost.settings import get_settings

    Demo(get_settings(), DemoOptions(once, json_output, hosts, seconds, rate, seed, short, skip_gates)).run()
