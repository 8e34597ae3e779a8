"""What stands between a registered model and fleets: features of their histories in, predictions out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.fleet_features import cell_features, request_types
from serving.fleet_state import FleetState, Floats
from serving.histories import Histories, HistoryForm, gather
from serving.scorer import TARGETS, ModelLogs
from training.bundle import ModelBundle

# Cells at once: their features take some 150 MB.
_BLOCK = 50_000


@dataclass(frozen=True)
class ChampionScorer:
    """Scores fleets with a model.

    Args:
        form: of the histories that the model's features are made of.
    """

    bundle: ModelBundle
    version: str
    form: HistoryForm
    source: str = "champion"

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
        logs = np.empty((hosts * categories, len(TARGETS)))
        # In the precision of training.
        types, history = request_types(histories.categories), histories.cells.astype(np.float64)
        host, category = np.divmod(np.arange(hosts * categories), max(categories, 1))
        for begin in range(0, len(host), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            found = cell_features(history, histories.host_values, types, histories.now_us, host[part], category[part])
            matrix = self.bundle.encoder.encode_cells(found.numeric, histories.categories, category[part])
            served = self.bundle.served_logs(matrix)
            logs[part] = np.stack([served[target] for target in TARGETS], axis=1)
        return logs.reshape(hosts, categories, len(TARGETS))


@dataclass(frozen=True)
class LoadedModel:
    """A model version in memory."""

    version: str
    scorer: ChampionScorer

    @property
    def bundle(self) -> ModelBundle:
        return self.scorer.bundle


def load_model(folder: Path, version: str, source: str, form: HistoryForm) -> LoadedModel:
    """Loads the model in a folder that `fetch` made.

    Raises:
        SchemaMismatchError: it was made for other features than this program's; the message names them.
        OSError, ValueError, KeyError, lightgbm.basic.LightGBMError: it is damaged.
    """
    return LoadedModel(version, ChampionScorer(ModelBundle.load(folder), version, form, source))
