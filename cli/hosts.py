"""`fingerpost hosts`: which hosts the engine knows, and what an operator does with them."""

from typing import TYPE_CHECKING, Annotated

import typer

from fingerpost.announcement import DRAINING, REMOVED, SERVING, Notice
from fingerpost.cli.options import EngineUrl

if TYPE_CHECKING:
    from fingerpost.engine_api import Answer, Call, ListedHost
    from fingerpost.tokens import Token

_Service = Annotated[str | None, typer.Option("--service", help="Service; default FINGERPOST_SERVICE.")]
_Host = Annotated[str, typer.Argument(help="Name of the host.")]
# An agent that was heard of so lately runs.
_LATELY_S = 90.0


def register(app: typer.Typer) -> None:
    commands = typer.Typer(help="Hosts that the engine knows: list, drain, resume, remove.", no_args_is_help=True)
    commands.command("list")(list_hosts)
    commands.command("drain")(drain)
    commands.command("resume")(resume)
    commands.command("remove")(remove)
    app.add_typer(commands, name="hosts")


def list_hosts(
    service: _Service = None,
    engine: EngineUrl = None,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists the hosts of a service: address, zone, class, state, and when each was last heard of."""
    import json
    import time
    from dataclasses import asdict

    hosts = known(*engine_of(engine), service_of(service))
    if json_output:
        typer.echo(json.dumps([asdict(each) for each in hosts], indent=2))
        return
    if not hosts:
        typer.echo(f"no host of {service_of(service)!r} has reported")
    width = max((len(each.host) for each in hosts), default=0)
    for each in hosts:
        about, ago_s = each.about, time.time() - each.heard_s
        words = (f"zone {about.zone}" if about.zone else "", f"class {about.host_class}" if about.host_class else "")
        shown = [about.address or "no address", *words, each.state, f"heard {ago_s:.0f} s ago"]
        shown += [] if each.reports else ["has not reported yet"]
        typer.echo(f"{each.host:{width}}  {', '.join(word for word in shown if word)}")


def drain(host: _Host, service: _Service = None, engine: EngineUrl = None) -> None:
    """Lets a host end what it has and sends it nothing new, until its agent starts anew or it is resumed."""
    tell(*engine_of(engine), Notice(service_of(service), host, DRAINING))
    typer.echo(f"{host} drains: routers send it nothing new")


def resume(host: _Host, service: _Service = None, engine: EngineUrl = None) -> None:
    """Sends requests to a host again that drains or was removed."""
    tell(*engine_of(engine), Notice(service_of(service), host, SERVING))
    typer.echo(f"{host} serves again, ramped up as a new host is")


def remove(host: _Host, service: _Service = None, engine: EngineUrl = None) -> None:
    """Removes a host from tables and endpoints, with what is known of it; for one that is gone or was misspelt."""
    import time

    from fingerpost.errors import FingerpostError

    where, name = engine_of(engine), service_of(service)
    found = {each.host: each for each in known(*where, name)}
    if host not in found:
        raise FingerpostError(f"the engine knows no host {host!r} of service {name!r}: see `fingerpost hosts list`")
    tell(*where, Notice(name, host, REMOVED))
    typer.echo(f"{host} is removed")
    if time.time() - found[host].heard_s < _LATELY_S:
        typer.echo("its agent was heard of just now: when that starts anew, the host is back; stop it there")


def tell(url: str, token: "Token", notice: Notice) -> None:
    """Sends a notice to the engine.

    Raises:
        FingerpostError: the engine does not take it.
    """
    from fingerpost.engine_api import checked, notice_call

    checked(ask_engine(url, token, notice_call(notice)))


def known(url: str, token: "Token", service: str) -> "list[ListedHost]":
    """The hosts of a service as the engine lists them.

    Raises:
        FingerpostError: the engine does not answer.
    """
    from fingerpost.engine_api import hosts_call, hosts_of

    return hosts_of(ask_engine(url, token, hosts_call(service))) or []


def ask_engine(url: str, token: "Token", call: "Call") -> "Answer":
    """Asks the engine without the libraries of its client.

    Raises:
        FingerpostError: it does not answer.
    """
    from http.client import HTTPException

    from fingerpost.agent.sender import Target, ask
    from fingerpost.errors import FingerpostError
    from fingerpost.settings import get_settings

    try:
        return ask(Target(url, token, get_settings().engine_tls), call)
    except (OSError, HTTPException, ValueError) as error:
        raise FingerpostError(f"the engine at {url} does not answer: {error}") from error


def engine_of(engine: str | None) -> "tuple[str, Token]":
    """The engine's URL, as given or by the settings, and its token.

    Raises:
        FingerpostError: the URL is none of HTTP.
    """
    from fingerpost.engine_api import checked_url
    from fingerpost.settings import get_settings

    settings = get_settings()
    url = checked_url(engine or settings.engine_url or settings.own_engine)
    return url, settings.token_to_send


def service_of(service: str | None) -> str:
    """The service, as given or by the settings."""
    from fingerpost.settings import get_settings

    return service or get_settings().service
