"""Chooses what a trial of a tuning tries by its place in the search, which a killed run leaves to the next one."""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

# A trial's place in the search, as an attribute of the trial.
PLACE = "place"
_SEED = 7
# A place whose trials ended with their process so often is left out: they may be what ends processes.
_MAX_ATTEMPTS = 3


def next_place(tried: Iterable[tuple[int, bool]], begun: Iterable[int] = ()) -> int:
    """Finds the first place in the search that no trial has yet, or only trials of processes that died.

    Args:
        tried: place of each trial, and whether it finished.
        begun: places that this process has given out.
    """
    attempts: Counter[int] = Counter()
    taken = set(begun)
    for place, finished in tried:
        attempts[place] += 1
        if finished or attempts[place] >= _MAX_ATTEMPTS:
            taken.add(place)
    return next(place for place in range(len(taken) + 1) if place not in taken)


class Draws(TPESampler):
    """Tries given parameters first, then those of TPE with a seed for each place.

    One trial after another, a search that was killed at any moment tries what it would have tried undisturbed.

    Args:
        first: parameters to begin with, one place each.
    """

    def __init__(self, first: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__()
        self._first = first
        self._begun: set[int] = set()
        self._lock = threading.Lock()
        self._samplers: dict[int, TPESampler] = {}

    def begin(self, trial: Trial) -> None:
        """Gives a trial its place; to be called before it asks for parameters."""
        with self._lock:
            trials = trial.study.get_trials(deepcopy=False)
            tried = [(each.user_attrs[PLACE], each.state.is_finished()) for each in trials if PLACE in each.user_attrs]
            place = next_place(tried, self._begun)
            self._begun.add(place)
        self._samplers[place] = TPESampler(seed=_SEED + place)
        trial.set_user_attr(PLACE, place)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draws a parameter of a trial; `begin` has given it its place."""
        place: int = trial.user_attrs[PLACE]
        if place < len(self._first):
            return self._first[place][param_name]
        return self._samplers[place].sample_independent(study, trial, param_name, param_distribution)
