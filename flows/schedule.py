"""Serves the deployments with their schedules, from one process."""

import asyncio
from datetime import timedelta
from typing import Any

from prefect import aserve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType

from fingerpost.flows.table import FLOWS
from fingerpost.heartbeat import beat
from fingerpost.settings import Settings

_BEAT_S = 5.0


def deployments(settings: Settings) -> list[Any]:
    """A deployment for every flow. One run of each at a time: what would overlap is left out, the next catches up."""
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    made = []
    for entry in FLOWS.values():
        when = entry.when(settings) if entry.when else None
        schedule: dict[str, Any] = {"cron": when} if isinstance(when, str) else {}
        if isinstance(when, int | float):
            schedule = {"interval": timedelta(seconds=when)}
        made.append(
            entry.load().to_deployment(
                entry.deployment,
                description=entry.description,
                entrypoint_type=EntrypointType.MODULE_PATH,
                tags=[settings.service],
                concurrency_limit=one,
                **schedule,
            )
        )
    return made


def serve_deployments(settings: Settings) -> None:
    """Registers the deployments and runs what they schedule, until it is told to stop."""
    made = deployments(settings)
    asyncio.run(_serve(made))


async def _serve(made: list[Any]) -> None:
    # In the loop that starts the runs: while it stands still nothing is heard.
    beating = asyncio.create_task(_keep_beating())
    try:
        await aserve(*made)
    finally:
        beating.cancel()


async def _keep_beating() -> None:
    while True:
        beat()
        await asyncio.sleep(_BEAT_S)
