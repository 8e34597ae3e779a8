"""`fingerpost router`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(router)


def router(
    table: Annotated[
        Path | None, typer.Option(help="The picker's file; default FINGERPOST_HOME/routing/SERVICE.table.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="URL of the engine; default FINGERPOST_ENGINE_URL.")] = None,
    access_log: Annotated[
        Path | None,
        typer.Option(help="Envoy's access log: predictions are trusted as far as they agree with what it says."),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            help="Keep Envoy's endpoints too, by the hosts listed here: `engine:`, those that agents announce "
            "(--address); a file with `name=address:port` lines, `dns:NAME:PORT`, or `endpointslices:FILE`."
        ),
    ] = None,
    endpoints: Annotated[
        Path | None,
        typer.Option(help="The file for Envoy's endpoints; default FINGERPOST_HOME/routing/SERVICE.endpoints.json."),
    ] = None,
    cluster: Annotated[str, typer.Option(help="The cluster's name in Envoy's configuration.")] = "hosts",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics on 127.0.0.1, what the guard found; 0: none.")
    ] = 0,
    once: Annotated[bool, typer.Option("--once", help="Write table and endpoints once and stop.")] = False,
) -> None:
    """Follows the engine's routing table and keeps the file that the picker in Envoy reads."""
    import logging
    import signal
    import threading

    from fingerpost.engine_api import EngineClient
    from fingerpost.errors import FingerpostError
    from fingerpost.home import make_home
    from fingerpost.logs import configure_logs
    from fingerpost.routing.engine_hosts import ENGINE, NameWatch, host_sources
    from fingerpost.routing.hosts import EndpointsKeeper
    from fingerpost.routing.router import Router
    from fingerpost.settings import LOOPBACK, get_settings

    settings = get_settings()
    configure_logs(settings.log_level, settings.log_format)
    path = table or settings.home / "routing" / f"{settings.service}.table"
    if table is None:
        make_home(settings.home)
    path.parent.mkdir(parents=True, exist_ok=True)
    url = engine or settings.engine_url or f"http://{LOOPBACK}:{settings.engine_port}"
    logger = logging.getLogger("fingerpost.router")
    if access_log is None:
        logger.warning("the guard is off: predictions that prove worse than none keep their weight; give --access-log")
    elif not access_log.exists():
        logger.warning("there is no access log at %s yet: until then the guard is off", access_log)
    keeper, names = None, NameWatch()
    if hosts:
        kept = endpoints or settings.home / "routing" / f"{settings.service}.endpoints.json"
        source, engine_hosts = host_sources(hosts, EngineClient(url, settings.engine_token, 3.0), settings.service)
        keeper = EndpointsKeeper(
            source, kept, cluster, lambda found: names.look([each.name for each in found], engine_hosts.known)
        )
        if hosts == ENGINE:
            keeper.prepare()
        keeper.update()
        if once and keeper.problem:
            raise FingerpostError(f"--hosts {hosts}: {keeper.problem}")
    follower = Router(url, path, settings, access_log)
    if metrics_port:
        from fingerpost.routing.metrics_port import GuardMetrics, NameMetrics, serve_metrics

        guard = GuardMetrics(lambda: follower.guard_state)
        serve_metrics(LOOPBACK, metrics_port, guard, *([NameMetrics(lambda: names.found)] if keeper else []))
    try:
        if once:
            follower.sync()
            typer.echo(path)
            return
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        if keeper:
            threading.Thread(target=keeper.follow, args=(stop,), name="hosts", daemon=True).start()
        follower.follow(stop)
    finally:
        follower.close()
