"""The deployments with their schedules, served from one process."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from prefect import aserve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType

from fingerpost.heartbeat import beat
from fingerpost.settings import Settings

_BEAT_S = 5.0


@dataclass(frozen=True)
class Plan:
    """When a flow runs.

    Args:
        entry: `module:function`.
        when: seconds between runs, or a cron line (UTC), from the settings; None: on demand.
    """

    entry: str
    when: Callable[[Settings], float | str] | None
    description: str

    @property
    def name(self) -> str:
        """Of its deployment."""
        return "scheduled" if self.when else "on-demand"

    @property
    def flow(self) -> Any:
        module, function = self.entry.split(":")
        return getattr(import_module(module), function)


_PLANS = (
    Plan("fingerpost.flows.ingest:ingest_flow", lambda each: each.ingest_every_s, "Batches into the lake."),
    Plan("fingerpost.flows.features:features_flow", lambda each: each.features_every_s, "Windows and features."),
    Plan("fingerpost.flows.train:train_flow", lambda each: each.train_cron, "Tune, train, evaluate, register."),
    Plan("fingerpost.flows.drift:drift_flow", lambda each: each.drift_cron, "Has the world changed; retrain if so."),
    Plan(
        "fingerpost.flows.shadow:shadow_flow", lambda each: each.compare_every_s, "Predictions against what happened."
    ),
    Plan(
        "fingerpost.flows.experiment:experiment_flow", lambda each: each.compare_every_s, "Champion against challenger."
    ),
    Plan(
        "fingerpost.flows.promote:promote_flow",
        lambda each: each.promote_every_s,
        "Watch, then promote, wait or reject.",
    ),
    Plan(
        "fingerpost.flows.retention:retention_flow",
        lambda each: each.retention_cron,
        "Old data out, small files together.",
    ),
    Plan("fingerpost.flows.pipeline:pipeline_flow", None, "Ingest, features and training in series."),
)


def plans() -> tuple[Plan, ...]:
    """What is scheduled: every flow whose module is there."""
    return tuple(plan for plan in _PLANS if find_spec(plan.entry.split(":")[0]))


def deployments(settings: Settings) -> list[Any]:
    """A deployment for every flow. One run of each at a time: what would overlap is left out, the next catches up."""
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    made = []
    for plan in plans():
        when = plan.when(settings) if plan.when else None
        schedule: dict[str, Any] = {"cron": when} if isinstance(when, str) else {}
        if isinstance(when, int | float):
            schedule = {"interval": timedelta(seconds=when)}
        made.append(
            plan.flow.to_deployment(
                plan.name,
                description=plan.description,
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
