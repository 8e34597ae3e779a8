"""The parts of the platform as commands: what `fingerpost up` and the demo start, and how each is known to answer."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from fingerpost.accesslog.envoy_format import FLUSH_MS
from fingerpost.cli.stack.ports import PortUse
from fingerpost.environment import own_origins, prefect_server_environment, python_module
from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings, get_settings

_PYTHON = sys.executable


@dataclass(frozen=True)
class Part:
    """One process of the platform.

    Args:
        what: what it is for, in a few words.
        health_url: answers with 200 once it is up; empty: it is up when it runs.
        address: where people find it; empty: nowhere.
        needs: parts that must be up before it starts, if they are there at all.
        ports: what it binds.
        env: variables of its own; secrets go this way, since arguments can be read by everybody on the machine.
        beats: it tells that it goes on (`fingerpost.heartbeat`), and is up once it has done so.
        reopens: a log that it writes itself, and opens anew at SIGUSR1.
        secret_file: where people find the credential that it asks for; None: it asks for none.
    """

    name: str
    what: str
    command: list[str]
    health_url: str = ""
    address: str = ""
    needs: tuple[str, ...] = ()
    ports: tuple[PortUse, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    beats: bool = False
    reopens: Path | None = None
    secret_file: Path | None = None


def platform_parts(settings: Settings, envoy: Part | None = None) -> list[Part]:
    """The parts that run on this machine by the settings: MLflow and Prefect only where no URL points elsewhere."""
    host = settings.bind_host
    engine, mlflow, prefect = settings.engine_port, settings.mlflow, settings.prefect
    parts = []
    if not settings.mlflow_url:
        ports = (PortUse("MLflow", LOOPBACK, settings.mlflow_port, "FINGERPOST_MLFLOW_PORT"),)
        command = mlflow_command(settings)
        parts.append(Part("mlflow", "models, records, reports", command, f"{mlflow}/health", mlflow, (), ports))
    if not settings.prefect_url:
        ports = (PortUse("Prefect", LOOPBACK, settings.prefect_port, "FINGERPOST_PREFECT_PORT"),)
        command, shown = prefect_command(settings), prefect.removesuffix("/api")
        env = prefect_server_environment(settings)
        secret = None if settings.prefect_auth else settings.prefect_credential_file
        what = "flows and their runs"
        parts.append(Part("prefect", what, command, f"{prefect}/health", shown, (), ports, env, secret_file=secret))
    ports = (PortUse("engine", host, engine, "FINGERPOST_ENGINE_PORT"),)
    address = settings.own_engine
    parts += [
        Part("engine", "predictions", fingerpost("engine"), f"{address}/livez", address, ("mlflow",), ports),
        Part("schedule", "runs the flows", fingerpost("schedule"), "", "", ("prefect", "mlflow"), beats=True),
        Part("router", "keeps the picker's table", router_command(settings), "", "", ("engine",), beats=True),
    ]
    return [*parts, envoy] if envoy else parts


def envoy_part(settings: Settings, config: Path, module: Path) -> Part:
    """Envoy with a configuration made beforehand and the native picker."""
    host = settings.bind_host
    ports = (
        PortUse("Envoy", host, settings.envoy_port, "FINGERPOST_ENVOY_PORT"),
        PortUse("Envoy admin", LOOPBACK, settings.envoy_admin_port, "FINGERPOST_ENVOY_ADMIN_PORT"),
    )
    command = [
        *(str(Path(_PYTHON).parent / "envoy"), "-c", str(config), "-l", "warn"),
        # Two Envoys on one machine need different ids; the port is one that is surely ours.
        *("--base-id", str(settings.envoy_admin_port), "--file-flush-interval-msec", str(FLUSH_MS)),
    ]
    return Part(
        "envoy",
        "the clients' door",
        command,
        f"http://{LOOPBACK}:{settings.envoy_admin_port}/ready",
        f"http://{settings.reach_host}:{settings.envoy_port}",
        (),
        ports,
        {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(module.parent)},
        reopens=access_log_path(settings),
    )


def access_log_path(settings: Settings) -> Path:
    """The log of the Envoy on this machine, by which the router judges predictions."""
    return settings.home / "access.log"


def router_command(settings: Settings) -> list[str]:
    """The router, with the access log: predictions that prove wrong lose their weight."""
    return fingerpost("router", "--access-log", str(access_log_path(settings)))


def fingerpost(*arguments: str) -> list[str]:
    """A command of this program."""
    return python_module("fingerpost", *arguments)


def prefect_command(settings: Settings) -> list[str]:
    """The Prefect server, on its port."""
    return [
        *python_module("prefect", "server", "start"),
        *("--host", LOOPBACK, "--port", str(settings.prefect_port)),
    ]


def registry_path(settings: Settings) -> Path:
    """The database of the MLflow that runs on this machine."""
    return settings.home / "mlflow.db"


def mlflow_command(settings: Settings) -> list[str]:
    """The MLflow server, on its port, with a database and artifacts in `home`."""
    return [
        *python_module("mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{registry_path(settings)}"),
        *("--artifacts-destination", str(settings.home / "mlartifacts")),
        *("--host", LOOPBACK, "--port", str(settings.mlflow_port)),
        # By default MLflow takes any name that begins like a private address, which `10.evil.example` does.
        *("--allowed-hosts", ",".join(_mlflow_hosts(settings))),
        *("--cors-allowed-origins", ",".join(own_origins(settings.mlflow_port))),
    ]


def _mlflow_hosts(settings: Settings) -> list[str]:
    # As patterns, in which a bracket must be in brackets.
    names = [LOOPBACK, "localhost", "[[]::1]", *settings.allowed_hosts]
    return [pattern for name in names for pattern in (name, f"{name}:*")]


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings as the variables that give the same settings to a child."""
    return {
        f"FINGERPOST_{name.upper()}": json.dumps(value) if isinstance(value, list | dict) else str(value)
        for name, value in settings.model_dump(mode="json", exclude_none=True).items()
    }


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """True if a GET of the URL is answered with 200 in time; of `https` only the engine's, as callers ask it."""
    parts = urlsplit(url)
    place = parts.hostname or "", parts.port
    try:
        tls = get_settings().engine_tls.context() if parts.scheme == "https" else None
    except FingerpostError:
        return False
    connection = (
        HTTPSConnection(*place, timeout=timeout_s, context=tls) if tls else HTTPConnection(*place, timeout=timeout_s)
    )
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
