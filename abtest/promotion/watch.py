"""The watch over the last promotion. All it knows lies in the registry, so whoever looks next goes on with it."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fingerpost.abtest.promotion.promote import rollback
from fingerpost.abtest.promotion.record import note_applied, write_record
from fingerpost.abtest.results import read_time
from fingerpost.experiment import CHAMPION
from fingerpost.settings import Settings
from fingerpost.training.registry import WATCH_TAG, Registry, StaleEvidenceError

logger = logging.getLogger(__name__)
# What is left out at first, slots: pickers still have the old table, and slots begin where they begin.
_WASHOUT_SLOTS = 1
# The time before that is compared with, in slots, at the least.
_MIN_BEFORE_SLOTS = 30


@dataclass(frozen=True)
class WatchOutcome:
    """What one look found.

    Args:
        state: watching, kept (the time is up and nothing was wrong), rolled back.
        reading: the guardrails.
    """

    state: str
    version: str
    previous: str
    reason: str
    record: str
    reading: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def check_promotion(settings: Settings, who: str, now: datetime | None = None) -> WatchOutcome | None:
    """Looks once at the promotion that is watched; rolls it back if a guardrail is broken. None: none is watched."""
    from fingerpost.abtest.promotion.guardrails import load_requests, read_guardrails

    registry, moment = Registry(settings), now or datetime.now(UTC)
    watch = registry.note(WATCH_TAG)
    if watch is None:
        return None
    version, previous = str(watch.get("version")), str(watch.get("previous"))
    since, until = read_time(watch.get("since")), read_time(watch.get("until"))
    if registry.version_of(CHAMPION) != version or since is None or until is None:
        # A promotion that was cut short, or undone by hand.
        _end(registry, watch)
        return None
    slot = timedelta(seconds=settings.watch_slot_s)
    before = max(until - since, _MIN_BEFORE_SLOTS * slot)
    reading = read_guardrails(
        load_requests(settings.lake, settings.service, since - before, since),
        load_requests(settings.lake, settings.service, since + _WASHOUT_SLOTS * slot, min(until, moment)),
        settings.watch_slot_s,
        settings.watch_p99_ratio,
        settings.watch_error_rise,
    )
    found = {"watch": watch, "reading": reading.to_json()}
    if reading.broken:
        why = f"watch over version {version}: {'; '.join(reading.broken)}"
        try:
            done = rollback(settings, who, why, found, expected=version)
        except StaleEvidenceError:
            _end(registry, watch)
            return None
        logger.warning("rolled back", extra={"model_version": version, "reason": why})
        return WatchOutcome("rolled back", version, previous, why, done.record, reading.to_json())
    if moment < until:
        return WatchOutcome("watching", version, previous, f"until {until.isoformat()}", "", reading.to_json())
    why = "no guardrail was broken" if reading.enough else "too few requests came to tell anything bad of it"
    told = {"model_name": registry.name, "champion": previous, "challenger": version, **found}
    record = write_record(registry, "kept", told, None, None, who, why)
    _end(registry, watch)
    note_applied(registry, record, "yes")
    return WatchOutcome("kept", version, previous, why, record, reading.to_json())


def _end(registry: Registry, watch: dict[str, Any]) -> None:
    """Removes the watch, unless another has begun."""
    with registry.lock():
        if registry.note(WATCH_TAG) == watch:
            registry.set_note(WATCH_TAG, None)
