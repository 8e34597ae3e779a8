"""Serves the deployments of every service with their schedules, from one process."""

import asyncio
import logging
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule

from fingerpost.flows.forking import ForkingRunner, warm_up
from fingerpost.flows.table import FLOWS, FlowEntry
from fingerpost.heartbeat import beat
from fingerpost.lake import services_in
from fingerpost.settings import Settings

_LOG = logging.getLogger("fingerpost.schedule")
_BEAT_S = 5.0
_LOOK_EVERY_S = 30.0
# What reports under names without end is somebody's mistake; those that were named by the settings go first.
MAX_SERVICES = 200
# How often runs that are due are looked for, by whether runs of the flow take long.
_QUERY_S = {False: 2.0, True: 10.0}


def services(settings: Settings) -> list[str]:
    """The services whose flows run here: those of the settings, and those that have data in the lake."""
    named = [settings.service, *settings.services]
    return [*dict.fromkeys([*named, *services_in(settings.lake)])][:MAX_SERVICES]


def deployments(settings: Settings, service: str) -> list[Any]:
    """A deployment of every flow, named after the service: `ingest/shop`.

    One run of each at a time: what would overlap is left out, the next catches up.
    """
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    return [
        entry.load().to_deployment(
            service,
            description=entry.description,
            entrypoint_type=EntrypointType.MODULE_PATH,
            tags=[service],
            parameters={"service": service},
            concurrency_limit=one,
            schedule=_schedule(entry, settings, service),
        )
        for entry in FLOWS.values()
    ]


def _schedule(entry: FlowEntry, settings: Settings, service: str) -> Schedule | None:
    """When a flow of a service runs; intervals of services and flows are shifted, so that they spread over the time."""
    when = entry.when(settings) if entry.when else None
    if when is None:
        return None
    if isinstance(when, str):
        return Cron(when, timezone="UTC")
    shift_s = zlib.crc32(f"{service}/{entry.name}".encode()) % 1000 / 1000 * when
    anchor = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=shift_s)
    return Interval(timedelta(seconds=when), anchor_date=anchor, timezone="UTC")


def serve_deployments(settings: Settings) -> None:
    """Registers the deployments and runs what they schedule, until it is told to stop."""
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    # A runner for what takes seconds and one for what takes minutes: else the trainings of a night, or runs of one
    # service that hang, would take every place, and no batch of any service would be ingested.
    limits = {False: settings.runs_at_once, True: settings.long_runs_at_once}
    runners: dict[bool, Runner] = {
        long: ForkingRunner(f"fingerpost{'-long' if long else ''}", limits[long], _QUERY_S[long]) for long in limits
    }
    served: set[str] = set()
    # In the loop that starts the runs: while it stands still nothing is heard.
    beside = [asyncio.create_task(_keep_beating())]
    try:
        await warm_up()
        await add_new(runners, settings, served)
        beside.append(asyncio.create_task(_follow(runners, settings, served)))
        running = [asyncio.create_task(runner.start()) for runner in runners.values()]
        # SIGTERM stops the one that has started last.
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for runner in runners.values():
            if runner.started:
                await runner.astop()
        await asyncio.gather(*running)
    finally:
        for each in beside:
            each.cancel()


async def add_new(runners: dict[bool, Runner], settings: Settings, served: set[str]) -> None:
    """Adds the flows of services that are not served yet.

    Args:
        runners: by whether the flows' runs take long.
    """
    for service in await asyncio.to_thread(services, settings):
        if service in served:
            continue
        for deployment in await asyncio.to_thread(deployments, settings, service):
            await runners[FLOWS[deployment.flow_name].long].aadd_deployment(deployment)
        served.add(service)
        _LOG.info("the flows of service %s are scheduled", service)


async def _follow(runners: dict[bool, Runner], settings: Settings, served: set[str]) -> None:
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            await add_new(runners, settings, served)
        except Exception as error:
            # Prefect may be away; those that are scheduled go on.
            _LOG.warning("new services cannot be scheduled: %s", error)


async def _keep_beating() -> None:
    while True:
        beat()
        await asyncio.sleep(_BEAT_S)
