"""`fingerpost page`."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(page)


def page(
    engine: Annotated[
        str | None, typer.Option("--engine", help="URL of the engine; default FINGERPOST_ENGINE_URL.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine's loopback.")] = 3001,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Shows the page of an engine elsewhere on this machine; the token of the settings is sent along. Ctrl-C ends."""
    import webbrowser
    from functools import partial

    import uvicorn

    from fingerpost.cli.hosts import ask_engine, engine_of
    from fingerpost.engine_api import checked, get_call
    from fingerpost.serving.page.remote import remote_page
    from fingerpost.settings import LOOPBACK

    url, token = engine_of(engine)
    ask = partial(ask_engine, url, token)
    checked(ask(get_call("/v1/page")))
    address = f"http://{LOOPBACK}:{port}/"
    typer.echo(f"the page of {url} is at {address}")
    if browse:
        webbrowser.open(address)
    uvicorn.run(remote_page(ask), host=LOOPBACK, port=port, log_level="warning", access_log=False)
