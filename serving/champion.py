"""Following the champion: the model version that the alias points at, loaded and swapped behind the requests."""

import logging
import threading
from dataclasses import dataclass

from fingerpost.settings import Settings
from training.bundle import ModelBundle
from training.registry import champion_version, load_version

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """A loaded model version."""

    version: str
    bundle: ModelBundle


class ChampionFollower:
    """Holds the current champion; a thread looks for a newer one every `model_poll_s`.

    A version that cannot be loaded is refused and named in `problem`; the one before stays.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion: Champion | None = None
        self.problem: str | None = "no look at the registry yet"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def champion(self) -> Champion | None:
        return self._champion

    def refresh(self) -> None:
        """Loads the version the alias points at, if it is not the one held."""
        settings = self._settings
        version = champion_version(settings.mlflow, settings.model_name)
        if version is None:
            self.problem = f"{settings.model_name} has no champion in {settings.mlflow}"
        elif self._champion is None or self._champion.version != version:
            bundle = load_version(settings.mlflow, settings.model_name, version)
            self._champion, self.problem = Champion(version, bundle), None
            logger.info("champion loaded", extra={"model": settings.model_name, "model_version": version})
        else:
            self.problem = None

    def _follow(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception as error:  # whatever is wrong with registry or artifact, the engine goes on serving
                self.problem = f"{type(error).__name__}: {error}"
                logger.warning("cannot load the champion: %s", self.problem)
            if self._stop.wait(
                self._settings.model_poll_s if self._champion else min(1.0, self._settings.model_poll_s)
            ):
                return
