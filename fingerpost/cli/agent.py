"""`fingerpost agent`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(agent)


def agent(
    host: Annotated[str, typer.Option(help="Name of this host, as the access log calls it.")],
    service: Annotated[str | None, typer.Option(help="Service it serves; default FINGERPOST_SERVICE.")] = None,
    access_log: Annotated[
        Path | None, typer.Option(help="Access log to follow; lines of other hosts are left.")
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="Of the access log: envoy, combined (Apache, nginx) or haproxy.")
    ] = "envoy",
    pid: Annotated[int | None, typer.Option(min=1, help="The service's process; default: the whole machine.")] = None,
    cores: Annotated[float | None, typer.Option(min=0.01, help="Cores it may use; default: the machine's.")] = None,
    mem_limit_mb: Annotated[
        float | None, typer.Option(min=1, help="Memory it may use; default: the machine's.")
    ] = None,
    stats_url: Annotated[str | None, typer.Option(help='Where the host tells {"inflight": n, "slots": n}.')] = None,
) -> None:
    """Reports this host's request records and samples into the lake, until stopped."""
    import json

    import psutil

    from fingerpost.errors import FingerpostError
    from fingerpost.names import check_name
    from fingerpost.settings import get_settings
    from fleet.log_formats import LOG_FORMATS

    settings = get_settings()
    try:
        check_name(host, "--host")
        check_name(service or settings.service, "--service")
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    if log_format not in LOG_FORMATS:
        raise FingerpostError(f"--log-format {log_format!r} is not one of {', '.join(LOG_FORMATS)}")
    if pid and not psutil.pid_exists(pid):
        raise FingerpostError(f"--pid {pid}: there is no such process")
    # A lake that cannot be written at all is said here, to a person; later the agent would wait for it to come back.
    settings.lake.mkdir(parents=True, exist_ok=True)
    if stats_url and not stats_url.startswith(("http://", "https://")):
        raise FingerpostError(f"--stats-url {stats_url!r} must begin with http:// or https://")
    options = {
        "lake": str(settings.lake),
        "service": service or settings.service,
        "host": host,
        "access_log": str(access_log.absolute()) if access_log else None,
        "log_format": log_format,
        "pid": pid,
        "cores": cores,
        "mem_limit_bytes": round(mem_limit_mb * 2**20) if mem_limit_mb else None,
        "stats_url": stats_url,
        "batch_s": settings.agent_batch_s,
        "sample_s": settings.agent_sample_s,
        "clock_skew_s": settings.clock_skew_s,
        "max_age_s": settings.max_age_days * 86400.0,
        "log_level": settings.log_level,
        "own_log_format": settings.log_format,
    }
    # A fresh process: settings and command line, half of the memory, are not needed any more.
    os.execv(sys.executable, [sys.executable, "-m", "fleet.agent_main", json.dumps(options)])  # noqa: S606
