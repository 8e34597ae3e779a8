"""The trials of a tuning, kept by Optuna: what is tried next, and what was found."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from fingerpost import __version__
from fingerpost.features.definition import schema_hash
from fingerpost.training.trials import FOLDS, ROUNDS, Outcome, TrialData

_SEED = 7
# Of one model, the studies that are kept: one that is under way, and what it may be compared with.
_KEPT = 3


class Study:
    """The finished trials of one tuning, by number, in a database.

    Only finished trials are kept, each in one transaction; what a tuning that was killed had under way leaves no trace.

    Args:
        storage: URL of a database; None: memory.
        model: whose tuning it is.
        key: of `study_key`; a study with the same key goes on.
    """

    def __init__(self, storage: str | None, model: str, key: str) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        # Of PostgreSQL's drivers this program has psycopg 3.
        url = storage and storage.replace("postgresql://", "postgresql+psycopg://", 1)
        where = optuna.storages.get_storage(url)
        # A model's name holds no `@`, so that no other model's studies begin the same.
        name = f"{model}@{key}"
        self._study = optuna.create_study(storage=where, study_name=name, load_if_exists=True, direction="minimize")
        if "begun" not in self._study.user_attrs:
            self._study.set_user_attr("begun", datetime.now(UTC).isoformat())
        others = [
            each
            for each in optuna.get_all_study_summaries(where, include_best_trial=False)
            if each.study_name.startswith(f"{model}@") and each.study_name != name
        ]
        others.sort(key=lambda each: str(each.user_attrs.get("begun", "")), reverse=True)
        for old in others[_KEPT - 1 :]:
            optuna.delete_study(study_name=old.study_name, storage=where)

    def finished(self) -> dict[int, Outcome]:
        """The trials that are done, by their number."""
        from optuna.trial import TrialState

        found = {}
        for trial in self._study.get_trials(deepcopy=False):
            means = [value for _, value in sorted(trial.intermediate_values.items())]
            found[int(trial.user_attrs["number"])] = Outcome(trial.params, means, trial.state == TrialState.PRUNED)
        return found

    def keep(self, number: int, outcome: Outcome) -> None:
        """Adds a trial that is done."""
        self._study.add_trial(_frozen(outcome, number))


def next_params(
    finished: Mapping[int, Outcome], numbers: range, begin_with: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The parameters of a batch of trials: the same whoever asks and when, given the trials before it.

    The sampler is TPE (Bergstra et al., 2011), with a seed of the batch's own; trials of the batch itself, of which
    nothing is known yet, count as bad ones, so that they are not all alike (the constant liar).

    Args:
        finished: trials by number; those before the batch must all be there, others are not looked at.
        begin_with: the parameters of the first trials.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(seed=_SEED + numbers.start, constant_liar=True)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for number in range(numbers.start):
        study.add_trial(_frozen(finished[number], number))
    for params in begin_with[numbers.start : numbers.stop]:
        study.enqueue_trial(params)
    return [study.ask(space()).params for _ in numbers]


def study_key(data: TrialData, begin_with: Sequence[dict[str, Any]], batch: int) -> str:
    """A hash of all that the outcomes of the trials depend on, beside their number."""
    libraries = [__version__, *(version(name) for name in ("lightgbm", "optuna", "numpy"))]
    about = (schema_hash(), libraries, sorted(space().items()), FOLDS, ROUNDS, _SEED, list(begin_with), batch)
    digest = hashlib.blake2b(repr(about).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(data.matrix).ravel().data)
    for name in data.rows.columns:
        digest.update(np.ascontiguousarray(data.rows[name].to_numpy(np.float64)).data)
    for case in data.cases:
        digest.update(np.packbits(case.earlier).data)
        digest.update(np.packbits(case.later).data)
    return digest.hexdigest()


def space() -> dict[str, Any]:
    """The bounds that are searched, as Optuna's distributions."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        "learning_rate": FloatDistribution(0.01, 0.15, log=True),
        "num_leaves": IntDistribution(4, 32, log=True),
        "min_data_in_leaf": IntDistribution(20, 300, log=True),
        "feature_fraction": FloatDistribution(0.1, 1.0),
        "bagging_fraction": FloatDistribution(0.5, 1.0),
        "lambda_l2": FloatDistribution(0.1, 100.0, log=True),
    }


def _frozen(outcome: Outcome, number: int) -> Any:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.PRUNED if outcome.given_up else TrialState.COMPLETE,
        value=outcome.value,
        params=outcome.params,
        distributions=space(),
        intermediate_values=dict(enumerate(outcome.means)),
        user_attrs={"number": number},
    )
