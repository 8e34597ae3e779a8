"""Who may call the engine: no web page from elsewhere, and of others who has a token of the role that a call needs."""

from collections.abc import Mapping

from starlette.datastructures import Headers

from fingerpost.announcement import DRAINING, REMOVED, Notice
from fingerpost.origins import FORM, HOST, ORIGIN, bearer, own_names, password, refusal
from fingerpost.serving.http import App, Receive, RefusedRequestError, Scope, Send, Takes, problem
from fingerpost.serving.metrics import engine_metrics
from fingerpost.settings import Settings
from fingerpost.tokens import PERSON, ROLES

# In the scope of a request: the roles of who sent it.
CALLER = "fingerpost.roles"
MISSING, NOT_KNOWN, ROLE = "token:missing", "token:unknown", "token:role"
_SETTING = "set FINGERPOST_ALLOWED_HOSTS at the engine, or send the token"
_WHY = {
    HOST: (403, f"the engine is not called {{host!r}}: {_SETTING}"),
    ORIGIN: (403, "requests of web pages from elsewhere are refused"),
    FORM: (415, "forms are refused"),
}
_READING = ("GET", "HEAD")
# Prometheus reads numbers without names of clients; the icon is no secret. Probes do not come this far.
_OPEN = frozenset({"/metrics", "/favicon.ico"})
_NEEDED = "a bearer token is needed"
# The one that browsers understand comes first: some look at no other.
_BOTH = 'Basic realm="Fingerpost: any name, and a token for a password", Bearer'
_SHOWN = 100


class _RefusedCallerError(RefusedRequestError):
    """A caller is refused, for a stable reason that is counted."""

    def __init__(self, reason: str, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, error, headers)
        self.reason = reason


class Callers:
    """Refuses callers without a token whom a web page could have sent, and calls without a token of the role they need.

    What changes anything takes a token where the engine has any. Once the engine listens beyond the loopback, reading
    takes one too, of whatever role; a browser may send it as a password. Nothing of a body is read before.

    BentoML's probes stay outside: clusters ask them by any name of a pod, and they reveal nothing.

    Args:
        takes: as of `BodyLimitMiddleware`, with the roles that a path needs.
    """

    def __init__(self, app: App, takes: Mapping[str, Takes]) -> None:
        self._app, self._takes = app, takes
        self._names: tuple[Settings, tuple[str, ...]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope[CALLER] = self._roles(scope)
        except _RefusedCallerError as error:
            engine = scope["app"].state.engine
            engine_metrics().refused(error.reason, 1)
            if error.status == 401 and scope["method"] == "POST":
                engine.refusals.note(0, {error.reason: 1})
            headers = {"connection": "close", **(error.headers or {})}
            await problem(error.status, error.error, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _roles(self, scope: Scope) -> frozenset[str]:
        """The roles of a caller who may call.

        Raises:
            _RefusedCallerError: he may not.
        """
        engine, headers = scope["app"].state.engine, Headers(scope=scope)
        authorization = headers.get("authorization", "")
        given = bearer(authorization)
        roles: frozenset[str] = engine.tokens.roles_of(given) if given else frozenset()
        method, path = scope["method"], scope["path"]
        # Browsers send a password unasked, with what other pages make them ask too: it opens nothing but reading.
        if not roles:
            reason = refusal(method, lambda name: headers.get(name, ""), self._names_of(engine.settings))
            if reason is not None:
                status, text = _WHY[reason]
                raise _RefusedCallerError(reason, status, text.format(host=headers.get("host", "")[:_SHOWN]))
        if not engine.tokens.asked:
            return ROLES
        reads = method in _READING
        takes = self._takes.get(path) if not reads else None
        if takes is not None and takes.roles:
            if not roles:
                raise _RefusedCallerError(NOT_KNOWN if given else MISSING, 401, _NEEDED, {"www-authenticate": "Bearer"})
            if not roles & takes.roles:
                raise _RefusedCallerError(ROLE, 403, _other_role(roles, f"{method} {path}", takes.roles))
        elif engine.reading_asks and path not in _OPEN and not roles:
            secret = password(authorization) if reads else ""
            roles = engine.tokens.roles_of(secret) if secret else frozenset()
            if not roles:
                asked = {"www-authenticate": _BOTH if reads else "Bearer"}
                raise _RefusedCallerError(NOT_KNOWN if given or secret else MISSING, 401, _NEEDED, asked)
        return roles

    def _names_of(self, settings: Settings) -> tuple[str, ...]:
        if self._names is None or self._names[0] is not settings:
            self._names = (settings, own_names(settings.bind_host, settings.allowed_hosts))
        return self._names[1]


def check_notice(notice: Notice, roles: frozenset[str]) -> None:
    """Lets an agent announce its host, and let it drain; to remove it, or take it back, is a person's.

    Raises:
        RefusedRequestError: the roles are others.
    """
    own = notice.state == DRAINING or (notice.boot_id and notice.state != REMOVED)
    if not own and PERSON not in roles:
        engine_metrics().refused(ROLE, 1)
        raise RefusedRequestError(403, _other_role(roles, "to remove or resume a host", {PERSON}))


def _other_role(roles: frozenset[str], what: str, needed: frozenset[str] | set[str]) -> str:
    return f"the token is of role {_named(roles)}: {what} needs one of role {_named(needed)}"


def _named(roles: frozenset[str] | set[str]) -> str:
    return " or ".join(sorted(roles))
