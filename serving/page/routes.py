"""Serves the page: its files, and the JSON that they draw. Everything here is read-only."""

import asyncio
import mimetypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from fingerpost.serving import api_models as models
from fingerpost.serving.http import RefusedRequestError

if TYPE_CHECKING:
    from fingerpost.serving.engine import Engine

_FILES = Path(__file__).parent / "static"
_JSON = "application/json"
# Nothing from elsewhere, no script in the page; Plotly sets styles of its own and draws pictures into data URLs.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
# The page's own files; and with them the numbers that the engine has.
files, router = APIRouter(), APIRouter()
_Service = Annotated[str | None, Query(pattern=models.NAME, description="Name of the service; default: the settings'.")]


@files.get("/", include_in_schema=False)
async def index_endpoint() -> Response:
    """The page."""
    return _file("index.html")


@files.get("/docs", include_in_schema=False)
async def docs_endpoint() -> Response:
    """The HTTP API for people, with an example of each call."""
    return _file("docs.html")


@files.get("/favicon.ico", include_in_schema=False)
async def icon_endpoint() -> Response:
    """The icon that browsers ask for."""
    return RedirectResponse("/page/icon.svg", 308, _HEADERS)


@files.get("/page/{name}", include_in_schema=False)
async def file_endpoint(name: str) -> Response:
    """A file of the page; `plotly.js` is the one of the Python package Plotly."""
    return _file(name)


router.include_router(files)


@router.get(
    "/v1/page",
    responses={200: {"content": {_JSON: {"schema": {"type": "object"}}}}, 400: {"model": models.Problem}},
)
async def page_endpoint(request: Request, service: _Service = None) -> Response:
    """Gives the numbers that the page shows of a service, a second old at most; see docs/page.md."""
    engine = _engine_of(request)
    page = engine.page.of(service or engine.settings.service)
    return Response(await asyncio.to_thread(page.rendered), media_type=_JSON, headers={"cache-control": "no-store"})


@router.get(
    "/v1/page/cell",
    responses={
        200: {"content": {_JSON: {"schema": {"type": "object"}}}},
        400: {"model": models.Problem},
        404: {"model": models.Problem},
    },
)
async def cell_endpoint(
    request: Request,
    host: Annotated[str, Query(max_length=500)],
    category: Annotated[str, Query(max_length=500)],
    service: _Service = None,
) -> Response:
    """Gives what was measured of a host at a category beside what was predicted, window by window."""
    engine = _engine_of(request)
    page = engine.page.of(service or engine.settings.service)
    found = await asyncio.to_thread(page.cell, host, category)
    if found is None:
        raise RefusedRequestError(404, f"nothing is known of host {host!r} at category {category!r}"[:300])
    return Response(orjson.dumps(found), media_type=_JSON, headers={"cache-control": "no-store"})


@cache
def _known_files() -> dict[str, Path]:
    """The files by name: what is not listed here is not served."""
    found = {path.name: path for path in _FILES.iterdir() if path.is_file()}
    plotly = find_spec("plotly")
    if plotly is not None and plotly.origin is not None:
        found["plotly.js"] = Path(plotly.origin).parent / "package_data" / "plotly.min.js"
    return found


def page_file(name: str) -> Path | None:
    """A file of the page by its name; None: there is none of this name."""
    return _known_files().get(name)


def _file(name: str) -> Response:
    path = page_file(name)
    if path is None:
        raise RefusedRequestError(404, "there is no such file")
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return FileResponse(path, media_type=media_type, headers=_HEADERS)


def _engine_of(request: Request) -> "Engine":
    engine: Engine = request.app.state.engine
    return engine
