"""The models in memory: what the aliases point at, loaded, checked on the fleet as it is, then swapped in."""

import contextlib
import fcntl
import gc
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from fingerpost.environment import python_module
from fingerpost.errors import FingerpostError
from fingerpost.experiment import ALIASES, TREATMENTS, Experiment, experiment_from_json
from fingerpost.masking import described
from fingerpost.serving.histories import HistoryForm
from fingerpost.serving.metrics import EngineMetrics
from fingerpost.serving.model_files import ModelFiles, ResolvedAlias
from fingerpost.serving.scoring import ModelScorer, Scored, load_model, sanity_check, score_fleet
from fingerpost.settings import Settings
from fingerpost.training.inspection import ended, forget_inspection
from fingerpost.training.manifest import DamagedModelError, SchemaMismatchError

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.25
# A process that dies is started again after a pause that doubles, unless it lived for long.
_FIRST_PAUSE_S, _LONG_S = 1.0, 60.0
# Where `fingerpost deploy` puts the model of a Bento.
SHIPPED = Path(__file__).parent / "pinned_model"


@dataclass(frozen=True)
class Slot:
    """An alias of a service.

    Args:
        model: the one in use.
        tried: what the alias pointed at when it was last looked at.
        problem: why what it points at is not used.
        warmed: the fleet as the model scored it when it was checked.
    """

    model: ModelScorer | None = None
    tried: ResolvedAlias | None = None
    problem: str | None = None
    warmed: Scored | None = None


class Models:
    """Follows the aliases of the services that are asked for; where a model fails its check the old one stays.

    Args:
        services: those asked for now.
        scored: the present predictions of a service, if there are any.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: EngineMetrics,
        services: Callable[[], list[str]],
        scored: Callable[[str], Scored | None],
    ) -> None:
        self._settings, self._metrics, self._services, self._scored = settings, metrics, services, scored
        self.files = ModelFiles(settings.home)
        self._slots: dict[tuple[str, str], Slot] = {}
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self._known: dict[str, bool] = {}
        self._experiments: dict[str, Experiment | str] = {}
        self._form = HistoryForm(settings.window_s, settings.halflife_s)
        self.registry_problem: str | None = "no look at the registry yet"
        self._taking = threading.Lock()
        # One thread at a time computes behind the requests: they wait for Python's lock behind each that does.
        self.computing = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="models", daemon=True),
            threading.Thread(target=self._watch, name="registry-watch", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def slot(self, service: str, alias: str) -> Slot:
        return self._slots.get((service, alias), Slot())

    def experiment(self, service: str) -> Experiment | str | None:
        """The experiment in the registry; if it cannot be read, why; None: there is none."""
        return self._experiments.get(service)

    def known(self, service: str) -> bool:
        """Whether the registry has told of this service's models, now or in an earlier life."""
        return self._known.get(service, False)

    def refresh(self, service: str) -> None:
        """Looks at what was written of the aliases last, and takes in what is new; one caller at a time."""
        with self._taking:
            self._refresh(service)

    def _refresh(self, service: str) -> None:
        if self._settings.model_version and service == self._settings.service and self._take_shipped(service):
            return
        stamp = self.files.stamp(service)
        if stamp is None or stamp == self._stamps.get(service):
            return
        state = self.files.read_aliases(service)
        self._stamps[service], self._known[service] = stamp, state.known
        if service == self._settings.service:
            self.registry_problem = state.problem
            self._metrics.registry_problem.set(0 if state.problem is None else 1)
        self._take_experiment(service, state.experiment)
        for alias, found in zip_longest((*ALIASES, *TREATMENTS[1:]), (state.champion, state.challenger, *state.others)):
            self._take(service, alias, found)
        self._metrics_of_problems()

    def _take_experiment(self, service: str, text: str | None) -> None:
        self._experiments.pop(service, None)
        if text is None:
            return
        try:
            found: Experiment | str = experiment_from_json(text)
            if isinstance(found, Experiment) and found.service != service:
                found = f"the experiment is of another service, {found.service!r}"
        except FingerpostError as error:
            found = str(error)
        self._experiments[service] = found

    def _take_shipped(self, service: str) -> bool:
        """Takes the pinned model out of the program's own folder, where a Bento has it; whether it is there."""
        wanted = self._settings.model_version
        try:
            if (SHIPPED / "version").read_text() != wanted:
                return False
        except OSError:
            return False
        self.registry_problem = None
        self._take(service, "champion", ResolvedAlias(wanted, str(SHIPPED)))
        return True

    def _take(self, service: str, alias: str, found: ResolvedAlias | None) -> None:
        slot = self.slot(service, alias)
        if found == slot.tried and (found is None or slot.problem is None):
            return
        if found is None:
            # Without its alias a challenger is over; a champion goes on until there is another.
            kept = slot if alias == "champion" else Slot()
            self._slots[(service, alias)] = replace(kept, tried=None, problem=None)
            return
        try:
            if not found.folder:
                raise OSError(f"version {found.version} could not be fetched")
            with self.computing, _uncollected():
                model = load_model(self.files.folder(service) / found.folder, found.version, alias, self._form)
                warmed, problem = self._check(service, model, self._most_off(service, alias, found))
        except SchemaMismatchError as error:
            model, warmed, problem = None, None, str(error)
        except DamagedModelError as error:
            model, warmed, problem = None, None, f"{error}; it is fetched again"
            forget_inspection(self.files.folder(service) / found.folder)
        except Exception as error:  # whatever is wrong with an artifact, the engine goes on serving
            model, warmed, problem = None, None, described(error)
        if problem is not None or model is None:
            self._slots[(service, alias)] = replace(slot, tried=found, problem=problem)
            self._metrics.refused_models.labels(alias).inc()
            logger.error("model refused: %s", problem, extra={"alias": alias, "model_version": found.version})
            return
        self._slots[(service, alias)] = Slot(model, found, None, warmed)
        self._metrics.swaps.labels(alias).inc()
        logger.info("model loaded", extra={"service": service, "alias": alias, "model_version": found.version})

    def _most_off(self, service: str, alias: str, found: ResolvedAlias) -> float:
        """How far a version may be off the champion: a challenger is there to differ, and be compared; one that was
        challenger here has been."""
        compared = [self.slot(service, each) for each in TREATMENTS]
        if alias in TREATMENTS or any(each.model is not None and each.tried == found for each in compared):
            return float("inf")
        return self._settings.swap_max_ratio

    def _check(self, service: str, model: ModelScorer, most_off: float) -> tuple[Scored | None, str | None]:
        """The fleet as the model sees it, and what speaks against that."""
        present = self._scored(service)
        if present is None:
            return None, None
        began = time.perf_counter()
        warmed = score_fleet(present.fleet, model)
        self._metrics.scored(model.source, warmed.cells, time.perf_counter() - began)
        if not warmed.by_model:
            return None, None  # no host has told of its history yet
        return warmed, sanity_check(warmed.predictions, present.predictions, most_off, bool(present.version))

    def _metrics_of_problems(self) -> None:
        for alias in ALIASES:
            problem = any(slot.problem for (_, each), slot in self._slots.items() if each == alias)
            self._metrics.model_problem.labels(alias).set(1 if problem else 0)

    def _follow(self) -> None:
        while True:
            services = {self._settings.service, *self._services()}
            for service in services:
                try:
                    self.files.request(service)
                    self.refresh(service)
                except Exception as error:  # a full disk is no reason to stop following
                    logger.warning("models of %s: %s: %s", service, type(error).__name__, error)
            for key in [key for key in self._slots if key[0] not in services]:
                del self._slots[key]
                self._stamps.pop(key[0], None)
                self._experiments.pop(key[0], None)
                self._known.pop(key[0], None)
            if self._stop.wait(_LOOK_EVERY_S):
                return

    def _watch(self) -> None:
        """One worker of the machine, the one with the lock, has the process that looks at the registry."""
        lock: IO[Any] | None = None
        child: subprocess.Popen[bytes] | None = None
        began_s, pause_s = 0.0, _FIRST_PAUSE_S
        while not self._stop.wait(0.5):
            try:
                lock = lock or _lock(self.files.root / ".lock")
                if child is not None and child.poll() is not None:
                    pause_s = _FIRST_PAUSE_S if time.monotonic() - began_s > _LONG_S else min(2 * pause_s, _LONG_S)
                    self._tell_death(child.returncode, pause_s)
                    child = None
                    self._stop.wait(pause_s)
                elif lock is not None and child is None:
                    command = python_module("fingerpost.serving.registry_watch")
                    child, began_s = subprocess.Popen(command, stdin=subprocess.PIPE), time.monotonic()
            except OSError as error:
                logger.warning("the registry cannot be watched: %s", error)
                self._stop.wait(5.0)
        if child is not None:
            child.terminate()
            child.wait(10)
        if lock is not None:
            lock.close()

    def _tell_death(self, returncode: int, pause_s: float) -> None:
        """Says in `problems` that the process that looks at the registry died, until it has looked again."""
        died = f"the process that follows it {ended(returncode)}, and is started again in {pause_s:g} s"
        logger.error("the registry is not followed: %s", died)
        self.files.note_problem(self._settings.service, died)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """What a loading makes and drops at once would set off a search for cycles, in which no request is answered."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _lock(path: Path) -> IO[Any] | None:
    """The open file that holds the lock, or None if another process has it; the system lets go of it when we end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
