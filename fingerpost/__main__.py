"""Runs the command line, or says in one line that no role with a command line is installed."""

import sys


def main() -> None:
    """Runs the command line of the program."""
    try:
        from fingerpost.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "fingerpost":
            raise
        sys.exit(
            f"fingerpost: the command line needs {error.name}; install the role of this machine, such as "
            "pip install 'fingerpost[agent]' (or router, gateway, engine, platform)"
        )
    run()


if __name__ == "__main__":
    main()
