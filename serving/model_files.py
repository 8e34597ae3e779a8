"""Fetched models and what the aliases point at, as files all workers of a machine share: `models/SERVICE/`."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fingerpost.aliases import ALIASES
from fingerpost.lake import write_text_atomically
from fingerpost.names import is_name

_WANTED_S = 600.0
_KEPT = 4
# What the folders begin with that models are fetched into.
UNFINISHED = ".fetch-"


@dataclass(frozen=True)
class Found:
    """A model version an alias points at.

    Args:
        folder: where its files are, by name; empty if they could not be fetched.
    """

    version: str
    folder: str


@dataclass(frozen=True)
class AliasState:
    """What is known of a service's aliases.

    Args:
        experiment: the running experiment as JSON, of `Experiment.to_json`; None: there is none.
        known: whether the registry has ever answered.
        problem: why it does not now, or what could not be fetched.
    """

    champion: Found | None = None
    challenger: Found | None = None
    known: bool = False
    problem: str | None = None
    experiment: str | None = None


class ModelFiles:
    """The folder of fetched models.

    Args:
        home: `Settings.home`.
    """

    def __init__(self, home: Path) -> None:
        self.root = home / "models"

    def folder(self, service: str) -> Path:
        return self.root / service

    def want(self, service: str) -> None:
        """Asks for a service's models for the next ten minutes."""
        path = self.folder(service) / "wanted"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def wanted(self, always: str) -> list[str]:
        """The services whose models are asked for, `always` among them."""
        since = time.time() - _WANTED_S
        lately = {path.parent.name for path in self.root.glob("*/wanted") if path.stat().st_mtime > since}
        return sorted({always, *(name for name in lately if is_name(name))})

    def stamp(self, service: str) -> tuple[int, int] | None:
        """Changes whenever the aliases are written."""
        try:
            stat = (self.folder(service) / "aliases.json").stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def read_aliases(self, service: str) -> AliasState:
        """What was written last; nothing known if there is nothing, or nothing readable."""
        try:
            given = json.loads((self.folder(service) / "aliases.json").read_text())
            found = {alias: Found(**given[alias]) if given[alias] else None for alias in ALIASES}
            return AliasState(**found, known=bool(given["known"]), problem=given["problem"],
                              experiment=given.get("experiment"))  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return AliasState()

    def write_aliases(
        self,
        service: str,
        aliases: Mapping[str, Found | None],
        problem: str | None,
        known: bool = True,
        experiment: str | None = None,
        anew: bool = False,
    ) -> None:
        """Writes them down, with the experiment, if they are others than before.

        Args:
            anew: files of theirs were fetched, so that workers look at them although nothing else is new.
        """
        state = AliasState(aliases.get("champion"), aliases.get("challenger"), known, problem, experiment)
        if anew or state != self.read_aliases(service):
            write_text_atomically(self.folder(service) / "aliases.json", json.dumps(asdict(state)))

    def note_problem(self, service: str, problem: str) -> None:
        """Keeps what is known of the aliases, with what is wrong."""
        state = self.read_aliases(service)
        aliases = {"champion": state.champion, "challenger": state.challenger}
        try:
            self.write_aliases(service, aliases, problem, state.known, state.experiment)
        except OSError:
            return  # the disk is full or gone: nothing better can be said

    def remove_unfinished(self) -> None:
        """Removes what fetches left that were killed; for the one process that fetches, before its first."""
        for left in self.root.glob(f"*/{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def prune(self, service: str) -> None:
        """Removes all but the latest few models of a service."""
        folders = [path for path in self.folder(service).glob("[0-9]*") if path.is_dir()]
        for old in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def write_to_disk(folder: Path) -> None:
    """Waits until the files in a folder are on disk: a crash of the machine must not leave them half written."""
    for path in (*folder.iterdir(), folder):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
