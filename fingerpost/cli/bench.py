"""`fingerpost bench agent|scoring|engine`."""

from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    bench = typer.Typer(help="Measures what the program itself costs.", no_args_is_help=True)
    bench.command()(agent)
    bench.command()(scoring)
    bench.command()(engine)
    app.add_typer(bench, name="bench")


def agent(
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Log lines a second.")] = 200,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="For how long.")] = 30,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """CPU and memory of an agent beside a busy host."""
    from bench.agent import measure_agent

    _print(measure_agent(rate, seconds), json_output)


def scoring(
    hosts: Annotated[int, typer.Option(min=1, max=10_000, help="Hosts of the fleet.")] = 1000,
    categories: Annotated[int, typer.Option(min=1, max=4096, help="Categories of the service.")] = 100,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Cells predicted a second on one core."""
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    from bench.scoring import measure_scoring

    _print(measure_scoring(hosts, categories), json_output)


def engine(
    hosts: Annotated[int, typer.Option(min=1, max=10_000, help="Hosts of the fleet that is scored.")] = 1000,
    categories: Annotated[int, typer.Option(min=1, max=4096, help="Categories of its service.")] = 100,
    reporting: Annotated[int, typer.Option(min=1, max=5000, help="Hosts that report every 5 s.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Length of each measurement.")] = 10,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Scoring, ingest, freshness, table fetches, a model swap under load, and memory."""
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    from bench.engine import measure_engine

    _print(measure_engine(hosts, categories, reporting, seconds), json_output)


def _print(figures: dict[str, Any], json_output: bool) -> None:
    import json

    if json_output:
        typer.echo(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        typer.echo(f"{name:20} {value}")
