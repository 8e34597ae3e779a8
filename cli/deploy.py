"""`fingerpost deploy`: the engine as a Bento, with one model version in it."""

from typing import Annotated

import typer

from fingerpost.cli.servers import settings_with_registry


def register(app: typer.Typer) -> None:
    app.command()(deploy)


def deploy(
    model_version: Annotated[str, typer.Option(help="Version of the model; default: the champion.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Builds a Bento of the engine, pinned to a model version."""
    import json

    settings = settings_with_registry()
    from fingerpost.serving.deploy import build_bento

    built = build_bento(settings, model_version)
    typer.echo(json.dumps(built, indent=1) if json_output else f"{built['tag']} at {built['path']}")
