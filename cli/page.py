"""`fingerpost page`."""

from pathlib import Path
from typing import Annotated

import typer

from fingerpost.cli.options import EngineUrl


def register(app: typer.Typer) -> None:
    app.command()(page)


def page(
    engine: EngineUrl = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port on this machine's loopback; default FINGERPOST_PAGE_PORT."),
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    freeze: Annotated[
        Path | None, typer.Option(help="Write all panels as they are now into this HTML file instead, and end.")
    ] = None,
    story: Annotated[
        Path | None,
        typer.Option(help="Tell above the panels of the stage in this JSON file; serve at once, engine or not."),
    ] = None,
) -> None:
    """Shows the page of an engine elsewhere on this machine; the token of the settings is sent along. Ctrl-C ends."""
    import webbrowser
    from functools import partial

    from fingerpost.cli.hosts import ask_engine, engine_of
    from fingerpost.cli.stack.ports import PortUse, check_ports
    from fingerpost.engine_api import checked, get_call
    from fingerpost.errors import FingerpostError
    from fingerpost.serving.page.remote import remote_page
    from fingerpost.serving.page.stage import checked_story
    from fingerpost.settings import LOOPBACK, get_settings

    if freeze and (story or browse or port):
        raise FingerpostError("--freeze writes a file and ends: leave out --story, --open and --port")
    if freeze and (freeze.is_dir() or not freeze.absolute().parent.is_dir()):
        raise FingerpostError(f"--freeze {freeze}: name a file in a folder that there is")
    if story:
        checked_story(story)
    url, token = engine_of(engine)
    ask = partial(ask_engine, url, token)
    port = port or get_settings().page_port
    if freeze:
        import orjson

        from fingerpost.lake import write_text_atomically
        from fingerpost.serving.page.frozen import frozen_now

        write_text_atomically(freeze, frozen_now(orjson.loads(checked(ask(get_call("/v1/page"))).body)))
        typer.echo(f"the page of {url} as it is now is in {freeze}")
        return
    if story is None:
        checked(ask(get_call("/v1/page")))
    check_ports([PortUse("page", LOOPBACK, port, "FINGERPOST_PAGE_PORT, or give --port")])
    address = f"http://{LOOPBACK}:{port}/"
    typer.echo(f"the page of {url} is at {address}")
    if browse:
        webbrowser.open(address)
    import uvicorn

    uvicorn.run(remote_page(ask, story), host=LOOPBACK, port=port, log_level="warning", access_log=False)
