"""`fingerpost promote|rollback|hold|history|decisions`: who is champion, and why."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fingerpost.cli.servers import settings_with_registry
from fingerpost.errors import FingerpostError
from fingerpost.shown import rich_text, visible

if TYPE_CHECKING:
    from fingerpost.abtest.promotion.promote import Outcome

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Reason = Annotated[str, typer.Option(help="Why; it goes into the record.")]


def register(app: typer.Typer) -> None:
    app.command()(promote)
    app.command()(approve)
    app.command()(rollback)
    app.command()(hold)
    app.command()(history)
    decisions = typer.Typer(help="Records of decisions.", no_args_is_help=True)
    decisions.command()(replay)
    app.add_typer(decisions, name="decisions")


def promote(
    version: Annotated[str, typer.Argument(help="The model version.")],
    skip_gates: Annotated[bool, typer.Option("--skip-gates", help="Promote whatever the gates say.")] = False,
    reason: _Reason = "",
    json_output: _Json = False,
) -> None:
    """Makes a version champion if its gates pass. Exit code 1: it was not promoted."""
    settings = settings_with_registry()
    from fingerpost.abtest.promotion.promote import promote_version
    from fingerpost.abtest.promotion.record import whoami

    done = promote_version(settings, version, whoami(), reason, skip_gates)
    _show(asdict(done), json_output, _decided(done))
    if done.action not in ("promote", "forced"):
        raise typer.Exit(1)


def approve(
    version: Annotated[str, typer.Argument(help="The model version.")], reason: _Reason = "", json_output: _Json = False
) -> None:
    """Approves a version for promotion, where the policy asks for that; needs FINGERPOST_APPROVAL_TOKEN."""
    settings = settings_with_registry()
    from fingerpost.abtest.promotion.outside import approve as note
    from fingerpost.abtest.promotion.record import whoami

    done = note(settings, version, whoami(), reason)
    _show({"version": version, **done}, json_output, f"version {version} is approved by {done['who']}: {done['why']}")


def rollback(reason: _Reason = "", json_output: _Json = False) -> None:
    """Rolls back to the previous champion."""
    settings = settings_with_registry()
    from fingerpost.abtest.promotion.promote import rollback as roll_back
    from fingerpost.abtest.promotion.record import whoami

    done = roll_back(settings, whoami(), reason or "by hand")
    text = f"version {done.version} is champion again, instead of {done.previous}; record {done.record}"
    _show(asdict(done), json_output, text)


def hold(
    state: Annotated[str, typer.Argument(help="on or off.")],
    until: Annotated[
        str | None, typer.Option(help="End of the hold, such as 2026-12-24T18:00; UTC where no zone is told.")
    ] = None,
    reason: _Reason = "",
) -> None:
    """Keeps everything from being promoted by itself, or lets it go on."""
    if state not in ("on", "off"):
        raise FingerpostError(f"hold {state!r} is not one of on, off")
    end = None
    if until:
        try:
            end = datetime.fromisoformat(until)
        except ValueError as error:
            raise FingerpostError(f"--until {until!r} is not a time such as 2026-12-24T18:00") from error
        end = end if end.tzinfo else end.replace(tzinfo=UTC)
        if end <= datetime.now(UTC):
            raise FingerpostError(f"--until {until} is past")
    settings = settings_with_registry()
    from fingerpost.abtest.promotion.promote import set_hold
    from fingerpost.abtest.promotion.record import whoami

    set_hold(settings, state == "on", whoami(), reason, end)
    typer.echo(f"promotion is {'on hold' + (f' until {end.isoformat()}' if end else '') if state == 'on' else 'free'}")


def history(
    most: Annotated[int, typer.Option(min=1, max=1000, help="Records shown.")] = 20, json_output: _Json = False
) -> None:
    """The decisions, newest first."""
    settings = settings_with_registry()
    from fingerpost.abtest.promotion.record import history as find
    from fingerpost.training.registry import Registry

    found = [asdict(each) for each in find(Registry(settings), most)]
    if json_output:
        _show(found, True, "")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("when", "what", "champion", "version", "who", "why", "done", "record")
    keys = ("when", "action", "champion", "challenger", "who", "why", "applied", "run_id")
    for each in found:
        table.add_row(*(rich_text(each[key]) for key in keys))
    Console().print(table)


def replay(
    record: Annotated[str, typer.Argument(help="Id of the record, from `fingerpost history`.")],
    json_output: _Json = False,
) -> None:
    """Decides again on the evidence of a record. Exit code 1: it comes out otherwise."""
    settings = settings_with_registry()
    from fingerpost.abtest.promotion.record import load_record
    from fingerpost.abtest.promotion.record import replay as decide_again
    from fingerpost.training.registry import Registry

    found = load_record(Registry(settings), record)
    decision, same = decide_again(found)
    told = {"record": record, "same": same, "recorded": found["decision"], "decision": decision.to_json()}
    text = f"{'the same' if same else 'NOT the same'}: {decision.outcome}\n{_gates(decision.to_json())}"
    _show(told, json_output, text)
    if not same:
        raise typer.Exit(1)


def _decided(done: "Outcome") -> str:
    what = {
        "promote": f"version {done.version} is champion now, instead of {done.previous}",
        "forced": f"version {done.version} is champion now, instead of {done.previous}; gates were skipped",
        "wait": f"version {done.version} is not promoted yet",
        "reject": f"version {done.version} is rejected",
    }[done.action]
    return f"{what}; record {done.record}\n{_gates(done.decision or {'gates': []})}"


def _gates(decision: dict[str, Any]) -> str:
    return "\n".join(f"  {gate['status']:4}  {gate['name']}: {visible(gate['reason'])}" for gate in decision["gates"])


def _show(document: Any, json_output: bool, text: str) -> None:
    typer.echo(json.dumps(document, indent=2, default=str) if json_output else text)
