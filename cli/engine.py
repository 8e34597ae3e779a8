"""`fingerpost engine`: the prediction engine, until stopped."""

import os
import ssl
import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(engine)


def engine(
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes; default: the setting.")] = None,
) -> None:
    """Serves the prediction engine, until stopped."""
    from fingerpost.cli.stack.ports import PortUse, check_ports
    from fingerpost.environment import apply_tool_environment, python_module
    from fingerpost.errors import FingerpostError
    from fingerpost.home import keep_from_others, make_home
    from fingerpost.settings import get_settings
    from fingerpost.settings.engine import NAME_TOKENS
    from fingerpost.tls import ClientTLS

    settings = get_settings()
    tokens = settings.accepted_tokens()
    tokens.check()
    if settings.engine_cert:
        ClientTLS(settings.engine_client_ca, settings.engine_cert, settings.engine_key).context()
    if not tokens.asked and not settings.only_this_machine:
        raise FingerpostError(
            f"on {settings.bind_host} anybody could send the engine reports: {NAME_TOKENS}; or set "
            "FINGERPOST_BIND_HOST=127.0.0.1"
        )
    check_ports([PortUse("engine", settings.bind_host, settings.engine_port, "FINGERPOST_ENGINE_PORT")])
    keep_from_others()
    apply_tool_environment(settings)
    if workers is not None:
        os.environ["FINGERPOST_ENGINE_WORKERS"] = str(workers)
    make_home(settings.home)
    service = ["fingerpost.serving.service:PredictionEngine", "--host", settings.bind_host]
    if settings.engine_cert and settings.engine_key:
        service += ["--ssl-certfile", str(settings.engine_cert), "--ssl-keyfile", str(settings.engine_key)]
    if settings.engine_client_ca:
        service += ["--ssl-ca-certs", str(settings.engine_client_ca), "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))]
    # BentoML imports from its working directory first, where a user may have folders of any name.
    service += ["--port", str(settings.engine_port), "--working-dir", str(settings.home.absolute())]
    os.execv(sys.executable, python_module("bentoml", "serve", *service))  # noqa: S606
