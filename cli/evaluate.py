"""`fingerpost evaluate DIR`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fingerpost.training.backtest import BacktestReport


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A lake, or foreign telemetry.")
    ],
    window: Annotated[float, typer.Option(min=0.1, max=3600, help="Length of a window, seconds.")] = 10.0,
    test_share: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Share of the windows, the latest, to test on.")
    ] = 0.3,
    mapping: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="How to read foreign telemetry (TOML).")
    ] = None,
    service: Annotated[str | None, typer.Option(help="The service, of a lake with several.")] = None,
    unseen_hosts: Annotated[bool, typer.Option("--unseen-hosts", help="Also score held-out hosts.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Tells how much better than remembering telemetry can be predicted: trains on its past, tests on the rest."""
    import json
    import sys

    from fingerpost.settings import get_settings
    from fingerpost.training.backtest import backtest

    found = backtest(
        folder, window, test_share, get_settings(), mapping, service, unseen_hosts,
        progress=lambda text: print(f"fingerpost: {text} ...", file=sys.stderr),
    )  # fmt: skip
    if json_output:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)


def _print(found: "BacktestReport") -> None:
    from rich.console import Console
    from rich.table import Table

    from fingerpost.shown import visible
    from fingerpost.training.ranking import choices_in_words

    views = next((list(each.naive) for each in found.scores.values() if each), [])
    table = Table("target", "rows", "model", *views, "best", "skill", title="mean |log error| of the next window")
    for name, each in {**found.scores, **({"unseen hosts": found.unseen} if found.unseen else {})}.items():
        if each is None:
            table.add_row(name, "0", *["-"] * (len(views) + 2), "not measured")
            continue
        errors = [f"{each.naive[view]:.4f}" for view in views]
        table.add_row(name, str(each.rows), f"{each.model:.4f}", *errors, each.best_naive, f"{each.skill:+.3f}")
    Console().print(table)
    table = Table("target", "by requests", "ceiling", "share of it", title="skill: by requests, and what noise leaves")
    for name, each in found.scores.items():
        ceiling = found.ceilings.get(name)
        if each is not None:
            highest = (f"{ceiling.skill:.3f}", f"{ceiling.share:.0%}") if ceiling else ("-", "-")
            table.add_row(name, f"{each.request_skill:+.3f}", *highest)
    Console().print(table)
    typer.echo(
        f"{found.requests} requests ({found.source}), {found.hosts} hosts, {found.categories} categories; trained on "
        f"{found.train_rows} rows from {found.train_from}, tested on {found.test_rows} from {found.test_from}"
    )
    if found.ranking.groups:
        typer.echo(
            f"regret of the choice of hosts: {found.ranking.regret:.1%} (baseline {found.ranking.remembered:.1%}, "
            f"at random {found.ranking.chance:.1%}); {choices_in_words(found.replay)}"
        )
    else:
        typer.echo("no category was served by several hosts: there is no choice to score")
    for reason, count in sorted(found.refused.items()):
        typer.echo(f"refused {count} rows: {visible(reason)}")
