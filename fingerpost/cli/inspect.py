"""`fingerpost settings` and `fingerpost version`."""

from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command()(settings)
    app.command()(version)


def settings(
    json_output: Annotated[bool, typer.Option("--json", help="The values in force, as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Names, defaults and meanings, as Markdown.")] = False,
) -> None:
    """Shows the settings in force, and what they mean."""
    import json

    from fingerpost.settings import Settings, get_settings, settings_tables

    if markdown:
        typer.echo(settings_tables(), nl=False)
        return
    current = get_settings()
    shown = current.model_dump(mode="json")
    if json_output:
        typer.echo(json.dumps({name: _shown(name, value) for name, value in shown.items()}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("variable", "value", "meaning")
    for name, field in Settings.model_fields.items():
        mark = " *" if name in current.model_fields_set else ""
        table.add_row(f"FINGERPOST_{name.upper()}", f"{_shown(name, shown[name])}{mark}", field.description)
    Console().print(table)
    typer.echo("* set in the environment")


def _shown(name: str, value: Any) -> Any:
    """A setting as it may be shown: of a token only that there is one."""
    return "***" if value and name.endswith("_token") else value


def version() -> None:
    """Shows the program's version."""
    from fingerpost import __version__

    typer.echo(__version__)
