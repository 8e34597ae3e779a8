"""`fingerpost router`."""

from typing import Annotated

import typer

from fingerpost.cli.options import EngineUrl


def register(app: typer.Typer) -> None:
    app.command()(router)


def router(
    service: Annotated[
        list[str] | None,
        typer.Option(
            help="Route this service; once for each. {service} in the options below is its name. Default "
            "FINGERPOST_SERVICE."
        ),
    ] = None,
    table: Annotated[str, typer.Option(help="The picker's file; default FINGERPOST_HOME/routing/SERVICE.table.")] = "",
    engine: EngineUrl = None,
    access_log: Annotated[
        str,
        typer.Option(help="Envoy's access log: predictions are trusted as far as they agree with what it says."),
    ] = "",
    hosts: Annotated[
        str,
        typer.Option(
            help="Keep Envoy's endpoints too, by the hosts listed here: `engine:`, those that agents announce "
            "(--address); a file with `name=address:port` lines, `dns:NAME:PORT`, `endpointslices:FILE`, or "
            "`kubernetes:SERVICE:PORT`."
        ),
    ] = "",
    endpoints: Annotated[
        str,
        typer.Option(help="The file for Envoy's endpoints; default FINGERPOST_HOME/routing/SERVICE.endpoints.json."),
    ] = "",
    cluster: Annotated[
        str,
        typer.Option(help="The cluster's name in Envoy's configuration; default hosts, or the name of each --service."),
    ] = "",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics on 127.0.0.1, what the guard found; 0: none.")
    ] = 0,
    once: Annotated[bool, typer.Option("--once", help="Write table and endpoints once and stop.")] = False,
) -> None:
    """Follows the engine's routing table and keeps the file that the picker in Envoy reads."""
    import signal
    import threading

    from fingerpost.home import make_home
    from fingerpost.logs import configure_logs
    from fingerpost.routing.services import Places, ServiceRouter, check_places, follow_all
    from fingerpost.settings import LOOPBACK, get_settings

    settings = get_settings()
    configure_logs(settings.log_level, settings.log_format)
    services = service or [settings.service]
    places = Places(table, access_log, hosts, endpoints, cluster or ("{service}" if service else "hosts"))
    check_places(places, services)
    if not table:
        make_home(settings.home)
    url = engine or settings.engine_url or settings.own_engine
    routers = [ServiceRouter(url, settings.model_copy(update={"service": name}), places.of(name)) for name in services]
    if metrics_port:
        from fingerpost.routing.metrics_port import GuardMetrics, NameMetrics, TableMetrics, serve_metrics

        guards = {each.service: (lambda router=each.router: router.guard_state) for each in routers}
        watches = {each.service: (lambda names=each.names: names.found) for each in routers if each.keeper}
        tables = TableMetrics({each.service: each.router for each in routers})
        named = [NameMetrics(watches)] if watches else []
        serve_metrics(LOOPBACK, metrics_port, tables, GuardMetrics(guards), *named)
    try:
        if once:
            for each in routers:
                each.once()
                typer.echo(each.table)
            return
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        follow_all(routers, stop)
    finally:
        for each in routers:
            each.close()
