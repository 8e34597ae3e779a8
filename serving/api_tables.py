"""The endpoints that pickers and agents follow: routing tables and category tables."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fingerpost.serving import api_models as models
from fingerpost.serving.answers import UnknownError
from fingerpost.serving.api_parts import Service, engine_of, json_answer, problems, published_table
from fingerpost.serving.http import RefusedRequestError
from fingerpost.serving.table_formats import ARROW, JSON, LUA
from fingerpost.serving.views import Published

MAX_WAIT_S = 20.0
router = APIRouter()


@router.get(
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
    published = await published_table(request, service, arm)
    held = request.headers.get("if-none-match", "")
    ttl_s = engine.settings.table_ttl_s
    if wait and _etag(published, media_type) in held and engine.may_wait():
        view = await engine.view(service)
        if view is not None:
            with engine.waits():
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


@router.get(
    "/v1/services/{service}/categories",
    responses={200: {"content": {JSON: {"schema": {"type": "object"}}}}, **problems(400, 404)},
)
async def categories_endpoint(request: Request, service: Service) -> Response:
    """The category table of a service, as agents and pickers use it."""
    table = await asyncio.to_thread(engine_of(request).categories.table, service)
    if table is None:
        raise UnknownError(f"there is no category table of {service!r} yet")
    return json_answer(table.to_json())


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
