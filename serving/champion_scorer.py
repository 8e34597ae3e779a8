"""What stands between a registered model and fleets: features of their histories in, predictions out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.features.cells import HostsCells
from fingerpost.features.definition import FEATURES, NUMERIC_FEATURES
from fingerpost.features.fleet_features import FleetFeatures, request_types
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.histories import Histories, HistoryForm, gather
from fingerpost.serving.scorer import TARGETS, ModelLogs
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.inspection import require_inspected
from fingerpost.training.trees.compiled import Trees, compile_trees, load_trees

# Cells at once: their features take some 10 MB, and a column of them fits into a cache.
_BLOCK = 8_000


@dataclass(frozen=True)
class ChampionScorer:
    """Scores fleets with a model.

    Args:
        trees: the model's, compiled: what `load_trees` or `compile_trees` say of its boosters.
        form: of the histories that the model's features are made of.
    """

    bundle: ModelBundle
    trees: Trees
    version: str
    form: HistoryForm
    source: str = "champion"

    @classmethod
    def compiled(
        cls, bundle: ModelBundle, version: str, form: HistoryForm, source: str = "champion"
    ) -> "ChampionScorer":
        """With the trees compiled here, which takes part of a second."""
        return cls(bundle, compile_trees(bundle.boosters), version, form, source)

    def logs(self, fleet: FleetState, before: ModelLogs | None = None) -> ModelLogs:
        """See `Scorer.logs`."""
        histories = gather(fleet, self.form, before.histories if before else None)
        if before is not None and histories is before.histories:
            return ModelLogs(histories, before.logs, 0)
        shape = (len(fleet.hosts), len(fleet.categories))
        if not histories.known:
            return ModelLogs(histories, np.full((*shape, len(TARGETS)), np.nan), 0)
        return ModelLogs(histories, self._predict(histories), shape[0] * shape[1])

    def _predict(self, histories: Histories) -> Floats:
        hosts, categories = histories.cells.shape[:2]
        logs = np.empty((hosts, categories, len(TARGETS)))
        if not logs.size:
            return logs
        types, codes = request_types(histories.categories), self.bundle.encoder.codes(histories.categories)
        features = FleetFeatures(histories.cells, histories.host_values, types, histories.now_us)
        step = max(1, _BLOCK // categories)
        # A feature side by side, as they are made and as trees want them; one piece of memory for all blocks.
        memory = np.empty(len(FEATURES) * min(step, hosts) * categories)
        for begin in range(0, hosts, step):
            cells = HostsCells(begin, min(begin + step, hosts), categories)
            columns = memory[: len(FEATURES) * cells.count].reshape(len(FEATURES), cells.count)
            features.of(cells, columns[: len(NUMERIC_FEATURES)])
            for place, values in enumerate(codes, start=len(NUMERIC_FEATURES)):
                columns[place] = cells.of_categories(values)
            served = self.bundle.served_logs(columns.T, self.trees)
            for place, target in enumerate(TARGETS):
                logs[begin : cells.end, :, place] = served[target].reshape(-1, categories)
        return logs


@dataclass(frozen=True)
class LoadedModel:
    """A model version in memory."""

    version: str
    scorer: ChampionScorer

    @property
    def bundle(self) -> ModelBundle:
        return self.scorer.bundle


def load_model(folder: Path, version: str, source: str, form: HistoryForm) -> LoadedModel:
    """Loads the model in a folder that `fetch` made, ready to score.

    Raises:
        SchemaMismatchError: it was made for other features than this program's; the message names them.
        DamagedModelError: its files are not those that were read well when they were fetched.
    """
    require_inspected(folder)
    bundle = ModelBundle.load(folder)
    return LoadedModel(version, ChampionScorer(bundle, load_trees(folder, bundle.boosters), version, form, source))
