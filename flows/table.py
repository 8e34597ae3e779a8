"""The flows: their names, and when each runs. Everything that lists the flows reads it here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fingerpost.settings import Settings


@dataclass(frozen=True)
class FlowEntry:
    """A flow and its schedule.

    Args:
        when: seconds between runs, or a cron line (UTC), from the settings; None: on demand.
        long: a run can take minutes, and must not hold up those that take seconds.
    """

    name: str
    when: "Callable[[Settings], float | str] | None"
    description: str
    long: bool = False

    @property
    def entrypoint(self) -> str:
        """The flow's function, as Prefect imports it."""
        return f"fingerpost.flows.{self.name}.{self.name}_flow"

    def load(self) -> Any:
        """Imports the flow; Prefect takes seconds to import."""
        module, _, function = self.entrypoint.rpartition(".")
        return getattr(import_module(module), function)


FLOWS = {
    entry.name: entry
    for entry in (
        FlowEntry("ingest", lambda settings: settings.ingest_every_s, "Batches into the lake."),
        FlowEntry("features", lambda settings: settings.features_every_s, "Windows and features."),
        FlowEntry("train", lambda settings: settings.train_cron, "Tune, train, evaluate, register.", long=True),
        FlowEntry("drift", lambda settings: settings.drift_cron, "Has the world changed; retrain if so.", long=True),
        FlowEntry("shadow", lambda settings: settings.compare_every_s, "Predictions against what happened."),
        FlowEntry("experiment", lambda settings: settings.compare_every_s, "Champion against challenger."),
        FlowEntry("promote", lambda settings: settings.promote_every_s, "Watch, then promote, wait or reject."),
        FlowEntry(
            "retention", lambda settings: settings.retention_cron, "Old data out, small files merged.", long=True
        ),
        FlowEntry("pipeline", None, "Ingest, features and training in series.", long=True),
    )
}
