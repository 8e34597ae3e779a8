"""A model over `serving.cell_features`: a booster a target, each correcting the fingerprints' own forecast."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.baseline import Reference
from serving.cell_features import attribute_codes, cell_features, schema_hash
from serving.fleet_state import FleetState, Floats
from serving.scorer import TARGETS

if TYPE_CHECKING:
    from lightgbm import Booster

_FORMAT = 1
# Corrections by more than this ratio are not believed.
_MAX_CORRECTION = np.log(20.0)
# Rows at once: their features stay in the processor's cache.
_BLOCK = 8192


@dataclass(frozen=True)
class CellModel:
    """log y = forecast of the fingerprints + f(features).

    Args:
        boosters: target to booster.
        vocabulary: of `serving.cell_features.vocabulary_of`.
    """

    boosters: Mapping[str, "Booster"]
    vocabulary: Mapping[str, list[str]]

    def predict_logs(self, fleet: FleetState, reference: Reference, cells: NDArray[np.bool_]) -> Floats:
        """Logs of the targets, shape (H, C, 3); the forecast alone where `cells` is false."""
        logs = reference.filled()
        matrix = cell_features(fleet, reference, attribute_codes(fleet.categories, self.vocabulary), cells)
        corrections = np.empty((len(matrix), len(TARGETS)))
        for begin in range(0, len(matrix), _BLOCK):
            block = matrix[begin : begin + _BLOCK]
            for place, target in enumerate(TARGETS):
                corrections[begin : begin + _BLOCK, place] = self.boosters[target].predict(block, num_threads=1)
        logs[cells] += np.clip(corrections, -_MAX_CORRECTION, _MAX_CORRECTION)
        return logs

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for target, booster in self.boosters.items():
            (folder / f"{target}.txt").write_text(booster.model_to_string())
        about = {"format": _FORMAT, "schema_hash": schema_hash(), "vocabulary": dict(self.vocabulary)}
        (folder / "bundle.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "CellModel":
        """Loads what `save` wrote; nothing in it is executed."""
        from lightgbm import Booster

        about = json.loads((folder / "bundle.json").read_text())
        boosters = {target: Booster(model_str=(folder / f"{target}.txt").read_text()) for target in TARGETS}
        return cls(boosters, about["vocabulary"])
