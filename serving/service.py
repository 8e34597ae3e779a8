"""The prediction engine as a BentoML service: `bentoml serve fingerpost.serving.service:PredictionEngine`."""

import contextlib
import gc
import logging
import os
import socket
import sys
from typing import Any

import bentoml
from bentoml._internal.server.http import traffic

from fingerpost.environment import apply_tool_environment
from fingerpost.errors import FingerpostError
from fingerpost.logs import FewAlike, configure_logs
from fingerpost.serving.api import app
from fingerpost.serving.connections import guard_connections
from fingerpost.serving.metrics_folder import remove_own
from fingerpost.serving.time_limit import TimeLimit
from fingerpost.settings import Settings, get_settings, is_loopback

# BentoML's own traffic metrics have a series for every path anybody asks for, without bound; ours are by endpoint.
# Its tracing and access log cost more than the answers themselves.
_OPTIONS: dict[str, Any] = {
    "workers": get_settings().engine_workers,
    "traffic": {"timeout": 60},
    "metrics": {"enabled": False},
    "tracing": {"excluded_urls": ".*"},
    "logging": {"access": {"enabled": False}},
}
_SWITCH_S = 0.0005
# BentoML's cannot be turned off, and has no place for another.
traffic.TimeoutMiddleware = TimeLimit  # type: ignore[misc, assignment]
guard_connections()


@bentoml.service(name="fingerpost-engine", **_OPTIONS)
@bentoml.asgi_app(app, path="/")
class PredictionEngine:
    """Fingerprints in, routing tables out: predicts throughput and latency of every host for every category."""

    def __init__(self) -> None:
        from fingerpost.serving.engine import Engine

        settings = get_settings()
        apply_tool_environment(settings)
        configure_logs(settings.log_level, settings.log_format)
        # A line a request, formatted only to be thrown away, is a tenth of what a request costs.
        logging.getLogger("uvicorn.access").propagate = False
        # It warns of every request that is none.
        logging.getLogger("uvicorn.error").addFilter(FewAlike())
        require_token_unless_loopback(settings, _listening_address() or settings.bind_host)
        _preload_models()
        self._engine = Engine(settings)
        app.state.engine = self._engine
        self._engine.start()
        _tune_runtime()

    @bentoml.on_shutdown
    def close(self) -> None:
        self._engine.stop()
        remove_own()

    async def __is_ready__(self) -> bool:
        return self._engine.ready()


def require_token_unless_loopback(settings: Settings, address: str) -> None:
    """Refuses to serve others than this machine without a token.

    Raises:
        FingerpostError: it would.
    """
    if not settings.engine_token and not is_loopback(address):
        raise FingerpostError(
            f"the engine would listen on {address}, where anybody could send fingerprints: set FINGERPOST_ENGINE_TOKEN"
        )


def _listening_address() -> str | None:
    """The address of the socket that BentoML hands to its workers (`--fd`); None if there is none."""
    arguments = sys.argv
    with contextlib.suppress(ValueError, IndexError, OSError):
        descriptor = int(arguments[arguments.index("--fd") + 1])
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                return str(listening.getsockname()[0])
            return "127.0.0.1"
    return None


def _tune_runtime() -> None:
    # A thread that computes gives way to the one that answers after this time, ten times sooner than by default.
    sys.setswitchinterval(_SWITCH_S)
    # All that is loaded by now stays. To look through it for what can be freed takes 0.12 s of a core, in which nobody
    # else runs; on a busy machine that was seen to be a second.
    gc.collect()
    gc.freeze()


def _preload_models() -> None:
    # Seconds of importing and compiling now, not while requests are served; and tables of user agents.
    import lightgbm  # noqa: F401

    import fingerpost.training.trees.kernel  # noqa: F401
    from fingerpost.clients import user_agent_class

    user_agent_class("Mozilla/5.0")
