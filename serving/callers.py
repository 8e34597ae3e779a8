"""Who may call the engine: who has the token, and else nobody that a web page in a browser could have sent."""

from fingerpost.origins import FORM, HOST, ORIGIN, has_token, own_names, refusal
from fingerpost.serving.http import App, Receive, Scope, Send, problem
from fingerpost.serving.metrics import engine_metrics
from fingerpost.settings import Settings

_SETTING = "set FINGERPOST_ALLOWED_HOSTS at the engine, or send the token"
_WHY = {
    HOST: (403, f"the engine is not called {{host!r}}: {_SETTING}"),
    ORIGIN: (403, "requests of web pages from elsewhere are refused"),
    FORM: (415, "forms are refused"),
}
_SHOWN = 100


class Callers:
    """Refuses, and counts by reason, before anything of a body is read.

    BentoML's probes are outside of it: they are asked by whatever name a cluster has for a pod, and tell nothing.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._names: tuple[Settings, tuple[str, ...]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        def header(name: str) -> str:
            return sent.get(name, "")

        settings: Settings = scope["app"].state.engine.settings
        reason = None
        if not has_token(header("authorization"), settings.engine_token):
            reason = refusal(scope["method"], header, self._names_of(settings))
        if reason is None:
            await self._app(scope, receive, send)
            return
        engine_metrics().refused(reason, 1)
        status, text = _WHY[reason]
        answer = problem(status, text.format(host=header("host")[:_SHOWN]), {"connection": "close"})
        await answer(scope, receive, send)

    def _names_of(self, settings: Settings) -> tuple[str, ...]:
        if self._names is None or self._names[0] is not settings:
            self._names = (settings, own_names(settings.bind_host, settings.allowed_hosts))
        return self._names[1]
