"""Serves the page on this machine for an engine elsewhere, whose token no browser could send."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response

from fingerpost.engine_api import JSON, Answer, Call
from fingerpost.errors import FingerpostError
from fingerpost.serving.http import RefusedRequestError, problem
from fingerpost.serving.page.routes import files
from fingerpost.serving.page.stage import read_stage

# What the page and its description of the API ask for: nothing else is passed on.
_PAGE = "/v1/page"
_PASSED_ON = (_PAGE, "/v1/page/cell", "/v1/openapi.json")
# The application is only ever bound to the loopback, and no other web page may have it for its own.
_NAMES = ["127.0.0.1", "localhost", "::1"]
_OK = 200


def remote_page(ask: Callable[[Call], Answer], story: Path | None = None) -> FastAPI:
    """Makes the application.

    Args:
        ask: asks the engine; FingerpostError: it does not answer.
        story: file of the stage that is told of above the panels (`stage.py`).
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_NAMES)
    app.include_router(files)

    async def passed_on(request: Request) -> Response:
        query = request.url.query
        call = Call("GET", f"{request.url.path}?{query}" if query else request.url.path)
        stage = read_stage(story) if story and request.url.path == _PAGE else None
        try:
            answer = await asyncio.to_thread(ask, call)
        except FingerpostError as error:
            return _told({"error": str(error), "stage": stage}, 502) if stage else problem(502, str(error))
        if stage and answer.status == _OK:
            return _told({**orjson.loads(answer.body), "stage": stage}, _OK)
        media_type = answer.headers.get("content-type", JSON)
        return Response(answer.body, answer.status, {"cache-control": "no-store"}, media_type)

    @app.exception_handler(RefusedRequestError)
    async def refused(_request: Request, error: RefusedRequestError) -> Response:
        return problem(error.status, error.error, error.headers)

    for path in _PASSED_ON:
        app.add_api_route(path, passed_on, methods=["GET"], response_model=None)
    return app


def _told(numbers: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(numbers), status, {"cache-control": "no-store"}, JSON)
