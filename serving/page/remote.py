"""Serves the page on this machine for an engine elsewhere, whose token no browser could send."""

import asyncio
from collections.abc import Callable

from fastapi import FastAPI, Request
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response

from fingerpost.engine_api import JSON, Answer, Call
from fingerpost.errors import FingerpostError
from fingerpost.serving.http import RefusedRequestError, problem
from fingerpost.serving.page.routes import files

# What the page and its description of the API ask for: nothing else is passed on.
_PASSED_ON = ("/v1/page", "/v1/page/cell", "/v1/openapi.json")
# The application is only ever bound to the loopback, and no other web page may have it for its own.
_NAMES = ["127.0.0.1", "localhost", "::1"]


def remote_page(ask: Callable[[Call], Answer]) -> FastAPI:
    """Makes the application.

    Args:
        ask: asks the engine; FingerpostError: it does not answer.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_NAMES)
    app.include_router(files)

    async def passed_on(request: Request) -> Response:
        query = request.url.query
        call = Call("GET", f"{request.url.path}?{query}" if query else request.url.path)
        try:
            answer = await asyncio.to_thread(ask, call)
        except FingerpostError as error:
            return problem(502, str(error))
        media_type = answer.headers.get("content-type", JSON)
        return Response(answer.body, answer.status, {"cache-control": "no-store"}, media_type)

    @app.exception_handler(RefusedRequestError)
    async def refused(_request: Request, error: RefusedRequestError) -> Response:
        return problem(error.status, error.error, error.headers)

    for path in _PASSED_ON:
        app.add_api_route(path, passed_on, methods=["GET"], response_model=None)
    return app
