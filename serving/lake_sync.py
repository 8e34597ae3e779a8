"""Sends what an engine lands to the lake in object storage, and fetches what the platform publishes there."""

import logging
import threading

from fingerpost.errors import AlreadyRunningError, FingerpostError
from fingerpost.features.object_store import object_lake
from fingerpost.locks import sole
from fingerpost.settings import Settings

logger = logging.getLogger(__name__)
_EVERY_S = 2.0


class LakeSync:
    """Works in a thread until stopped; of several workers with one home one does it.

    Attributes:
        problem: why the last try failed; None: it did not, or the lake is a folder alone.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="lake", daemon=True)

    def start(self) -> None:
        if self._settings.lake_url:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                with sole(self._settings.home / "locks" / "lake-url.lock", "the transfer to the lake"):
                    self._transfer()
            except AlreadyRunningError:
                self.problem = None
            self._stop.wait(_EVERY_S)

    def _transfer(self) -> None:
        """Goes on until stopped; returns where the storage cannot even be named."""
        store = None
        while not self._stop.is_set():
            try:
                store = store or object_lake(self._settings)
                if store:
                    store.send()
                    store.follow()
                self._tell(None)
            except (FingerpostError, OSError) as error:
                self._tell(str(error))
            self._stop.wait(_EVERY_S)

    def _tell(self, problem: str | None) -> None:
        if problem and not self.problem:
            logger.error("the lake's storage cannot be reached; batches wait on this machine: %s", problem)
        self.problem = problem
