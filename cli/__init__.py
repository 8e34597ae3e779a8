"""The command line. Only what `--help` needs is imported here; a command imports its room when it runs."""

import sys
from importlib import import_module
from typing import Annotated

import typer

app = typer.Typer(
    name="fingerpost",
    help="Predictive load balancing for unequal hosts: measure, predict, route, and keep the predictions good.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from fingerpost import __version__

        typer.echo(__version__)
        raise typer.Exit


# Which extra holds what a command needs; all others need the whole platform.
_ROLES = {
    "agent": "agent",
    "bench": "",
    "deploy": "engine",
    "doctor": "",
    "endpoint-picker": "gateway",
    "engine": "engine",
    "envoy": "router",
    "event": "",
    "hosts": "",
    "logs": "agent",
    "page": "engine",
    "router": "router",
    "settings": "",
    "version": "",
}


def _check_role(command: str) -> None:
    from fingerpost.errors import FingerpostError
    from fingerpost.roles import absent

    role = _ROLES.get(command, "platform")
    if role and (missing := absent(role)):
        raise FingerpostError(f"`fingerpost {command}` needs {', '.join(missing)}: pip install 'fingerpost[{role}]'")


@app.callback()
def _options(
    context: typer.Context,
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the program's version.")
    ] = False,
) -> None:
    if context.invoked_subcommand and not {"--help", "-h"} & {*sys.argv}:
        _check_role(context.invoked_subcommand)


_MODULES = [
    "agent",
    "logs",
    "hosts",
    "event",
    "platform",
    "engine",
    "deploy",
    "evaluate",
    "envoy",
    "router",
    "endpoint_picker",
    "bench",
    "inspect",
    "page",
    "status",
    "doctor",
    "simulate",
    "worth",
    "experiment",
    "shadow",
    "promotion",
    "drift",
    "up",
]
for _module in _MODULES:
    import_module(f"fingerpost.cli.{_module}").register(app)


def main() -> None:
    """Runs the command line of the program."""
    run(app)


def run(app: typer.Typer) -> None:
    """Runs a command line; errors for people and files that cannot be used end as one line, exit code 1."""
    from fingerpost.errors import FingerpostError
    from fingerpost.masking import masked
    from fingerpost.shown import visible_lines

    try:
        app()
    except FingerpostError as error:
        print(f"fingerpost: {visible_lines(masked(str(error)))}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # A file or folder that cannot be used: its name says more than where in the code it happened.
        if error.filename is None:
            raise
        print(f"fingerpost: {error.strerror}: {error.filename} (FINGERPOST_HOME moves local state)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("fingerpost: interrupted", file=sys.stderr)
        sys.exit(130)
