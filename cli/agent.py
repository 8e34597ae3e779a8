"""`fingerpost agent`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fingerpost.agent.options import AgentOptions
    from fingerpost.settings import Settings

_SOURCES = "Request records"
_HOST = "Host samples"
_MEMBER = "Announcement"


def register(app: typer.Typer) -> None:
    app.command()(agent)


def agent(
    host: Annotated[str | None, typer.Option(help="Name of this host, as the access log calls it.")] = None,
    proxy: Annotated[
        str | None,
        typer.Option(help="In place of --host: name of the proxy whose --access-log tells of all its hosts."),
    ] = None,
    service: Annotated[str | None, typer.Option(help="Service it serves; default FINGERPOST_SERVICE.")] = None,
    access_log: Annotated[
        Path | None,
        typer.Option(
            help="Access log to follow; with --host, lines of other hosts are left.", rich_help_panel=_SOURCES
        ),
    ] = None,
    log_format: Annotated[
        str,
        typer.Option(
            help="Of the access log: envoy, combined (Apache, nginx), haproxy, ingress-nginx, tomcat, caddy, ..., or "
            "the format string of nginx, Apache, HAProxy or Envoy; `fingerpost logs check FILE` says which fits.",
            rich_help_panel=_SOURCES,
        ),
    ] = "envoy",
    middleware_socket: Annotated[
        Path | None,
        typer.Option(help="Socket that the middleware in the service sends to.", rich_help_panel=_SOURCES),
    ] = None,
    otlp: Annotated[
        bool,
        typer.Option("--otlp", help="Take OpenTelemetry spans at /v1/traces of --http-port.", rich_help_panel=_SOURCES),
    ] = False,
    sampler: Annotated[str, typer.Option(help="auto, process, cgroup or prometheus.", rich_help_panel=_HOST)] = "auto",
    pid: Annotated[
        int | None,
        typer.Option(min=1, help="The service's process; default: the whole machine.", rich_help_panel=_HOST),
    ] = None,
    pid_file: Annotated[
        Path | None,
        typer.Option(help="File with the service's pid: found again after each deploy.", rich_help_panel=_HOST),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="The service's systemd unit: found again after each deploy.", rich_help_panel=_HOST),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            help="Regular expression on the service's command line: found again after each deploy.",
            rich_help_panel=_HOST,
        ),
    ] = None,
    cgroup: Annotated[
        Path | None, typer.Option(help="The service's cgroup; default: that of --pid.", rich_help_panel=_HOST)
    ] = None,
    prometheus_url: Annotated[
        str | None,
        typer.Option(help="Metrics of node_exporter or cAdvisor to read the host from.", rich_help_panel=_HOST),
    ] = None,
    prometheus_label: Annotated[
        list[str] | None,
        typer.Option(help="`name=value` that picks one container there; may be repeated.", rich_help_panel=_HOST),
    ] = None,
    cores: Annotated[
        float | None,
        typer.Option(min=0.01, help="Cores it may use; default: as found.", rich_help_panel=_HOST),
    ] = None,
    mem_limit_mb: Annotated[
        float | None, typer.Option(min=1, help="Memory it may use; default: as found.", rich_help_panel=_HOST)
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Requests it serves at once, if known.", rich_help_panel=_HOST)
    ] = None,
    stats_url: Annotated[
        str | None,
        typer.Option(help='Where the host tells {"inflight": n, "slots": n}.', rich_help_panel=_HOST),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Where the host serves, ADDRESS:PORT, or auto:PORT: `fingerpost router --hosts engine:` makes it "
            "an endpoint of Envoy. Default FINGERPOST_AGENT_ADDRESS.",
            rich_help_panel=_MEMBER,
        ),
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Zone of the host; default FINGERPOST_AGENT_ZONE.", rich_help_panel=_MEMBER)
    ] = None,
    host_class: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Class of the host, such as its machine type: a new host is expected to do as its class does. "
            "Default FINGERPOST_AGENT_CLASS.",
            rich_help_panel=_MEMBER,
        ),
    ] = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="Announce that the host drains, wait FINGERPOST_AGENT_DRAIN_S, and end. Its agent may go on.",
            rich_help_panel=_MEMBER,
        ),
    ] = False,
    engine_url: Annotated[
        str | None, typer.Option(help="Where window reports are sent; default FINGERPOST_ENGINE_URL.")
    ] = None,
    deliver: Annotated[
        str,
        typer.Option(
            help="`engine`: send batches to the engine, and share nothing else with the platform; `lake`: leave them "
            "in FINGERPOST_HOME, which the platform sees. Default: engine, if it is on another machine."
        ),
    ] = "",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics and /healthz; 0: none.")] = 0,
) -> None:
    """Reports this host's windows, request records and samples, or those of a proxy's hosts, until stopped.

    Request records come from one of: an access log, the middleware in the service, OpenTelemetry spans.
    """
    import psutil

    from fingerpost.agent.announcer import announced
    from fingerpost.agent.options import AgentOptions
    from fingerpost.agent.sampling import SAMPLERS
    from fingerpost.cli.stack.ports import PortUse, check_ports
    from fingerpost.errors import FingerpostError
    from fingerpost.home import keep_from_others, make_home
    from fingerpost.names import check_name
    from fingerpost.settings import get_settings

    settings = get_settings()
    if (host is None) == (proxy is None):
        raise FingerpostError("give --host for the agent of one host, or --proxy for that of all hosts of a proxy")
    name = host or proxy or ""
    try:
        check_name(name, "--host" if host else "--proxy")
        check_name(service or settings.service, "--service")
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    if drain and proxy:
        raise FingerpostError("--drain announces a host: give --host, and no --proxy")
    if drain:
        _drain(settings, service or settings.service, name, engine_url or settings.engine_url)
        return
    if sum([access_log is not None, middleware_socket is not None, otlp]) > 1:
        raise FingerpostError("give one of --access-log, --middleware-socket and --otlp: else requests count twice")
    if proxy:
        samples = (pid, pid_file, unit, match, cgroup, prometheus_url, cores, mem_limit_mb, slots, stats_url, address)
        engine = engine_url or settings.engine_url
        _check_proxy(access_log, engine, any(each is not None for each in samples))
    told = {"--pid": pid, "--pid-file": pid_file, "--unit": unit, "--match": match}
    if len(given := [option for option, value in told.items() if value is not None]) > 1:
        raise FingerpostError(f"give one of {' and '.join(given)}: each tells whom to measure")
    if access_log is not None:
        _check_log(access_log, log_format)
    if sampler not in SAMPLERS:
        raise FingerpostError(f"--sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    if deliver not in ("", "engine", "lake"):
        raise FingerpostError(f"--deliver {deliver!r} is neither engine nor lake")
    if deliver == "engine" and not (engine_url or settings.engine_url):
        raise FingerpostError("--deliver engine needs --engine-url, or FINGERPOST_ENGINE_URL")
    if otlp and not http_port:
        raise FingerpostError("--otlp needs --http-port: OpenTelemetry's usual one is 4318")
    if otlp and not settings.otlp_token and not settings.only_this_machine:
        raise FingerpostError(
            f"on {settings.bind_host} anybody could send the agent spans: set FINGERPOST_OTLP_TOKEN, "
            "or FINGERPOST_BIND_HOST=127.0.0.1"
        )
    if pid and not psutil.pid_exists(pid):
        raise FingerpostError(f"--pid {pid}: there is no such process; --pid-file, --unit and --match find it anew")
    for option, url in (("--stats-url", stats_url), ("--prometheus-url", prometheus_url), ("--engine-url", engine_url)):
        if url and not url.startswith(("http://", "https://")):
            raise FingerpostError(f"{option} {url!r} must begin with http:// or https://")
    url = engine_url or settings.engine_url
    where = settings.agent_address if address is None else address
    if where and not url:
        raise FingerpostError("--address is announced to the engine: give --engine-url, or FINGERPOST_ENGINE_URL")
    about = announced(where, url, zone or settings.agent_zone, host_class or settings.agent_class, slots)
    if http_port:
        check_ports([PortUse("agent", settings.bind_host, http_port, "--http-port")])
    # A lake that cannot be written at all is said here, to a person; later the agent would wait for it to come back.
    keep_from_others()
    make_home(settings.home)
    settings.lake.mkdir(parents=True, exist_ok=True)
    options_given: dict[str, Any] = {
        "service": service or settings.service,
        "host": name,
        "proxy": proxy is not None,
        "access_log": access_log.absolute() if access_log else None,
        "log_format": log_format,
        "middleware_socket": middleware_socket.absolute() if middleware_socket else None,
        "otlp": otlp,
        "sampler": sampler,
        "pid": pid,
        "pid_file": pid_file.absolute() if pid_file else None,
        "unit": unit,
        "match": match,
        "cgroup": cgroup,
        "prometheus_url": prometheus_url,
        "prometheus_labels": _labels(prometheus_label or []),
        "cores": cores,
        "mem_limit_bytes": round(mem_limit_mb * 2**20) if mem_limit_mb else None,
        "slots": slots,
        "stats_url": stats_url,
        "address": about.address,
        "zone": about.zone,
        "host_class": about.host_class,
        "engine_url": url,
        "deliver": deliver or ("engine" if _elsewhere(url) else "lake"),
        "http_port": http_port,
    }
    options = AgentOptions(**(_from_settings(settings) | options_given))
    _become(options, settings)


def _check_log(path: Path, log_format: str) -> None:
    """Raises a FingerpostError where the log or its format cannot be read."""
    from fingerpost.accesslog.formats import FORMAT_NAMES
    from fingerpost.accesslog.formats import log_format as known
    from fingerpost.errors import FingerpostError

    try:
        known(log_format)
    except FingerpostError as error:
        raise FingerpostError(f"--log-format: {error}; the names are {', '.join(FORMAT_NAMES)}") from error
    if path.exists() and not path.is_file():
        raise FingerpostError(
            f"--access-log {path} is not a regular file: a pipe is read once and cannot be followed after a restart; "
            "have the log written to a file (nginx in a container: access_log /var/log/nginx/file.log)"
        )


def _check_proxy(access_log: Path | None, engine_url: str, samples: bool) -> None:
    """Raises a FingerpostError where the agent of a proxy lacks something, or is given what only a host has."""
    from fingerpost.errors import FingerpostError

    if access_log is None:
        raise FingerpostError("--proxy needs --access-log: the proxy's log tells of its hosts, and nothing else does")
    if not engine_url:
        raise FingerpostError("--proxy needs --engine-url, or FINGERPOST_ENGINE_URL: what it sees goes to the engine")
    if samples:
        raise FingerpostError(
            "--proxy measures no host: leave out --pid and the like, --slots, --stats-url, --cores, --mem-limit-mb "
            "and --address, or run an agent with --host at the host"
        )


def _from_settings(settings: "Settings") -> dict[str, Any]:
    """Options that are settings: those of the same name, and those that have another unit or a longer name there."""
    from dataclasses import fields

    from fingerpost.agent.options import AgentOptions

    same = {field.name for field in fields(AgentOptions)} & set(type(settings).model_fields)
    return {name: getattr(settings, name) for name in same} | {
        "lake": settings.lake,
        "batch_s": settings.agent_batch_s,
        "sample_s": settings.agent_sample_s,
        "lines_per_s": settings.agent_lines_per_s,
        "decisions_per_s": settings.agent_decisions_per_s,
        "max_age_s": settings.max_age_days * 86400.0,
        "route_templates": tuple(settings.route_templates),
        "allowed_hosts": tuple(settings.allowed_hosts),
        "drain_s": settings.agent_drain_s,
        "spool_bytes": round(settings.agent_spool_mb * 2**20),
        "inbox_bytes": round(settings.agent_inbox_mb * 2**20),
        "max_quarantine_bytes": round(settings.max_quarantine_mb * 2**20),
    }


def _drain(settings: "Settings", service: str, host: str, url: str) -> None:
    """Tells the engine rather than the agent: so it works where the agent hangs, or runs as another user."""
    import time

    from fingerpost.announcement import DRAINING, Notice
    from fingerpost.cli.hosts import tell
    from fingerpost.errors import FingerpostError

    if not url:
        raise FingerpostError("--drain is told to the engine: give --engine-url, or FINGERPOST_ENGINE_URL")
    tell(url, settings.token_to_send, Notice(service, host, DRAINING))
    time.sleep(settings.agent_drain_s)
    typer.echo(f"{host} drains: routers send it nothing new")


def _elsewhere(url: str) -> bool:
    """Whether the engine is on another machine, where this one's folders are not seen."""
    from urllib.parse import urlsplit

    from fingerpost.settings import is_loopback

    return bool(url) and not is_loopback(urlsplit(url).hostname or "")


def _labels(pairs: list[str]) -> dict[str, str]:
    from fingerpost.errors import FingerpostError

    for pair in pairs:
        if "=" not in pair:
            raise FingerpostError(f"--prometheus-label {pair!r}: write it as name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _become(options: "AgentOptions", settings: "Settings") -> None:
    """Goes on as a fresh process: settings and command line, half of the memory, are not needed any more."""
    from fingerpost.agent.options import OPTIONS_VARIABLE
    from fingerpost.environment import python_module

    environment = {
        **os.environ,
        "FINGERPOST_LOG_LEVEL": settings.log_level,
        "FINGERPOST_LOG_FORMAT": settings.log_format,
        "FINGERPOST_ENGINE_TOKEN": settings.engine_token,
        "FINGERPOST_ENGINE_TOKEN_FILE": str(settings.engine_token_file or ""),
        "FINGERPOST_OTLP_TOKEN": settings.otlp_token,
        OPTIONS_VARIABLE: options.to_json(),
        # One thread is enough for arrays this small, and idle ones would cost memory.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # Memory that one thread let go of serves the others: 70 MB in place of 83 beside a proxy of 500 hosts.
        "MALLOC_ARENA_MAX": "1",
    }
    os.execve(sys.executable, python_module("fingerpost.agent.main", options.host), environment)  # noqa: S606
