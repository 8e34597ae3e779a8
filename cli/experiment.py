"""`fingerpost experiment ...`: champion against challenger on live traffic."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fingerpost.cli.servers import settings_with_registry
from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError, NoDataError
from fingerpost.shown import visible

if TYPE_CHECKING:
    from fingerpost.abtest.experiment.store import Evaluation
    from fingerpost.abtest.experiment.verdict import Verdict
    from fingerpost.experiment import Experiment

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Champion against challenger on live traffic.", no_args_is_help=True)
    for command in (plan, start, status, stop, report, compare):
        group.command()(command)
    app.add_typer(group, name="experiment")


def plan(
    effect: Annotated[
        list[float] | None, typer.Option(help="Relative change of latency to find, such as -0.05; repeatable.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="How much of the past to measure slots on.")] = 24.0,
    spread: Annotated[
        float | None, typer.Option(min=0.0001, max=10, help="Instead: the spread of log ratios within pairs.")
    ] = None,
    power: Annotated[float, typer.Option(min=0.1, max=0.99, help="Wanted probability to find it.")] = 0.8,
    json_output: _Json = False,
) -> None:
    """Tells how many pairs of slots an experiment needs, from how much slots differ anyway."""
    import numpy as np

    from fingerpost.abtest.experiment.guardrails import Rules
    from fingerpost.abtest.experiment.power import pilot_differences
    from fingerpost.abtest.experiment.power import plan as plan_pairs
    from fingerpost.abtest.experiment.store import records_between
    from fingerpost.settings import get_settings

    settings, now_us = get_settings(), clock_us()
    effects = effect or [-0.02, -0.05, -0.1, -0.2]
    if bad := [each for each in effects if not -0.99 <= each <= 10 or each == 0]:
        raise FingerpostError(f"--effect {bad[0]} must be between -0.99 and 10, and not 0")
    if spread is None:
        span = (now_us - round(hours * 3.6e9), now_us)
        records = records_between(settings.lake, settings.service, *span)
        measured = pilot_differences(
            records, settings.experiment_slot_s, settings.experiment_washout_s, settings.service
        )
        count = len(measured)
    else:
        measured, count = np.random.default_rng(7).normal(0.0, spread, 2000), 0
    found = plan_pairs(measured, effects, Rules.of(settings), settings.experiment_pairs, power, pilot_pairs=count)
    minutes = 2 * settings.experiment_slot_s / 60
    lines = [f"log ratios within pairs spread by {found.spread:.4f} (measured on {count} pairs)"]
    for need in found.needs:
        reach = f"{need.pairs} pairs ({need.pairs * minutes:.0f} min)" if need.pairs else "more pairs than looked at"
        lines.append(
            f"{need.effect:+.1%}: found within {found.planned} pairs with probability {need.found:.2f}; "
            f"with {found.power:.2f} within {reach}"
        )
    _show({**asdict(found), "minutes_per_pair": minutes}, json_output, "\n".join(lines))


def start(
    slot: Annotated[float | None, typer.Option(min=1, max=86_400, help="Length of a slot, seconds.")] = None,
    washout: Annotated[float | None, typer.Option(min=0, help="Left out at each slot's beginning, seconds.")] = None,
    pairs: Annotated[int | None, typer.Option(min=1, max=50_000, help="Pairs of slots at the most.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="A further version to compare as well; repeatable.")] = None,
    json_output: _Json = False,
) -> None:
    """Starts an experiment of challenger against champion, or goes on with the one that runs."""
    from fingerpost.abtest.experiment.store import start as begin

    settings = settings_with_registry()
    begun = begin(settings, slot, washout, pairs, others=also or ())
    text = f"{'started' if begun.new else 'goes on'}: {_described(begun.experiment)}"
    _show({**asdict(begun.experiment), "new": begun.new}, json_output, text)


def status(json_output: _Json = False) -> None:
    """Shows the experiment that runs, and its verdict so far."""
    from fingerpost.abtest.experiment.store import evaluate_all, records_of, running, still_in_force

    settings = settings_with_registry()
    experiment = running(settings)
    if experiment is None:
        past = records_of(settings)
        lines = [
            f"{record['experiment']['id']}: {(record['verdict'] or {}).get('verdict', 'unknown')} "
            f"({visible(str(record['why']))})"
            for record in past[-10:]
        ]
        _show({"running": False, "past": past}, json_output, "\n".join(["no experiment runs", *lines]))
        return
    found, force = evaluate_all(settings, experiment), still_in_force(settings, experiment)
    warning = "" if force else "its versions are no longer champion and challenger: stop it\n"
    told = "" if json_output else "\n".join(_told(each.verdict, treatment=_name(each)) for each in found)
    others = [{"version": each.version, **each.verdict.to_json()} for each in found[1:]]
    document = {"running": True, "still_in_force": force, **found[0].verdict.to_json(), "others": others}
    _show(document, json_output, f"{_described(experiment)}\n{warning}{told}")


def stop(
    why: Annotated[str, typer.Option(help="What is noted as the reason.")] = "stopped by hand",
    json_output: _Json = False,
) -> None:
    """Ends the experiment that runs, and keeps its record with the verdict so far."""
    from fingerpost.abtest.experiment.store import Evaluation, evaluate_all, running
    from fingerpost.abtest.experiment.store import stop as end

    settings = settings_with_registry()
    try:
        experiment = running(settings)
    except FingerpostError as error:
        end(settings, None, why)
        raise FingerpostError(f"removed an invalid experiment from the registry: {error}") from error
    if experiment is None:
        raise FingerpostError("no experiment runs")
    judged: list[Evaluation] = []
    unknown = ""
    try:
        judged = evaluate_all(settings, experiment)
    except Exception as error:  # what cannot be judged can be stopped all the same
        unknown = f"it cannot be judged: {type(error).__name__}: {error}"
    verdict = judged[0].verdict if judged else None
    path = end(settings, verdict, why, others=judged[1:])
    outcome = f"{verdict.verdict} ({verdict.reason})" if verdict else unknown
    found = {"id": experiment.id, "record": str(path), **(verdict.to_json() if verdict else {"verdict": None})}
    _show(found, json_output, f"{experiment.id} is stopped: {visible(outcome)}; record: {path}")


def report(
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for report and pictures.")] = None,
    json_output: _Json = False,
) -> None:
    """Writes the running experiment's report (Markdown) and pictures."""
    from fingerpost.abtest.experiment.store import evaluate_all, running
    from fingerpost.abtest.reports import write_experiment_report

    settings = settings_with_registry()
    experiment = running(settings)
    if experiment is None:
        raise FingerpostError("no experiment runs; records of past ones: `fingerpost experiment status --json`")
    found, *others = evaluate_all(settings, experiment)
    folder = out or settings.home / "reports" / "experiments" / experiment.id
    write_experiment_report(found, folder)
    for each in others:
        write_experiment_report(each, folder / each.arm)
    text = f"{experiment.id}: {found.verdict.verdict}; report in {folder}"
    _show({"folder": str(folder), **found.verdict.to_json()}, json_output, text)


def compare(
    control: Annotated[str, typer.Argument(help="The arm to compare with, such as least_request.")],
    treatment: Annotated[str, typer.Argument(help="The arm that is judged, such as fingerpost.")],
    since: Annotated[str, typer.Option(help="From when, UTC, such as 2026-01-31T10:00; keep it while you look again.")],
    block: Annotated[float, typer.Option(min=1, max=86_400, help="Length of the blocks of time, seconds.")] = 60.0,
    json_output: _Json = False,
) -> None:
    """Judges arms that ran side by side (FINGERPOST_ARM_SHARES), paired by blocks of time."""
    from fingerpost.abtest.experiment.guardrails import Rules
    from fingerpost.abtest.experiment.pairs import block_pairs
    from fingerpost.abtest.experiment.store import records_between, settle_us
    from fingerpost.abtest.experiment.verdict import judge
    from fingerpost.settings import get_settings

    settings, now_us = get_settings(), clock_us()
    try:
        begin = datetime.fromisoformat(since)
    except ValueError as error:
        raise FingerpostError(f"--since {since!r} is not a time such as 2026-01-31T10:00") from error
    begin_us = round((begin if begin.tzinfo else begin.replace(tzinfo=UTC)).timestamp() * 1e6)
    records = records_between(settings.lake, settings.service, begin_us, now_us)
    pairs = block_pairs(records, (control, treatment), block, now_us - settle_us(settings))
    if not len(pairs):
        raise NoDataError(
            f"no block of {block:g} s since {since} has enough requests of both {control} and {treatment}"
        )
    verdict = judge(pairs, Rules.of(settings), max(len(pairs), settings.experiment_pairs), over=False)
    found = {"control": control, "treatment": treatment, **verdict.to_json()}
    _show(found, json_output, "" if json_output else _told(verdict, control, treatment))


def _told(verdict: "Verdict", control: str = "champion", treatment: str = "challenger") -> str:
    """The verdict with a table of its effects, as text for the terminal."""
    from rich.console import Console
    from rich.table import Table

    title = f"{verdict.pairs} pairs; interval holds at any look ({1 - verdict.alpha:.0%})"
    table = Table("metric", control, treatment, "change", "interval", title=title)
    for each in verdict.effects.values():
        change = f"{'x' if each.unit == 'ratio' else '+'}{each.estimate:.4g}"
        sides = (f"{value:.5g}" for value in (each.champion, each.challenger))
        table.add_row(each.metric, *sides, change, f"{each.low:.4g} to {each.high:.4g}")
    console = Console()
    with console.capture() as captured:
        console.print(table)
    left_out = ", ".join(f"{count} {why}" for why, count in verdict.skipped.items())
    trusts = ", ".join(f"{arm} {trust:.2f}" for arm, trust in verdict.trusts.items())
    return (
        f"{captured.get()}{verdict.verdict}: {visible(verdict.reason)}"
        f"{f'; pairs left out: {left_out}' if left_out else ''}"
        f"{f'; trust in predictions: {trusts}' if trusts else ''}"
    )


def _name(found: "Evaluation") -> str:
    """What a challenger is called in a table of several."""
    return f"version {found.version}" if found.experiment.others else "challenger"


def _described(experiment: "Experiment") -> str:
    begin, end = (datetime.fromtimestamp(each / 1e6, UTC) for each in (experiment.begin_us, experiment.end_us))
    challengers = ", ".join((experiment.challenger, *experiment.others))
    return (
        f"{experiment.id}: version {challengers} against {experiment.champion}, {experiment.pairs} pairs of "
        f"{experiment.slot_s:g} s, {begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC"
    )


def _show(document: dict[str, Any], json_output: bool, text: str) -> None:
    typer.echo(json.dumps(document, indent=1) if json_output else text)
