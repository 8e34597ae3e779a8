"""`fingerpost status`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    from fingerpost.cli.stack.status import Engine, Status
    from fingerpost.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    json_output: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tells how the platform of this home is: parts, engine, table, model, disk. Exit code 0: all is well; 1: not."""
    import json
    import time

    from fingerpost.cli.stack.status import told
    from fingerpost.settings import get_settings

    found, now = status_of(get_settings()), time.time()
    typer.echo(json.dumps(found.to_json(now), indent=2) if json_output else told(found, now))
    if found.problems(now):
        raise typer.Exit(1)


def status_of(settings: "Settings") -> "Status":
    """How the platform of a home is now; the engine is asked."""
    import time

    from fingerpost.cli.stack.state import read_states
    from fingerpost.cli.stack.status import Status, seen
    from fingerpost.home import disk_of
    from fingerpost.serving.model_files import ModelFiles

    home = settings.home
    parts = seen(home, read_states(home))
    names = {each.part.name for each in parts}
    try:
        changed = (home / "routing" / f"{settings.service}.table").stat().st_mtime
    except OSError:
        changed = None
    champion = ModelFiles(home).read_aliases(settings.service).champion
    return Status(
        home,
        parts,
        _engine(settings) if "engine" in names else None,
        "router" in names,
        None if changed is None else max(0.0, time.time() - changed),
        settings.table_ttl_s,
        champion.version if champion else "",
        disk_of(next(each for each in (home, *home.parents) if each.exists())),
        settings.disk_low_mb,
    )


def _engine(settings: "Settings") -> "Engine":
    from fingerpost.cli.stack.status import Engine, Serves
    from fingerpost.engine_api import EngineClient, EngineError
    from fingerpost.routing.engine_hosts import unmatched

    try:
        with EngineClient(settings.own_engine, settings.token_to_send, 5.0, settings.engine_tls) as client:
            health = client.health()
            problems = {str(name): str(text) for name, text in health["problems"].items()}
            endpoints = _endpoints(settings.home / "routing" / f"{settings.service}.endpoints.json")
            if endpoints and (problem := unmatched(endpoints, client.listed(settings.service)[1] or ()).problem):
                problems["names"] = problem
            serves = {
                str(name): Serves(str(each["model_version"]), float(each["model_share"]), str(each["reason"]))
                for name, each in health["services"].items()
            }
        return Engine(True, bool(health["ready"]), problems, serves)
    except (EngineError, KeyError, TypeError, ValueError, AttributeError):
        return Engine(False)


def _endpoints(path: "Path") -> "Set[str]":
    """Names of Envoy's endpoints; none where no router keeps them here."""
    import json

    from fingerpost.cli.stack.checkup import names_of_endpoints

    try:
        return names_of_endpoints(json.loads(path.read_text()))
    except (OSError, ValueError):
        return set()
