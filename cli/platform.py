"""`fingerpost run`, `fingerpost schedule`: the flows, now or on their schedules."""

from pathlib import Path
from typing import Annotated

import typer

from fingerpost.cli.servers import need_prefect, need_registry
from fingerpost.flows.table import FLOWS


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(schedule)


def run(
    flows: Annotated[
        list[str],
        typer.Argument(help=f"{', '.join(FLOWS)}; pipeline is ingest, features and train in series."),
    ],
    service: Annotated[str, typer.Option(help="Of this service; default FINGERPOST_SERVICE.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the result, as JSON, to this file too.")] = None,
) -> None:
    """Runs a flow now, in this process, or several one after another; the result is the last one's."""
    import json

    from fingerpost.environment import apply_flow_environment
    from fingerpost.errors import FingerpostError
    from fingerpost.flows.run import run_flow
    from fingerpost.home import keep_from_others
    from fingerpost.lake import write_text_atomically
    from fingerpost.logs import configure_logs
    from fingerpost.masking import masked
    from fingerpost.settings import get_settings

    settings = get_settings()
    for flow in flows:
        if flow not in FLOWS:
            raise FingerpostError(f"no flow {flow!r}: use {', '.join(FLOWS)}")
    need_prefect(settings)
    if not {*flows} <= {"ingest", "features"}:
        need_registry(settings)
    keep_from_others()
    apply_flow_environment(settings)
    configure_logs(settings.log_level, settings.log_format)
    result = [run_flow(flow, service) for flow in flows][-1]
    text = json.dumps(result, indent=2)
    if output:
        write_text_atomically(output, text)
    if json_output:
        typer.echo(text)
    elif not output:
        from fingerpost.flows.run import verdict
        from fingerpost.shown import visible

        came_to, shown = visible(verdict(flows[-1], result)), masked(settings.prefect.removesuffix("/api"))
        typer.echo(f"{', '.join(flows)}: {came_to}; see {shown}")


def schedule() -> None:
    """Runs the flows of every service that reports on their schedules, until stopped."""
    from fingerpost.environment import apply_flow_environment
    from fingerpost.home import keep_from_others
    from fingerpost.logs import configure_logs
    from fingerpost.settings import get_settings

    settings = get_settings()
    need_prefect(settings)
    keep_from_others()
    apply_flow_environment(settings)
    configure_logs(settings.log_level, settings.log_format)
    from fingerpost.flows.schedule import serve_deployments

    serve_deployments(settings)
