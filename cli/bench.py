"""`fingerpost bench`."""

import typer


def register(app: typer.Typer) -> None:
    passed_on = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(context_settings=passed_on)(bench)


def bench(context: typer.Context) -> None:
    """Measures what the program costs and how good it is; in a clone of the repository. As `python -m benchmarks`."""
    import os
    import sys
    from pathlib import Path

    import fingerpost
    from fingerpost.errors import FingerpostError

    # The folder of the package is one of the repository; an installed package has no benchmarks beside it.
    root = Path(fingerpost.__file__).parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise FingerpostError(
            "the benchmarks are not part of the installed package: run this in a clone, after `make setup`"
        )
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))
    arguments = [sys.executable, "-m", "benchmarks", *context.args]
    sys.stdout.flush()
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONPATH": paths})  # noqa: S606
