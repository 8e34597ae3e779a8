"""`fingerpost simulate`."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    scenario: Annotated[Path, typer.Argument(help="Scenario file, JSON; docs/simulator.md has its fields.")],
    policies: Annotated[str, typer.Option(help="Names with commas, or `all`.")] = "all",
    loads: Annotated[str, typer.Option(help="Shares of the bound, with commas.")] = "0.5,0.7,0.8,0.9,0.95",
    pickers: Annotated[str, typer.Option(help="Numbers of pickers, with commas.")] = "1,10",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds 1, 2, ...")] = 3,
    refine: Annotated[bool, typer.Option("--refine", help="Look for the highest load to 0.01.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for plots.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Simulates a fleet under routing policies, at shares of what the fleet could carry at most."""
    import json

    from fingerpost.errors import FingerpostError
    from fingerpost.simulator.policies import POLICIES, parse_policy
    from fingerpost.simulator.scenario import load_scenario

    names = list(POLICIES) if policies == "all" else [name.strip() for name in policies.split(",")]
    for name in names:
        try:
            parse_policy(name)
        except ValueError as error:
            raise FingerpostError(f"--policies: {error}") from None
    shares = [number(text, "--loads", 0.001, 1.5) for text in loads.split(",")]
    counts = [int(number(text, "--pickers", 1, 1000, whole=True)) for text in pickers.split(",")]
    described = load_scenario(scenario)

    # Compiled code is loaded, or the first time made, only when the arguments are known to be good.
    from fingerpost.simulator.sweep import run_sweep

    typer.echo("preparing (the first run compiles, which takes up to a minute) ...", err=True)
    sweep = run_sweep(described, names, shares, counts, seeds, refine, lambda line: typer.echo(line, err=True))
    if out is not None:
        from fingerpost.simulator.plots import write_plots

        for path in write_plots(sweep, out):
            typer.echo(f"wrote {path}", err=True)
    figures = sweep.as_dict()
    if json_output:
        typer.echo(json.dumps(figures, indent=1))
    else:
        _table(figures)


def number(text: str, option: str, low: float, high: float, whole: bool = False) -> float:
    """A number of an option; an error names the option and the bounds."""
    from fingerpost.errors import FingerpostError

    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or (whole and value != int(value)):
        raise FingerpostError(
            f"{option}: {text.strip()!r} is not {'a whole number' if whole else 'a number'} from {low:g} to {high:g}"
        )
    return value


def _table(figures: dict[str, Any]) -> None:
    bounds = ", ".join(f"{bound:.0f}" for bound in figures["bounds_rps"])
    typer.echo(f"{figures['scenario']}: bound {bounds} requests/s, SLO {figures['slo_s'] * 1000:g} ms at p99")
    typer.echo(
        f"{'policy':20} {'pickers':>7} {'load':>6} {'p50 ms':>9} {'p90 ms':>9} {'p99 ms':>9} {'p99.9 ms':>9} "
        f"{'goodput':>9} {'errors':>8}"
    )
    for row in figures["points"]:
        times = " ".join(f"{row[name] * 1000:9.1f}" for name in ("p50_s", "p90_s", "p99_s", "p999_s"))
        typer.echo(
            f"{row['policy']:20} {row['pickers']:7} {row['load']:6.3f} {times} {row['goodput_rps']:9.1f} "
            f"{row['errors']:8.5f}{'  overloaded' if row['overloaded'] else ''}"
        )
    for row in figures["highest_load"]:
        typer.echo(f"highest load held by {row['policy']:20} with {row['pickers']:3} pickers: {row['load']:.3f}")
