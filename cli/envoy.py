"""`fingerpost envoy config|snippet|check|build`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fingerpost.routing.envoy.transport import Certificate

_Host = Annotated[list[str] | None, typer.Option(help="A host, `name=address:port`; once for each.")]
_Table = Annotated[
    Path | None, typer.Option(help="The file `fingerpost router` keeps; default FINGERPOST_HOME/routing/SERVICE.table.")
]
_AccessLog = Annotated[Path | None, typer.Option(help="Default FINGERPOST_HOME/access.log.")]
_HealthPath = Annotated[str | None, typer.Option(help="Path for active health checks, such as /healthz.")]
_Zone = Annotated[str, typer.Option(help="The zone of this proxy; hosts of other zones are taken when much better.")]
_ZoneFactor = Annotated[
    float, typer.Option(min=1, max=1000, help="With --zone: count the cost of hosts in other zones so many times.")
]
_LogClient = Annotated[bool, typer.Option("--log-client", help="Log clients' addresses, for regions.")]


def register(app: typer.Typer) -> None:
    envoy = typer.Typer(help="Envoy with the native picker.", no_args_is_help=True)
    envoy.command()(config)
    envoy.command()(snippet)
    envoy.command()(check)
    envoy.command()(build)
    app.add_typer(envoy, name="envoy")


def config(
    host: _Host = None,
    hosts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file with a host a line, in the same form.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="fingerpost, endpoint_picker, least_request, least_request_full, round_robin, random or orca."
        ),
    ] = "fingerpost",
    endpoint_picker: Annotated[
        str, typer.Option(help="Where `fingerpost endpoint-picker` listens, `address:port`, for its policy.")
    ] = "127.0.0.1:9002",
    table: _Table = None,
    access_log: _AccessLog = None,
    health_path: _HealthPath = None,
    log_client: _LogClient = False,
    admin_socket: Annotated[
        Path | None, typer.Option(help="Socket of Envoy's administration; default FINGERPOST_HOME/envoy-admin.sock.")
    ] = None,
    endpoints: Annotated[
        Path | None,
        typer.Option(help="Read the hosts from the file that `fingerpost router --hosts` keeps; made if it is absent."),
    ] = None,
    services: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Several services, a TOML file (docs/routing.md), in place of the hosts."
        ),
    ] = None,
    zone: _Zone = "",
    zone_factor: _ZoneFactor = 1.25,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="End a request after this time, seconds.")] = 30.0,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The listener's certificate chain, PEM; with --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Let in only clients with a certificate of this authority.")
    ] = None,
    upgrade: Annotated[
        list[str] | None, typer.Option(help="Let requests change to this protocol, such as websocket; once for each.")
    ] = None,
    session_cookie: Annotated[
        str, typer.Option(help="Keep a client at the host that served it first, by a cookie of this name.")
    ] = "",
    hosts_http: Annotated[str, typer.Option(help="Speak http1 or http2 with hosts; gRPC needs http2.")] = "http1",
    hosts_ca: Annotated[
        Path | None, typer.Option(help="Speak TLS with hosts, whose certificates are of this authority.")
    ] = None,
    hosts_name: Annotated[str, typer.Option(help="The name that the hosts' certificates are issued for.")] = "",
    hosts_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain to show to hosts; with --hosts-key.")
    ] = None,
    hosts_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write here instead of printing.")] = None,
) -> None:
    """Writes Envoy's complete configuration, as JSON (which is YAML too), and says how to start it."""
    import json
    import sys

    from fingerpost.errors import FingerpostError
    from fingerpost.home import make_home
    from fingerpost.lake import write_text_atomically
    from fingerpost.routing.envoy.clusters import discovery_response
    from fingerpost.routing.envoy.config import services_config
    from fingerpost.routing.envoy.module import build_module
    from fingerpost.routing.envoy.services import Routed, read_services
    from fingerpost.routing.envoy.transport import ClientSide, HostSide
    from fingerpost.routing.envoy.upstream import parse_upstream, parse_upstreams
    from fingerpost.settings import get_settings

    settings = get_settings()
    upstreams = parse_upstreams([*(host or []), *(hosts.read_text().splitlines() if hosts else [])])
    if services and (upstreams or endpoints or table or access_log):
        raise FingerpostError("--services names hosts, endpoints, tables and logs itself: leave these options out")
    picker = parse_upstream(f"picker={endpoint_picker}")
    module = build_module() if policy == "fingerpost" else None
    single = Routed(
        "",
        (access_log or settings.home / "access.log").absolute(),
        upstreams,
        endpoints.absolute() if endpoints else None,
        (table or settings.home / "routing" / f"{settings.service}.table").absolute(),
        health_path=health_path,
        timeout_s=timeout_s,
        transport=HostSide(
            hosts_http,
            hosts_ca and hosts_ca.absolute(),
            hosts_name,
            _certificate(hosts_cert, hosts_key, "--hosts-cert", "--hosts-key"),
        ),
    )
    several = read_services(services, settings.home.absolute()) if services else [single]
    try:
        made = services_config(
            several,
            settings.bind_host,
            settings.envoy_port,
            settings.envoy_admin_port,
            policy,
            log_client,
            (picker.address, picker.port),
            settings.panic_percent,
            settings.envoy_max_connections,
            (admin_socket or settings.envoy_admin_socket).absolute(),
            ClientSide(
                _certificate(tls_cert, tls_key, "--tls-cert", "--tls-key"),
                client_ca and client_ca.absolute(),
                tuple(upgrade or ()),
                session_cookie,
            ),
            zone,
            zone_factor,
        )
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    text = json.dumps(made, indent=1) + "\n"
    # Envoy makes no folders: it would not start without those of its log and its socket, which by default is the home.
    make_home(settings.home)
    for each in several:
        if each.endpoints and not each.endpoints.exists():
            # Envoy does not start without it, and may be started before the router.
            each.endpoints.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(each.endpoints, json.dumps(discovery_response([], each.cluster, "0")))
            each.endpoints.chmod(0o644)
        if settings.home.absolute() in each.access_log.parents:
            each.access_log.parent.mkdir(parents=True, exist_ok=True)
    if output:
        output.write_text(text)
    else:
        typer.echo(text, nl=False)
    variable = f"ENVOY_DYNAMIC_MODULES_SEARCH_PATH={module.parent} " if module else ""
    print(f"start it: {variable}envoy -c {output or 'FILE'}", file=sys.stderr)


def build() -> None:
    """Builds the native picker if it is not built yet, prints its path, and says which Envoy it is for."""
    import sys

    from fingerpost.routing.envoy.module import TESTED_ABI, TESTED_ENVOY, build_module

    typer.echo(build_module())
    print(f"built and tested for Envoy {TESTED_ENVOY}, interface {TESTED_ABI}; others refuse it", file=sys.stderr)


def _certificate(chain: Path | None, key: Path | None, *names: str) -> "Certificate | None":
    from fingerpost.errors import FingerpostError
    from fingerpost.routing.envoy.transport import Certificate

    if (chain is None) != (key is None):
        raise FingerpostError(f"{' and '.join(names)} belong together: name both or neither")
    for path in (chain, key):
        if path and not path.is_file():
            raise FingerpostError(f"there is no file {path}")
    return Certificate(chain.absolute(), key.absolute()) if chain and key else None


def snippet(
    cluster: Annotated[str, typer.Option(help="The cluster's name in your configuration.")] = "hosts",
    host: _Host = None,
    table: _Table = None,
    access_log: _AccessLog = None,
    health_path: _HealthPath = None,
    log_client: _LogClient = False,
    service: Annotated[
        str, typer.Option(help="The service's name, where several clusters of this Envoy are routed by prediction.")
    ] = "",
    zone: _Zone = "",
    zone_factor: _ZoneFactor = 1.25,
) -> None:
    """Prints what to add to an Envoy configuration of your own, as YAML, and where."""
    from fingerpost.errors import FingerpostError
    from fingerpost.routing.envoy.snippet import snippet as pieces
    from fingerpost.routing.envoy.upstream import parse_upstreams
    from fingerpost.settings import get_settings

    settings = get_settings()
    kept = (table or settings.home / "routing" / f"{service or settings.service}.table").absolute()
    log = (access_log or settings.home / (f"logs/{service}.access.log" if service else "access.log")).absolute()
    hosts = parse_upstreams(host or [])
    try:
        told = pieces(cluster, kept, log, hosts, health_path, log_client, service, zone, zone_factor)
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    typer.echo(told, nl=False)


def check(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Envoy's configuration, YAML or JSON.")],
    cluster: Annotated[
        str, typer.Option(help="The cluster to route by prediction; default: every one that has the policy.")
    ] = "",
    envoy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The Envoy that will run it; default: the one found here."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Says what an Envoy configuration lacks to route by prediction; exit code 1 if that is an error.

    `envoy --mode validate` checks the rest.
    """
    import json

    from fingerpost.errors import FingerpostError
    from fingerpost.routing.envoy.check import check_config, check_envoy
    from fingerpost.routing.envoy.document import read_config
    from fingerpost.routing.envoy.module import envoy_version

    version = envoy_version(envoy)
    if envoy and version is None:
        raise FingerpostError(f"{envoy} is no Envoy: `{envoy} --version` names no version")
    found = check_envoy(version) + check_config(read_config(file), cluster)
    errors = sum(each.level == "error" for each in found)
    if json_output:
        typer.echo(json.dumps({"errors": errors, "findings": [each.as_dict() for each in found]}, indent=2))
    else:
        for each in found:
            typer.echo(f"{each.level}: {each.where}: {each.problem}; {each.cure}")
        typer.echo(f"{errors} errors, {len(found) - errors} warnings")
    if errors:
        raise typer.Exit(1)
