"""The engine's HTTP API, version 1; mounted into the BentoML service, which adds workers and probes."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fingerpost import __version__
from fingerpost.errors import RefusedError
from fingerpost.fingerprint import MAX_MESSAGE_BYTES, MEDIA_TYPE
from fingerpost.serving import api_models as models
from fingerpost.serving import api_state, api_tables
from fingerpost.serving.answers import TooMuchError, UnknownError, predict, route
from fingerpost.serving.api_parts import engine_of, json_answer, problems, published_table
from fingerpost.serving.callers import Callers
from fingerpost.serving.http import BodyLimitMiddleware, RefusedRequestError, Takes, problem
from fingerpost.serving.ingest import BusyError
from fingerpost.serving.lake_answers import predict_from_lake
from fingerpost.serving.store import StoreError
from fingerpost.serving.table_formats import JSON

_NOTHING_STORED: dict[int | str, dict[str, Any]] = {
    409: {"model": models.Refusal, "description": "No fingerprint is newer than what is there."},
    422: {"model": models.Refusal, "description": "No fingerprint can be taken."},
}
app = FastAPI(
    title="Fingerpost prediction engine",
    version=__version__,
    description="Fingerprints in, routing tables out.",
    openapi_url="/v1/openapi.json",
    docs_url=None,
    redoc_url=None,
    responses=problems(403),
)
_QUESTION = Takes(JSON, 2**20)
app.add_middleware(
    BodyLimitMiddleware,
    takes={
        "/v1/fingerprints": Takes(MEDIA_TYPE, MAX_MESSAGE_BYTES, token=True),
        "/v1/predict": _QUESTION,
        "/v1/route": _QUESTION,
    },
)
# The outermost: who may not call is not even read.
app.add_middleware(Callers)
app.include_router(api_tables.router)
app.include_router(api_state.router)


@app.post(
    "/v1/fingerprints",
    response_model=models.Receipt,
    responses={**problems(400, 401, 408, 413, 415, 503), **_NOTHING_STORED},
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
    return json_answer(answer, receipt.status)


@app.post("/v1/predict", response_model=models.Prediction, responses=problems(400, 404, 408, 413, 415, 503))
async def predict_endpoint(request: Request, asked: models.PredictRequest) -> Response:
    """Predicts throughput and latency of every host, for categories or for one request."""
    engine = engine_of(request)
    view = await engine.view(asked.service)
    if view is None or view.published is None:
        return json_answer(await asyncio.to_thread(predict_from_lake, engine, asked))
    table, name = view.published.table, f"fingerpost-{asked.service}"
    return json_answer(await asyncio.to_thread(predict, table, asked, name, engine.settings.latency_weight))


@app.post("/v1/route", response_model=models.Route, responses=problems(400, 404, 408, 413, 415, 503))
async def route_endpoint(request: Request, asked: models.RouteRequest) -> Response:
    """Names the best host for a request, and the cost of each: for callers without a proxy."""
    published = await published_table(request, asked.service)
    return json_answer(route(published.table, asked, engine_of(request).settings.latency_weight))


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
