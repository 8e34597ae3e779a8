"""`fingerpost endpoint-picker`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command(name="endpoint-picker")(endpoint_picker)


def endpoint_picker(
    host: Annotated[list[str] | None, typer.Option(help="An endpoint, `name=address:port`; once for each.")] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            help="Endpoints as they come and go: a file with one a line, `dns:NAME:PORT`, `endpointslices:FILE`, "
            "`kubernetes:SERVICE:PORT`, or with --engine-url `engine:`, those that agents announce."
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="`address:port` for proxies, gRPC without TLS.")] = "127.0.0.1:9002",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics on `bind_host`; 0: none.")] = 0,
    table: Annotated[
        Path | None,
        typer.Option(help="The file `fingerpost router` keeps; default FINGERPOST_HOME/routing/SERVICE.table."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine-url", "--engine", help="Follow the engine at this URL and keep that file too, without a router."
        ),
    ] = None,
    access_log: Annotated[
        Path | None, typer.Option(help="With --engine-url: Envoy's access log, as of `fingerpost router`.")
    ] = None,
    streamed: Annotated[
        bool,
        typer.Option(
            "--streamed",
            help="Count requests until their answers begin, not until they end; for answers that come in pieces, as "
            "those of language models.",
        ),
    ] = False,
    queue_metric: Annotated[
        str | None,
        typer.Option(
            help="With --streamed: ask endpoints how many requests wait there, by this gauge of their /metrics, such "
            "as `vllm:num_requests_waiting`; needed where several pickers serve one pool."
        ),
    ] = None,
    queue_seconds: Annotated[float, typer.Option(min=0.05, max=10.0, help="Time between looks at a queue.")] = 0.25,
) -> None:
    """Serves the endpoint picker protocol of the Kubernetes Gateway API: gateways ask it for a request's endpoints."""
    import asyncio
    import signal
    import threading

    from fingerpost.engine_api import EngineClient
    from fingerpost.errors import FingerpostError
    from fingerpost.home import make_home
    from fingerpost.logs import configure_logs
    from fingerpost.routing.endpoint_picker.choice import Chooser
    from fingerpost.routing.endpoint_picker.endpoints import Endpoints
    from fingerpost.routing.endpoint_picker.metrics import EndpointPickerMetrics
    from fingerpost.routing.endpoint_picker.queues import Queues
    from fingerpost.routing.endpoint_picker.server import EndpointPickerServer
    from fingerpost.routing.engine_hosts import ENGINE, host_sources
    from fingerpost.routing.envoy.upstream import parse_upstreams
    from fingerpost.routing.hosts import host_source
    from fingerpost.routing.metrics_port import serve_metrics
    from fingerpost.routing.router import Router
    from fingerpost.settings import get_settings

    settings = get_settings()
    configure_logs(settings.log_level, settings.log_format)
    if host and hosts:
        raise FingerpostError("name the endpoints by --host or in a file (--hosts), not both")
    if queue_metric and not streamed:
        raise FingerpostError("--queue-metric counts requests that wait for their answer to begin: give --streamed too")
    source = None
    if hosts and engine:
        source, _ = host_sources(
            hosts, EngineClient(engine, settings.token_to_send, 3.0, settings.engine_tls), settings.service
        )
    elif hosts:
        source = host_source(hosts)
    # An orchestrator, or its names, may have none yet: until then the picker reports that it does not serve.
    waits = (hosts or "").startswith(("kubernetes:", "dns:", ENGINE))
    upstreams = parse_upstreams(host or []) if source is None else [] if waits else source()
    if not upstreams and not waits:
        raise FingerpostError("the endpoint picker needs at least one endpoint (--host or --hosts)")
    path = (table or settings.home / "routing" / f"{settings.service}.table").absolute()
    if table is None:
        make_home(settings.home)
    path.parent.mkdir(parents=True, exist_ok=True)
    chooser = Chooser(Endpoints(upstreams), settings.panic_percent / 100, queues=bool(queue_metric))
    queues = Queues(chooser.endpoints, queue_metric, queue_seconds) if queue_metric else None
    server = EndpointPickerServer(chooser, path, source, streamed, queues)
    if metrics_port:
        serve_metrics(settings.bind_host, metrics_port, EndpointPickerMetrics(server))
    stopped = threading.Event()
    follower = Router(engine, path, settings, access_log, "endpoint-picker") if engine else None
    if follower:
        threading.Thread(target=follower.follow, args=(stopped,), name="router", daemon=True).start()

    async def run() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await server.serve(listen, stop, lambda port: typer.echo(f"endpoint picker on port {port}", err=True))

    try:
        asyncio.run(run())
    finally:
        stopped.set()
