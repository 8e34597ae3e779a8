"""Sends how flows went, and what was decided, to the lake in object storage at once: engines elsewhere show it."""

import logging
from pathlib import Path

from fingerpost.errors import FingerpostError
from fingerpost.features.object_store import object_lake
from fingerpost.settings import Settings

logger = logging.getLogger(__name__)


def send_status(settings: Settings, path: Path, content: bytes) -> None:
    """Sends what was noted of a flow, or of a decision; does nothing where the lake is a folder alone.

    Storage that cannot be reached is no reason not to run: the next ingest sends it too.

    Args:
        path, content: as `fingerpost.flow_status` noted them.
    """
    try:
        store = object_lake(settings)
        if store:
            store.publish(path, content)
    except FingerpostError as error:
        logger.warning("%s is told on this machine alone, until the next ingest: %s", path.name, error)


def bring_status(settings: Settings, path: Path) -> None:
    """Fetches a file of `fingerpost.flow_status` before it is added to: another machine may have written to it."""
    try:
        store = object_lake(settings)
        if store:
            store.bring(path)
    except (FingerpostError, OSError) as error:
        logger.warning("%s is taken as this machine has it: %s", path.name, error)
