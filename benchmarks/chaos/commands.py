"""`python -m benchmarks chaos` and `soak`: both run a platform in namespaces of its own, and judge it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

_Json = Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")]
_Rate = Annotated[float, typer.Option(min=1, max=200, help="Requests a second.")]


def chaos(
    minutes: Annotated[float, typer.Option(min=0.01, max=1440, help="For how long faults strike.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed draws the same faults.")] = 1,
    rate: _Rate = 15,
    only: Annotated[str, typer.Option(help="Parts of the names of faults, with commas; all.")] = "",
    train: Annotated[bool, typer.Option(help="Run flows and pipelines, and judge the registry.")] = True,
    json_output: _Json = False,
) -> None:
    """Strikes a small real platform under load with one fault after another, and judges what became of it.

    Needs root, or user namespaces. Exit code 1: something does not hold.
    """
    from benchmarks.chaos.run import Options, measure_chaos

    names = [name.strip() for name in only.split(",") if name.strip()]
    options = Options(minutes, seed, rate, only=names, train=train)
    _judge(lambda: measure_chaos(options, lambda text: typer.echo(text, err=True)), json_output)


def soak(
    minutes: Annotated[float, typer.Option(min=1, max=10_080, help="For how long.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed draws the same churn.")] = 1,
    rate: _Rate = 5,
    json_output: _Json = False,
) -> None:
    """Memory of every part and bytes on disk of a small real platform over time, while hosts and routes come and go.

    Needs root, or user namespaces. Exit code 1: something grows that must not.
    """
    from benchmarks.chaos.soak import measure_soak

    _judge(lambda: measure_soak(minutes, seed, rate, lambda text: typer.echo(text, err=True)), json_output)


def _judge(measure: Callable[[], dict[str, Any]], json_output: bool) -> None:
    from examples.fleet.network import enter, inside

    if not inside():
        raise typer.Exit(enter(sys.argv[1:], "benchmarks"))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # The first process of a namespace does not end at a signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    verdict = measure()
    if json_output:
        typer.echo(json.dumps(verdict, indent=1))
    else:
        for name, value in verdict.items():
            rows = value if isinstance(value, list) and value and isinstance(value[0], dict) else None
            typer.echo(f"{name:24} {'' if rows else value}")
            for row in rows or ():
                typer.echo("  " + "  ".join(f"{key} {shown}" for key, shown in row.items()))
    if not verdict["holds"]:
        raise typer.Exit(1)
