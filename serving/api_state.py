"""The endpoints that tell how the engine is: hosts, models, health, metrics."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fingerpost.experiment import ALIASES
from fingerpost.serving import api_models as models
from fingerpost.serving.api_parts import engine_of, json_answer, problems
from fingerpost.serving.http import RefusedRequestError
from fingerpost.serving.metrics import exposition
from fingerpost.serving.store import StoreError

router = APIRouter()


@router.get("/v1/hosts", response_model=models.Hosts, responses=problems(400, 503))
async def hosts_endpoint(
    request: Request, service: Annotated[str | None, Query(pattern=models.NAME)] = None
) -> Response:
    """The hosts the store knows, and the ages of their fingerprints."""
    engine, now = engine_of(request), time.time()
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
    return json_answer({"hosts": found})


@router.get("/v1/models", response_model=models.Models)
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
    return json_answer({"registry_problem": engine.models.registry_problem, "models": rows})


@router.get("/v1/health", response_model=models.Health)
async def health_endpoint(request: Request) -> Response:
    """How the engine is; always 200, see `/readyz` for whether it wants requests."""
    return json_answer(engine_of(request).health())


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics_endpoint(request: Request) -> Response:
    """Prometheus metrics of all workers."""
    engine_of(request).note_state()
    text, media_type = await asyncio.to_thread(exposition)
    return Response(text, headers={"content-type": media_type})
