"""Options that several commands share."""

from typing import Annotated

import typer

# The second name is that of earlier releases: the next one knows it no more.
EngineUrl = Annotated[
    str | None,
    typer.Option("--engine-url", "--engine", help="URL of the engine; default FINGERPOST_ENGINE_URL."),
]
