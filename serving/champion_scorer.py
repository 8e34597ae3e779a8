"""What stands between a registered model and a Scorer: the one place that knows which kinds of models there are."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.definition import schema_hash as window_schema_hash
from serving.baseline import Reference
from serving.cell_features import schema_hash as cell_schema_hash
from serving.cell_model import CellModel
from serving.fleet_state import FleetState
from serving.scorer import Predictions
from training.bundle import ModelBundle, SchemaMismatchError


@dataclass(frozen=True)
class ChampionScorer:
    """Scores fleets with a model."""

    model: CellModel
    version: str
    source: str = "champion"

    def score(self, fleet: FleetState, reference: Reference, cells: NDArray[np.bool_] | None = None) -> Predictions:
        """See `Scorer.score`."""
        if cells is None:
            cells = np.ones((len(fleet.hosts), len(fleet.categories)), dtype=bool)
        return Predictions.from_logs(self.model.predict_logs(fleet, reference, cells))


@dataclass(frozen=True)
class LoadedModel:
    """A model version in memory.

    Args:
        scorer: over fingerprints in the store, if it is a model of their features.
        windows: over the features step's latest windows, if it is a model of those.
    """

    version: str
    scorer: ChampionScorer | None = None
    windows: ModelBundle | None = None


def load_model(folder: Path, version: str, source: str) -> LoadedModel:
    """Loads the model in a folder that `fetch` made.

    Raises:
        SchemaMismatchError: it was made for other features than this program's; the message names them.
        OSError, ValueError, KeyError, lightgbm.basic.LightGBMError: it is damaged.
    """
    found = json.loads((folder / "bundle.json").read_text())["schema_hash"]
    if found == cell_schema_hash():
        return LoadedModel(version, scorer=ChampionScorer(CellModel.load(folder), version, source))
    if found == window_schema_hash():
        return LoadedModel(version, windows=ModelBundle.load(folder))
    raise SchemaMismatchError(
        f"version {version} was made for feature schema {str(found)[:64]}; this program's are {cell_schema_hash()} "
        f"(fingerprints) and {window_schema_hash()} (windows): train a new version"
    )
