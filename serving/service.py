"""The prediction engine as a BentoML service: `bentoml serve fingerpost.serving.service:PredictionEngine`."""

import gc
import sys

import bentoml

from fingerpost.environment import apply_tool_environment
from fingerpost.errors import FingerpostError
from fingerpost.logs import configure_logs
from fingerpost.serving import bento_compat
from fingerpost.serving.api import app
from fingerpost.settings import Settings, get_settings, is_loopback
from fingerpost.settings.engine import NAME_TOKENS

_SWITCH_S = 0.0005
bento_compat.install()


@bentoml.service(name="fingerpost-engine", workers=get_settings().engine_workers, **bento_compat.SERVICE_OPTIONS)
@bentoml.asgi_app(app, path="/")
class PredictionEngine:
    """Fingerprints in, routing tables out: predicts throughput and latency of every host for every category."""

    def __init__(self) -> None:
        from fingerpost.serving.engine import Engine

        settings = get_settings()
        apply_tool_environment(settings)
        configure_logs(settings.log_level, settings.log_format)
        bento_compat.quieten_logs()
        address = bento_compat.listening_address() or settings.bind_host
        require_token_unless_loopback(settings, address)
        _preload_models()
        self._engine = Engine(settings)
        self._engine.reading_asks = not is_loopback(address)
        app.state.engine = self._engine
        self._engine.start()
        _tune_runtime()

    @bentoml.on_shutdown
    def close(self) -> None:
        self._engine.stop()
        bento_compat.remove_own_metrics()

    async def __is_ready__(self) -> bool:
        return self._engine.ready()


def require_token_unless_loopback(settings: Settings, address: str) -> None:
    """Refuses to serve others than this machine without a token.

    Raises:
        FingerpostError: it would, or a file of tokens cannot be read.
    """
    tokens = settings.accepted_tokens()
    tokens.check()
    if not tokens.asked and not is_loopback(address):
        raise FingerpostError(f"the engine would listen on {address}, where anybody could send reports: {NAME_TOKENS}")


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
    from fingerpost.client_attributes import user_agent_class

    user_agent_class("Mozilla/5.0")
