"""What the endpoints of the engine's API share."""

from typing import Annotated, Any

import orjson
from fastapi import Path as InPath
from fastapi import Request
from starlette.responses import Response

from fingerpost.serving import api_models as models
from fingerpost.serving.answers import UnknownError
from fingerpost.serving.engine import Engine
from fingerpost.serving.http import RefusedRequestError
from fingerpost.serving.table_formats import JSON
from fingerpost.serving.views import Published

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Problem, "description": text}
    for status, text in {
        400: "The request cannot be read.",
        401: "A bearer token is needed.",
        403: "The request is of a web page from elsewhere.",
        404: "There is no such thing.",
        406: "No such format.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        415: "The body is of another media type.",
        503: "Not now; try again.",
    }.items()
}
Service = Annotated[str, InPath(pattern=models.NAME, description="Name of the service.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint, for its description."""
    return {status: _PROBLEMS[status] for status in statuses}


def engine_of(request: Request) -> Engine:
    """This worker's engine."""
    engine: Engine = request.app.state.engine
    return engine


async def published_table(request: Request, service: str, arm: str | None = None) -> Published:
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


def json_answer(content: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(content), status, media_type=JSON)
