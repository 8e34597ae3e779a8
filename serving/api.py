"""The engine's HTTP API, version 1; mounted into the BentoML service, which adds workers and probes."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fingerpost import __version__, events
from fingerpost.announcement import MAX_BYTES, notice_from_json
from fingerpost.clock import US, clock_us
from fingerpost.engine_api import PARQUET, PICKER_HEADER
from fingerpost.errors import NoDataError, RefusedError
from fingerpost.experiment import ALIASES
from fingerpost.packed_message import MAX_MESSAGE_BYTES
from fingerpost.serving import api_models as models
from fingerpost.serving.answers import TooMuchError, UnknownError, predict, route
from fingerpost.serving.api_examples import add_examples
from fingerpost.serving.callers import CALLER, Callers, check_notice
from fingerpost.serving.engine import Engine
from fingerpost.serving.http import BodyLimitMiddleware, RefusedRequestError, Takes, problem
from fingerpost.serving.ingest import BusyError
from fingerpost.serving.landing import MAX_BATCH_BYTES, FullError
from fingerpost.serving.metrics import exposition
from fingerpost.serving.page.metrics import PageMetrics
from fingerpost.serving.page.routes import router
from fingerpost.serving.store import StoreError
from fingerpost.serving.views import Published
from fingerpost.tokens import AGENT, PERSON, PROXY
from fingerpost.window_report import MEDIA_TYPE

MAX_WAIT_S = 20.0
_JSON = "application/json"
_TAKEN_FOR_JSON = (_JSON, "application/*", "*/*")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Problem, "description": text}
    for status, text in {
        400: "The request cannot be read.",
        401: "A bearer token is needed.",
        403: "The request is of a web page from elsewhere, or its token is of another role.",
        404: "There is no such thing.",
        406: "No such format.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        415: "The body is of another media type.",
        503: "Not now; try again.",
    }.items()
}
_NOTHING_STORED: dict[int | str, dict[str, Any]] = {
    409: {"model": models.Refusal, "description": "No report is newer than what is there."},
    422: {"model": models.Refusal, "description": "No report can be taken."},
}
Service = Annotated[str, InPath(pattern=models.NAME, description="Name of the service.")]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint, for its description."""
    return {status: _PROBLEMS[status] for status in statuses}


class _Described(FastAPI):
    """The application; its description has an example of each call."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = add_examples(super().openapi())
        return self.openapi_schema


app = _Described(
    title="Fingerpost prediction engine",
    version=__version__,
    description="Window reports in, routing tables out.",
    openapi_url="/v1/openapi.json",
    docs_url=None,
    redoc_url=None,
    responses=_problems(401, 403),
)
_QUESTION = Takes(_JSON, 2**20)
_REPORTS, _HOSTS, _DECISIONS = frozenset({AGENT, PROXY}), frozenset({AGENT, PERSON}), frozenset({PERSON})
_TAKES = {
    "/v1/reports": Takes(MEDIA_TYPE, MAX_MESSAGE_BYTES, _REPORTS),
    "/v1/batches": Takes(PARQUET, MAX_BATCH_BYTES, _REPORTS),
    "/v1/members": Takes(_JSON, MAX_BYTES, _HOSTS),
    "/v1/events": Takes(_JSON, events.MAX_BYTES, _DECISIONS),
    "/v1/events/withdrawn": Takes(_JSON, events.MAX_BYTES, _DECISIONS),
    "/v1/predict": _QUESTION,
    "/v1/route": _QUESTION,
}
app.add_middleware(BodyLimitMiddleware, takes=_TAKES)
# The outermost: the body of a caller who may not call is not even read.
app.add_middleware(Callers, takes=_TAKES)
app.include_router(router)


@app.post(
    "/v1/reports",
    response_model=models.Receipt,
    responses={**_problems(400, 401, 408, 413, 415, 503), **_NOTHING_STORED},
    openapi_extra={
        "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        "security": [{"bearer": []}],
    },
)
async def reports_endpoint(request: Request) -> Response:
    """Takes a message of window reports (msgpack in gzip); answers once they are stored.

    A message that cannot be read is an error; of a readable message the good reports are kept and the others
    counted. If none of them is good that is an error too, with the same counts.
    """
    engine = _engine_of(request)
    try:
        receipt = await engine.ingest.accept(await request.body())
    except RefusedError as error:
        raise RefusedRequestError(
            413 if error.reason.endswith(("too_large", "too_many")) else 400, error.reason
        ) from error
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}", {"retry-after": "2"}) from error
    except BusyError as error:
        raise RefusedRequestError(503, "too many messages wait", {"retry-after": "1"}) from error
    table = engine.categories.table(min(receipt.services)) if receipt.services else None
    answer = {**receipt.to_json(), "category_version": table.version if table else None}
    if receipt.status != 200:
        answer["error"] = receipt.error
    return _json_answer(answer, receipt.status)


@app.post(
    "/v1/batches",
    status_code=204,
    responses=_problems(400, 401, 408, 413, 415, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}},
        "security": [{"bearer": []}],
    },
)
async def batches_endpoint(
    request: Request,
    kind: Annotated[str, Query(description="`samples` or `requests`.")],
    service: Annotated[str, Query(pattern=models.NAME)],
    name: Annotated[str, Query(description="Of the batch; one that comes again under its name replaces itself.")],
) -> Response:
    """Lands a batch of telemetry in the lake's inbox, for hosts that share no folder with the platform."""
    engine = _engine_of(request)
    try:
        await asyncio.to_thread(engine.landing.land, kind, service, name, await request.body())
    except RefusedError as error:
        engine.metrics.refused(error.reason, 1)
        raise RefusedRequestError(400, error.reason) from error
    except FullError as error:
        raise RefusedRequestError(503, f"the inbox is full: {error}", {"retry-after": "60"}) from error
    except OSError as error:
        raise RefusedRequestError(503, f"the lake cannot be written: {error.strerror}") from error
    return Response(status_code=204)


@app.post(
    "/v1/members",
    response_model=models.MemberState,
    responses=_problems(400, 401, 408, 413, 415, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {_JSON: {"schema": models.MemberNotice.model_json_schema()}}},
        "security": [{"bearer": []}],
    },
)
async def members_endpoint(request: Request) -> Response:
    """Takes what an agent announces of its host, or an operator decides: it serves, drains, or is removed."""
    engine = _engine_of(request)
    try:
        notice = notice_from_json(await request.body())
        check_notice(notice, request.scope[CALLER])
        state = await asyncio.to_thread(engine.roster.take, notice, clock_us())
    except RefusedError as error:
        engine.metrics.refused(error.reason, 1)
        raise RefusedRequestError(400, error.reason) from error
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}", {"retry-after": "2"}) from error
    return _json_answer({"state": state})


@app.post(
    "/v1/events",
    status_code=204,
    responses=_problems(400, 401, 408, 413, 415, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {_JSON: {"schema": models.EventNotice.model_json_schema()}}},
        "security": [{"bearer": []}],
    },
)
async def events_endpoint(request: Request) -> Response:
    """Takes an event that concerns a service or a host; the same event told again changes nothing."""
    engine = _engine_of(request)
    return await _event_answer(
        engine, lambda body: engine.events.take(events.event_from_json(body, clock_us())), await request.body()
    )


@app.post(
    "/v1/events/withdrawn",
    status_code=204,
    responses=_problems(400, 401, 408, 413, 415, 503),
    openapi_extra={
        "requestBody": {"required": True, "content": {_JSON: {"schema": models.EventWithdrawal.model_json_schema()}}},
        "security": [{"bearer": []}],
    },
)
async def withdrawn_events_endpoint(request: Request) -> Response:
    """Withdraws an event that was told: from now on it is not known. Withdrawn again, it stays as it is."""
    engine = _engine_of(request)
    return await _event_answer(
        engine,
        lambda body: engine.events.withdraw(*events.withdrawal_from_json(body), clock_us()),
        await request.body(),
    )


async def _event_answer(engine: Engine, take: Callable[[bytes], None], body: bytes) -> Response:
    try:
        await asyncio.to_thread(take, body)
    except RefusedError as error:
        engine.metrics.refused(error.reason, 1)
        raise RefusedRequestError(413 if error.reason == "event:too_large" else 400, error.reason) from error
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}", {"retry-after": "2"}) from error
    except FullError as error:
        raise RefusedRequestError(503, f"the inbox is full: {error}", {"retry-after": "60"}) from error
    except OSError as error:
        raise RefusedRequestError(503, f"the lake cannot be written: {error.strerror}") from error
    return Response(status_code=204)


@app.get(
    "/v1/services/{service}/events",
    response_model=models.EventListing,
    # A path that leads nowhere is answered by the server around this application, in plain text.
    responses={**_problems(400, 503), 404: {**_PROBLEMS[404], "content": {"text/plain": {}}}},
)
async def listed_events_endpoint(request: Request, service: Service) -> Response:
    """Lists the events of a service that are to come, or ended in the last eight days."""
    engine = _engine_of(request)
    try:
        found = await asyncio.to_thread(engine.events.listing, service)
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}", {"retry-after": "2"}) from error
    return _json_answer({"events": [each.listed() for each in found]})


@app.post("/v1/predict", response_model=models.Prediction, responses=_problems(400, 404, 408, 413, 415, 503))
async def predict_endpoint(request: Request, asked: models.PredictRequest) -> Response:
    """Predicts throughput and latency of every host, for categories or for one request."""
    engine = _engine_of(request)
    view, name = await engine.view(asked.service), f"fingerpost-{asked.service}"
    try:
        published = view.published if view else None
        table = published.table if published else await asyncio.to_thread(engine.lake_table, asked.service)
    except NoDataError as error:
        raise RefusedRequestError(503, f"no reports of {asked.service!r}: {error}") from error
    return _json_answer(await asyncio.to_thread(predict, table, asked, name, engine.settings.latency_weight))


@app.post("/v1/route", response_model=models.Route, responses=_problems(400, 404, 408, 413, 415, 503))
async def route_endpoint(request: Request, asked: models.RouteRequest) -> Response:
    """Names the best host for a request, and the cost of each: for callers without a proxy."""
    published = await _published_table(request, asked.service)
    return _json_answer(route(published.table, asked, _engine_of(request).settings.latency_weight))


@app.get(
    "/v1/services/{service}/table",
    response_model=models.TableJson,
    responses={
        200: {"description": "The table, with its version as ETag."},
        304: {"description": "The table is the one the caller has; the header `x-fingerpost-expires-at` is new."},
        **_problems(400, 404, 406, 503),
    },
)
async def table_endpoint(
    request: Request,
    service: Service,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for another table.")] = 0.0,
    arm: Annotated[
        Literal["champion", "challenger", "challenger-2", "challenger-3", "challenger-4"] | None,
        Query(description="This arm's table, whichever is in force; for people to look at."),
    ] = None,
) -> Response:
    """Gives the routing table of a service."""
    engine = _engine_of(request)
    if not _takes_json(request.headers.get("accept", "")):
        raise RefusedRequestError(406, f"the table is {_JSON}")
    published = await _published_table(request, service, arm)
    held = request.headers.get("if-none-match", "")
    ttl_s = engine.settings.table_ttl_s
    if wait and _etag(published) in held and engine.may_wait():
        view = await engine.view(service)
        if view is not None:
            with engine.waits():
                await view.changed(published.table.version, wait, arm)
            published = view.chosen(arm) or published
    headers = {
        "etag": _etag(published),
        "cache-control": "no-cache",
        "x-fingerpost-expires-at": f"{published.expires_at(ttl_s):.3f}",
    }
    if who := request.headers.get(PICKER_HEADER):
        engine.pickers.note(service, who, round(published.expires_at(0.0) * US))
    if (stale := engine.stale()) is not None:
        headers["x-fingerpost-stale"] = stale.encode("ascii", "replace").decode()
    if headers["etag"] in held:
        return Response(status_code=304, headers=headers)
    body = published.rendered or await asyncio.to_thread(published.render, ttl_s)
    return Response(body, headers=headers, media_type=_JSON)


@app.get(
    "/v1/services/{service}/hosts",
    response_model=models.Roster,
    responses={
        200: {"description": "The hosts; the ETag changes with all but `heard`."},
        304: {"description": "All but `heard` is as the caller has it."},
        **_problems(400, 503),
    },
)
async def roster_endpoint(request: Request, service: Service) -> Response:
    """Lists the hosts of a service: where they are, whether they take new requests, and when each was last heard of."""
    engine = _engine_of(request)
    try:
        read = engine.roster.listing
        etag, body = await asyncio.get_running_loop().run_in_executor(engine.store_reads, read, service)
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}") from error
    headers = {"etag": etag, "cache-control": "no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=_JSON)


@app.get(
    "/v1/services/{service}/categories",
    responses={200: {"content": {_JSON: {"schema": {"type": "object"}}}}, **_problems(400, 404)},
)
async def categories_endpoint(request: Request, service: Service) -> Response:
    """Gives the category table of a service, as agents and pickers use it."""
    table = await asyncio.to_thread(_engine_of(request).categories.table, service)
    if table is None:
        raise UnknownError(f"there is no category table of {service!r} yet")
    return _json_answer(table.to_json())


@app.get("/v1/hosts", response_model=models.Hosts, responses=_problems(400, 503))
async def hosts_endpoint(
    request: Request, service: Annotated[str | None, Query(pattern=models.NAME)] = None
) -> Response:
    """Lists the hosts the store knows, and the ages of their reports."""
    engine, now = _engine_of(request), time.time()
    live_s = (-engine.settings.clock_skew_s, engine.settings.fingerprint_ttl_s)
    try:
        rows = await asyncio.get_running_loop().run_in_executor(engine.store_reads, engine.store.hosts)
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}") from error
    found = [
        {
            "service": name,
            "host": host,
            "age_s": round(now - time_us / 1e6, 3),
            "live": live_s[0] <= now - received_us / 1e6 <= live_s[1],
            "first_seen": first_seen_us / 1e6,
        }
        for name, host, time_us, received_us, first_seen_us in rows
        if service in (None, name)
    ]
    return _json_answer({"hosts": found})


@app.get("/v1/models", response_model=models.Models)
async def models_endpoint(request: Request) -> Response:
    """Lists the models in use, and why others are not."""
    engine = _engine_of(request)
    rows = []
    for service in sorted({engine.settings.service, *engine.refresher.services()}):
        scored = engine.refresher.scored(service)
        for alias in ALIASES:
            slot = engine.models.slot(service, alias)
            contested = scored if scored is not None and scored.scorer is slot.model is not None else None
            rows.append(
                {
                    "service": service,
                    "model_name": f"fingerpost-{service}",
                    "alias": alias,
                    "version": slot.model.version if slot.model else None,
                    "points_at": slot.tried.version if slot.tried else None,
                    "problem": slot.problem,
                    "by_baseline": len(contested.by_baseline) if contested else 0,
                    "reason": contested.reason if contested else "",
                }
            )
    return _json_answer({"registry_problem": engine.models.registry_problem, "models": rows})


@app.get("/v1/health", response_model=models.Health)
async def health_endpoint(request: Request) -> Response:
    """Tells how the engine is; always 200, see `/readyz` for whether it wants requests."""
    return _json_answer(_engine_of(request).health())


@app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics_endpoint(request: Request) -> Response:
    """Gives the Prometheus metrics of all workers."""
    _engine_of(request).note_state()
    text, media_type = await asyncio.to_thread(exposition, PageMetrics(_engine_of(request)))
    return Response(text, headers={"content-type": media_type})


@app.exception_handler(RefusedRequestError)
async def _refused(_request: Request, error: RefusedRequestError) -> Response:
    return problem(error.status, error.error, error.headers)


@app.exception_handler(UnknownError)
async def _unknown(_request: Request, error: UnknownError) -> Response:
    return problem(404, str(error))


@app.exception_handler(TooMuchError)
async def _too_much(_request: Request, error: TooMuchError) -> Response:
    return problem(400, str(error))


@app.exception_handler(RequestValidationError)
async def _invalid(_request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    return problem(400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:500])


@app.exception_handler(HTTPException)
async def _http(_request: Request, error: HTTPException) -> Response:
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


def _engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _published_table(request: Request, service: str, arm: str | None = None) -> Published:
    """The table of a service: of an arm, or the one in force.

    Raises:
        UnknownError: it has no live hosts, or no such arm now.
        RefusedRequestError: there is no table yet, and the store cannot be used.
    """
    engine = _engine_of(request)
    view = await engine.view(service)
    if view is None or view.published is None:
        if engine.store.problem:
            raise RefusedRequestError(503, f"no table yet, and the store cannot be used: {engine.store.problem}")
        raise UnknownError(f"service {service!r} has no live hosts")
    published = view.chosen(arm)
    if published is None:
        raise UnknownError(f"there is no table of the {arm}: no experiment is running that needs it")
    return published


def _json_answer(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=_JSON)


def _etag(published: Published) -> str:
    return f'"{published.table.version}-json"'


def _takes_json(accept: str) -> bool:
    given = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return not accept.strip() or any(each in _TAKEN_FOR_JSON for each in given)
