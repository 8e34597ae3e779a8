"""`fingerpost event`: tells the engine of deploys, configuration changes and campaigns, lists and withdraws them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import typer

from fingerpost.cli.options import EngineUrl

_Service = Annotated[str | None, typer.Option("--service", help="Service; default FINGERPOST_SERVICE.")]
_Host = Annotated[str, typer.Option("--host", help="The host it concerns; default: all of the service.")]
_At = Annotated[str, typer.Option("--at", help="Begin, `2026-11-27T08:00` (UTC) or with an offset; default: now.")]
_Until = Annotated[str, typer.Option("--until", help="End, as `--at`; default: it has no length.")]
_Note = Annotated[str, typer.Option("--note", help="A few words for people, at most 200 characters.")]


_KINDS = {
    "deploy": "Tells of a deploy, or of one that is planned.",
    "config": "Tells of a change of configuration, or of one that is planned.",
    "campaign": "Tells of a campaign, or of anything else that changes the traffic, best ahead and with `--until`.",
}


def register(app: typer.Typer) -> None:
    commands = typer.Typer(help="Events that models learn from: tell, list, withdraw.", no_args_is_help=True)
    for kind, about in _KINDS.items():
        commands.command(kind, help=about)(_telling(kind))
    commands.command("list")(list_events)
    commands.command("withdraw")(withdraw)
    app.add_typer(commands, name="event")


def _telling(kind: str) -> Callable[..., None]:
    def tell(
        service: _Service = None,
        host: _Host = "",
        at: _At = "",
        until: _Until = "",
        note: _Note = "",
        engine: EngineUrl = None,
    ) -> None:
        _tell(kind, service, host, at, until, note, engine)

    return tell


def list_events(
    service: _Service = None,
    engine: EngineUrl = None,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists the events of a service that are to come, or ended in the last eight days."""
    import json

    from fingerpost.cli.hosts import ask_engine, engine_of, service_of
    from fingerpost.engine_api import events_call, events_of

    name = service_of(service)
    found = events_of(ask_engine(*engine_of(engine), events_call(name)))
    if json_output:
        typer.echo(json.dumps([each.listed() for each in found], indent=2))
        return
    if not found:
        typer.echo(f"no events of {name!r} are known")
    for each in found:
        until = "" if each.until_us is None else f" to {_shown(each.until_us)}"
        gone = "" if each.withdrawn_us is None else f"withdrawn {_shown(each.withdrawn_us)}  "
        about = f"{each.kind}  {each.host or 'all hosts'}  {gone}{each.note}".rstrip()
        typer.echo(f"{each.id}  {_shown(each.at_us)}{until}  {about}")


def withdraw(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Of the event, as `fingerpost event list` tells it.")],
    service: _Service = None,
    engine: EngineUrl = None,
) -> None:
    """Withdraws an event: from now on models do not know of it."""
    from fingerpost.cli.hosts import ask_engine, engine_of, service_of
    from fingerpost.engine_api import checked, withdrawal_call

    name = service_of(service)
    checked(ask_engine(*engine_of(engine), withdrawal_call(name, event_id)))
    typer.echo(f"event {event_id} of {name} is withdrawn")


def _tell(kind: str, service: str | None, host: str, at: str, until: str, note: str, engine: str | None) -> None:
    from fingerpost.cli.hosts import ask_engine, engine_of, service_of
    from fingerpost.clock import clock_us
    from fingerpost.engine_api import checked, event_call
    from fingerpost.events import Event

    begin_us = _time_us(at, "--at") if at else clock_us()
    end_us = _time_us(until, "--until") if until else None
    event = Event(kind, service_of(service), host, begin_us, end_us, note)
    checked(ask_engine(*engine_of(engine), event_call(event)))
    typer.echo(f"{kind} of {host or event.service} at {_shown(begin_us)} is known, as {event.id}")


def _time_us(text: str, option: str) -> int:
    from fingerpost.clock import US
    from fingerpost.errors import FingerpostError

    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "write 2026-11-27T08:00, and behind it +01:00 if it is not UTC"
        raise FingerpostError(f"{option} {text!r} is no time: {hint}") from error
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * US)


def _shown(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
