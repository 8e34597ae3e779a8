"""The engine's HTTP API, version 1; mounted into the BentoML service, which adds workers and probes."""

import asyncio
import time
from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fingerpost import __version__
from fingerpost.aliases import ALIASES
from fingerpost.errors import RefusedError
from fingerpost.fingerprint import MEDIA_TYPE
from serving import api_models as models
from serving.answers import TooMuchError, UnknownError, predict, route
from serving.core import Engine
from serving.http import Door, RefusedRequestError, check_token, problem
from serving.ingest import BusyError
from serving.lake_answers import predict_from_lake
from serving.metrics import exposition
from serving.store import StoreError
from serving.table_formats import ARROW, JSON, LUA
from serving.views import Published

MAX_WAIT_S = 20.0
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Problem, "description": text}
    for status, text in {
        400: "The request cannot be read.",
        401: "A bearer token is needed.",
        404: "There is no such thing.",
        406: "No such format.",
        413: "The body is too large.",
        415: "The body is of another media type.",
        503: "Not now; try again.",
    }.items()
}
_NOTHING_STORED: dict[int | str, dict[str, Any]] = {
    409: {"model": models.Refusal, "description": "No fingerprint is newer than what is there."},
    422: {"model": models.Refusal, "description": "No fingerprint can be taken."},
}
Service = Annotated[str, InPath(pattern=models.NAME, description="Name of the service.")]

app = FastAPI(
    title="Fingerpost prediction engine",
    version=__version__,
    description="Fingerprints in, routing tables out.",
    openapi_url="/v1/openapi.json",
    docs_url=None,
    redoc_url=None,
)
app.add_middleware(Door)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint, for its description."""
    return {status: _PROBLEMS[status] for status in statuses}


def engine_of(request: Request) -> Engine:
    """This worker's engine."""
    engine: Engine = request.app.state.engine
    return engine


@app.post(
    "/v1/fingerprints",
    response_model=models.Receipt,
    responses={**problems(400, 401, 413, 415, 503), **_NOTHING_STORED},
    openapi_extra={
        "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        "security": [{"bearer": []}],
    },
)
async def fingerprints(request: Request) -> Response:
    """Takes a message of fingerprints (msgpack in gzip); answers once they are stored.

    What cannot be read at all is an error; of a readable message the good fingerprints are kept and the others counted.
    If none of them is good that is an error too, with the same counts.
    """
    engine = engine_of(request)
    check_token(request, engine.settings.engine_token)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != MEDIA_TYPE:
        raise RefusedRequestError(415, f"send fingerprints as {MEDIA_TYPE}")
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
    return _json(answer, receipt.status)


@app.post("/v1/predict", response_model=models.Prediction, responses=problems(400, 404, 413, 503))
async def predict_endpoint(request: Request, asked: models.PredictRequest) -> Response:
    """Predicts throughput and latency of every host, for categories or for one request."""
    engine = engine_of(request)
    view = await engine.view(asked.service)
    if view is None or view.published is None:
        return _json(await asyncio.to_thread(predict_from_lake, engine, asked))
    table, name = view.published.table, f"fingerpost-{asked.service}"
    return _json(await asyncio.to_thread(predict, table, asked, name, engine.settings.latency_weight))


@app.post("/v1/route", response_model=models.Route, responses=problems(400, 404, 413, 503))
async def route_endpoint(request: Request, asked: models.RouteRequest) -> Response:
    """Names the best host for a request, and the cost of each: for callers without a proxy."""
    published = await _published(request, asked.service)
    return _json(route(published.table, asked, engine_of(request).settings.latency_weight))


@app.get(
    "/v1/services/{service}/table",
    response_model=models.TableJson,
    responses={
        200: {"content": {LUA: {}, ARROW: {}}, "description": "The table, with its version as ETag."},
        304: {"description": "The table is the one the caller has; the header `x-fingerpost-expires-at` is new."},
        **problems(400, 404, 406, 503),
    },
)
async def table_endpoint(
    request: Request,
    service: Service,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for another table.")] = 0.0,
    arm: Annotated[
        Literal["champion", "challenger"] | None,
        Query(description="This arm's table, whichever is in force; for people to look at."),
    ] = None,
) -> Response:
    """The routing table of a service: JSON, a Lua literal (`text/x-lua`) or an Arrow stream, by the Accept header."""
    engine = engine_of(request)
    media_type = _accepted(request.headers.get("accept", ""))
    if media_type is None:
        raise RefusedRequestError(406, f"there are {JSON}, {LUA} and {ARROW}")
    published = await _published(request, service, arm)
    held = request.headers.get("if-none-match", "")
    ttl_s = engine.settings.table_ttl_s
    if wait and _etag(published, media_type) in held:
        view = await engine.view(service)
        if view is not None:
            await view.changed(published.table.version, wait, arm)
            published = view.chosen(arm) or published
    headers = {
        "etag": _etag(published, media_type),
        "vary": "accept",
        "cache-control": "no-cache",
        "x-fingerpost-expires-at": f"{published.expires_at(ttl_s):.3f}",
    }
    if (stale := engine.stale()) is not None:
        headers["x-fingerpost-stale"] = stale.encode("ascii", "replace").decode()
    if headers["etag"] in held:
        return Response(status_code=304, headers=headers)
    body = published.rendered(media_type) or await asyncio.to_thread(published.render, media_type, ttl_s)
    return Response(body, headers=headers, media_type=media_type)


@app.get(
    "/v1/services/{service}/categories",
    responses={200: {"content": {JSON: {"schema": {"type": "object"}}}}, **problems(400, 404)},
)
async def categories_endpoint(request: Request, service: Service) -> Response:
    """The category table of a service, as agents and pickers use it."""
    table = await asyncio.to_thread(engine_of(request).categories.table, service)
    if table is None:
        raise UnknownError(f"there is no category table of {service!r} yet")
    return _json(table.to_json())


@app.get("/v1/hosts", response_model=models.Hosts, responses=problems(400, 503))
async def hosts_endpoint(
    request: Request, service: Annotated[str | None, Query(pattern=models.NAME)] = None
) -> Response:
    """The hosts the store knows, and the ages of their fingerprints."""
    engine, now = engine_of(request), time.time()
    try:
        rows = await asyncio.get_running_loop().run_in_executor(engine.store_reads, engine.store.hosts)
    except StoreError as error:
        raise RefusedRequestError(503, f"the store cannot be used: {error}") from error
    found = [
        {
            "service": name,
            "host": host,
            "age_s": round(max(0.0, now - time_us / 1e6), 3),
            "live": now - received_us / 1e6 <= engine.settings.fingerprint_ttl_s,
            "first_seen": first_seen_us / 1e6,
        }
        for name, host, time_us, received_us, first_seen_us in rows
        if service in (None, name)
    ]
    return _json({"hosts": found})


@app.get("/v1/models", response_model=models.Models)
async def models_endpoint(request: Request) -> Response:
    """The models in use, and why others are not."""
    engine = engine_of(request)
    rows = []
    for service in sorted({engine.settings.service, *engine.refresher.services()}):
        for alias in ALIASES:
            slot = engine.models.slot(service, alias)
            rows.append(
                {
                    "service": service,
                    "model_name": f"fingerpost-{service}",
                    "alias": alias,
                    "version": slot.model.version if slot.model else None,
                    "points_at": slot.tried.version if slot.tried else None,
                    "problem": slot.problem,
                }
            )
    return _json({"registry_problem": engine.models.registry_problem, "models": rows})


@app.get("/v1/health", response_model=models.Health)
async def health_endpoint(request: Request) -> Response:
    """How the engine is; always 200, see `/readyz` for whether it wants requests."""
    return _json(engine_of(request).health())


@app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics_endpoint(request: Request) -> Response:
    """Prometheus metrics of all workers."""
    engine_of(request).note_state()
    text, media_type = await asyncio.to_thread(exposition)
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


async def _published(request: Request, service: str, arm: str | None = None) -> Published:
    """The table of a service: of an arm, or the one in force.

    Raises:
        UnknownError: it has no live hosts, or no such arm now.
    """
    view = await engine_of(request).view(service)
    if view is None or view.published is None:
        if engine_of(request).store.problem:
            raise RefusedRequestError(
                503, f"no table yet, and the store cannot be used: {engine_of(request).store.problem}"
            )
        raise UnknownError(f"service {service!r} has no live hosts")
    published = view.chosen(arm)
    if published is None:
        raise UnknownError(f"there is no table of the {arm}: no experiment is running that needs it")
    return published


def _etag(published: Published, media_type: str) -> str:
    return f'"{published.table.version}-{media_type.rpartition("/")[2][:5]}"'


def _accepted(accept: str) -> str | None:
    """The first of our media types in an Accept header; JSON where anything will do."""
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        given = part.partition(";")[0].strip().lower()
        if given in (JSON, LUA, ARROW):
            return given
        if given in ("*/*", "application/*"):
            return JSON
        if given == "text/*":
            return LUA
    return None


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=JSON)
