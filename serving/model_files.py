"""Files of fetched models and of resolved aliases, shared by all workers of a machine: `models/SERVICE/`."""

import contextlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from fingerpost.experiment import MAX_CHALLENGERS
from fingerpost.lake import write_text_atomically
from fingerpost.names import is_name

_REQUESTED_S = 600.0
_KEPT = 4 + MAX_CHALLENGERS
# What the folders begin with that models are fetched into.
UNFINISHED = ".fetch-"


@dataclass(frozen=True)
class ResolvedAlias:
    """A model version an alias points at.

    Args:
        folder: where its files are, by name; empty if they could not be fetched.
    """

    version: str
    folder: str


@dataclass(frozen=True)
class AliasState:
    """The known state of a service's aliases.

    Args:
        others: versions of an experiment's further challengers, in its order.
        experiment: the running experiment as JSON, of `Experiment.to_json`; None: there is none.
        known: whether the registry has ever answered.
        problem: why it does not answer now, or why a version could not be fetched.
    """

    champion: ResolvedAlias | None = None
    challenger: ResolvedAlias | None = None
    others: tuple[ResolvedAlias, ...] = ()
    known: bool = False
    problem: str | None = None
    experiment: str | None = None


_STATE = TypeAdapter(AliasState)


class ModelFiles:
    """The folder of fetched models.

    Args:
        home: `Settings.home`.
    """

    def __init__(self, home: Path) -> None:
        self.root = home / "models"

    def folder(self, service: str) -> Path:
        return self.root / service

    def request(self, service: str) -> None:
        """Requests a service's models for the next ten minutes."""
        path = self.folder(service) / "requested"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def requested(self, always: str) -> list[str]:
        """The services whose models are requested, `always` among them."""
        since = time.time() - _REQUESTED_S
        lately = {path.parent.name for path in self.root.glob("*/requested") if path.stat().st_mtime > since}
        return sorted({always, *(name for name in lately if is_name(name))})

    def stamp(self, service: str) -> tuple[int, int] | None:
        """Changes whenever the aliases are written."""
        try:
            stat = (self.folder(service) / "aliases.json").stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def read_aliases(self, service: str) -> AliasState:
        """The state that was written last; the empty one if there is none that can be read."""
        try:
            return _STATE.validate_json((self.folder(service) / "aliases.json").read_bytes())
        except (OSError, ValueError):
            return AliasState()

    def write_aliases(self, service: str, state: AliasState, refetched: bool = False) -> None:
        """Writes the state if it differs from the one before.

        Args:
            refetched: files were fetched again, so that workers look at them although nothing else is new.
        """
        if refetched or state != self.read_aliases(service):
            write_text_atomically(self.folder(service) / "aliases.json", json.dumps(asdict(state)))

    def note_problem(self, service: str, problem: str) -> None:
        """Keeps the known state, with a problem; a full disk is ignored."""
        with contextlib.suppress(OSError):
            self.write_aliases(service, replace(self.read_aliases(service), problem=problem))

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
