"""Serves the deployments of every service with their schedules, from one process."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType
from prefect.runner import Runner

from fingerpost.flows.table import FLOWS
from fingerpost.heartbeat import beat
from fingerpost.lake import services_in
from fingerpost.settings import Settings

_LOG = logging.getLogger("fingerpost.schedule")
_BEAT_S = 5.0
_LOOK_EVERY_S = 30.0
# What reports under names without end is somebody's mistake; those that were named by the settings go first.
MAX_SERVICES = 200


def services(settings: Settings) -> list[str]:
    """The services whose flows run here: those of the settings, and those that have data in the lake."""
    named = [settings.service, *settings.services]
    return [*dict.fromkeys([*named, *services_in(settings.lake)])][:MAX_SERVICES]


def deployments(settings: Settings, service: str) -> list[Any]:
    """A deployment of every flow, named after the service: `ingest/shop`.

    One run of each at a time: what would overlap is left out, the next catches up.
    """
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    made = []
    for entry in FLOWS.values():
        when = entry.when(settings) if entry.when else None
        schedule: dict[str, Any] = {"cron": when} if isinstance(when, str) else {}
        if isinstance(when, int | float):
            schedule = {"interval": timedelta(seconds=when)}
        made.append(
            entry.load().to_deployment(
                service,
                description=entry.description,
                entrypoint_type=EntrypointType.MODULE_PATH,
                tags=[service],
                parameters={"service": service},
                concurrency_limit=one,
                **schedule,
            )
        )
    return made


def serve_deployments(settings: Settings) -> None:
    """Registers the deployments and runs what they schedule, until it is told to stop."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    runner = Runner(name="fingerpost")
    served: set[str] = set()
    await add_new(runner, settings, served)
    # In the loop that starts the runs: while it stands still nothing is heard.
    beside = [asyncio.create_task(_keep_beating()), asyncio.create_task(_follow(runner, settings, served))]
    try:
        await runner.start()
    finally:
        for each in beside:
            each.cancel()


async def add_new(runner: Runner, settings: Settings, served: set[str]) -> None:
    """Adds the flows of services that are not served yet."""
    for service in await asyncio.to_thread(services, settings):
        if service in served:
            continue
        for deployment in await asyncio.to_thread(deployments, settings, service):
            await runner.aadd_deployment(deployment)
        served.add(service)
        _LOG.info("the flows of service %s are scheduled", service)


async def _follow(runner: Runner, settings: Settings, served: set[str]) -> None:
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            await add_new(runner, settings, served)
        except Exception as error:
            # Prefect may be away; those that are scheduled go on.
            _LOG.warning("new services cannot be scheduled: %s", error)


async def _keep_beating() -> None:
    while True:
        beat()
        await asyncio.sleep(_BEAT_S)
