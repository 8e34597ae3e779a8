"""`fingerpost settings` and `fingerpost version`."""

from typing import Annotated

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

    from fingerpost.masking import masked_setting
    from fingerpost.settings import Settings, get_settings, settings_tables

    if markdown:
        typer.echo(settings_tables(), nl=False)
        return
    current = get_settings()
    shown = current.model_dump(mode="json")
    if json_output:
        typer.echo(json.dumps({name: masked_setting(name, value) for name, value in shown.items()}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("variable", "value", "meaning")
    for name, field in Settings.model_fields.items():
        mark = " *" if name in current.model_fields_set else ""
        table.add_row(f"FINGERPOST_{name.upper()}", f"{masked_setting(name, shown[name])}{mark}", field.description)
    Console().print(table)
    typer.echo("* set in the environment")


def version() -> None:
    """Shows the program's version."""
    from fingerpost import __version__

    typer.echo(__version__)
