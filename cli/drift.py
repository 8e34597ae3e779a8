"""`fingerpost drift`: has the world changed since a version was trained."""

from typing import Annotated

import typer

from fingerpost.cli.servers import settings_with_registry


def register(app: typer.Typer) -> None:
    app.command()(drift)


def drift(
    version: Annotated[str | None, typer.Option(help="The model version; default: the champion.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Compares what a version was trained on with what came since.

    Exit codes: 0 no drift, 2 drift or failed data tests, 3 too little data to tell.
    """
    import json

    from fingerpost.errors import NoDataError

    settings = settings_with_registry()
    from fingerpost.abtest.drift.gate import check_drift, workspace_path
    from fingerpost.abtest.results import DRIFT, TOO_LITTLE
    from fingerpost.experiment import CHAMPION
    from fingerpost.shown import visible
    from fingerpost.training.registry import Registry

    registry = Registry(settings)
    version = version or registry.version_of(CHAMPION)
    if version is None or registry.version(version) is None:
        raise NoDataError(f"{settings.model_name} has no {f'version {version}' if version else 'champion yet'}")
    verdict, run_id = check_drift(settings, version)
    told = verdict.to_json()
    if json_output:
        typer.echo(json.dumps({**told, "run_id": run_id}, indent=2))
    else:
        typer.echo(f"version {version}: {verdict.verdict}; run {run_id} of experiment {settings.model_name}-drift")
        for line in [*verdict.reasons, *(f"data test failed: {each}" for each in told["data"]["failed"])]:
            typer.echo(f"  {visible(line)}")
        if verdict.snapshot is not None:
            typer.echo(f"all reports: evidently ui --workspace {workspace_path(settings)}")
    if verdict.verdict == TOO_LITTLE:
        raise typer.Exit(3)
    if verdict.verdict == DRIFT or told["data"]["failed"]:
        raise typer.Exit(2)
