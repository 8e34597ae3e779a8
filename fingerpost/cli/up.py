"""`fingerpost up`: the whole platform on one machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fingerpost.settings import Settings
    from fingerpost.stack.parts import Part

_NAMES = ("mlflow", "prefect", "engine", "schedule", "router", "envoy")


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    hosts: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Also start Envoy, for the hosts in this file: `name=address:port` lines."
        ),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Start only this part: {', '.join(_NAMES)}.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Do not start this part.")] = None,
) -> None:
    """Runs MLflow, Prefect, schedules, engine and router, until Ctrl-C. A part that dies is started again."""
    from rich.console import Console

    from fingerpost.environment import tool_environment
    from fingerpost.errors import FingerpostError
    from fingerpost.settings import get_settings
    from fingerpost.stack.parts import platform_parts, settings_environment
    from fingerpost.stack.ports import check_ports
    from fingerpost.stack.processes import Stack
    from fingerpost.stack.supervisor import Supervisor

    unknown = sorted({*(only or []), *(without or [])} - set(_NAMES))
    if unknown:
        raise FingerpostError(f"no part {unknown[0]!r}: use {', '.join(_NAMES)}")
    settings = get_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    parts = platform_parts(settings, _envoy(settings, hosts) if hosts else None)
    parts = [part for part in parts if part.name in (only or _NAMES) and part.name not in (without or [])]
    if not parts:
        raise FingerpostError("nothing is left to start; Envoy needs --hosts")
    check_ports([use for part in parts for use in part.ports])
    console = Console(stderr=True)

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def overview() -> None:
        for part in parts:
            tell(f"  {part.name:9} {part.address or '-':28} {part.what}; log {logs / part.name}.log")
        tell("Ctrl-C stops everything.")

    logs = settings.home / "logs"
    tell(f"starting {', '.join(part.name for part in parts)}; logs are in {logs}")
    with Stack(logs, {**settings_environment(settings), **tool_environment(settings)}) as stack:
        stack.catch_signals()
        Supervisor(stack, parts, tell).run(overview)
        tell("stopping ...")


def _envoy(settings: "Settings", hosts: Path) -> "Part":
    """Writes Envoy's configuration for the hosts, and builds the picker if need be."""
    import json

    from fingerpost.lake import write_text_atomically
    from fingerpost.stack.parts import envoy_part
    from routing.envoy import envoy_config
    from routing.module import build_module
    from routing.upstream import parse_upstream

    lines = [line for line in hosts.read_text().splitlines() if line.strip() and not line.startswith("#")]
    made = envoy_config(
        [parse_upstream(line) for line in lines],
        settings.home / "access.log",
        settings.bind_host,
        settings.envoy_port,
        settings.envoy_admin_port,
        "fingerpost",
        False,
        settings.home / "routing" / f"{settings.service}.table",
    )
    config = settings.home / "envoy.json"
    write_text_atomically(config, json.dumps(made, indent=1) + "\n")
    return envoy_part(settings, config, build_module())
