"""What is registered as one model: boosters for each target, the encoder, and what they fit to. Plain text files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.features.definition import TARGETS, schema_hash
from fingerpost.training.blend import Blend
from fingerpost.training.encoder import Encoder
from fingerpost.training.manifest import ABOUT, FORMAT, FileEntry, booster_file, read_about, read_checked
from fingerpost.training.trees.fast import Predict

if TYPE_CHECKING:
    from lightgbm import Booster

# Corrections by more than this ratio are not believed.
_MAX_CORRECTION = np.log(20.0)


@dataclass(frozen=True)
class ModelBundle:
    """Predicts every target as a blend of naive forecasts times a learned correction: log y = blend + f(features).

    Args:
        boosters: target to boosters of the correction, on a log scale, whose mean counts.
        blends: target to the blend it corrects.
        shifts: target to what is added to the log of what is served, so that a quantile holds the share of requests
            that it should; see `fingerpost.training.calibration`.
    """

    boosters: dict[str, list["Booster"]]
    blends: dict[str, Blend]
    encoder: Encoder
    shifts: dict[str, float] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        return list(self.boosters)

    def predict_log(self, frame: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """Logs of the predicted targets, each of shape (rows,), as windows will measure them: without shifts.

        Args:
            frame: FEATURES, as `fingerpost.features.replay.Replay` makes them.
        """
        return self.predict_matrix(self.encoder.encode(frame))

    def predict_matrix(
        self, matrix: NDArray[np.float64], trees: Mapping[str, Sequence[Predict]] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """As `predict_log`, of encoded features.

        Args:
            trees: what the boosters predict, if somebody does that quicker; see `fingerpost.training.trees.fast`.
        """
        predicted = {}
        for target, boosters in self.boosters.items():
            if trees is None:
                corrections = [each.predict(matrix, num_threads=1) for each in boosters]
            else:
                corrections = [predict(matrix) for predict in trees[target]]
            predicted[target] = self.blends[target].predict(matrix, target) + np.clip(
                np.mean(corrections, axis=0), -_MAX_CORRECTION, _MAX_CORRECTION
            )
        return predicted

    def served_logs(
        self, matrix: NDArray[np.float64], trees: Mapping[str, Sequence[Predict]] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """As `predict_matrix`, with shifts: what is served."""
        predicted = self.predict_matrix(matrix, trees)
        return {target: logs + self.shifts.get(target, 0.0) for target, logs in predicted.items()}

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The predicted targets in their units, as served: with shifts, and p99 never below p50."""
        predicted = {target: np.exp(logs) for target, logs in self.served_logs(self.encoder.encode(frame)).items()}
        predicted["latency_p99_s"] = np.maximum(predicted["latency_p99_s"], predicted["latency_p50_s"])
        return pd.DataFrame(predicted, index=frame.index)[list(TARGETS)]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, FileEntry] = {}
        for target, boosters in self.boosters.items():
            for number, booster in enumerate(boosters):
                name, content = booster_file(target, number), booster.model_to_string().encode()
                (folder / name).write_bytes(content)
                files[name] = FileEntry.of(content)
        about = {
            "format": FORMAT,
            "schema_hash": schema_hash(),
            "boosters": {target: len(boosters) for target, boosters in self.boosters.items()},
            "blends": {target: {"own": blend.own, "new": blend.new} for target, blend in self.blends.items()},
            "shifts": self.shifts,
            "vocabulary": self.encoder.vocabulary,
            "files": {name: entry.model_dump() for name, entry in files.items()},
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "ModelBundle":
        """Loads what `save` wrote; nothing in it is executed.

        LightGBM ends the process that reads damaged trees. Files from elsewhere are to be read by
        `fingerpost.training.inspection.inspect_files` first, which does that in a process of its own.

        Raises:
            SchemaMismatchError: it was made for other features.
            DamagedModelError: a file is not what was saved.
        """
        from lightgbm import Booster

        about = read_about(folder)
        boosters = {
            target: [
                Booster(model_str=read_checked(folder, name, about.files[name]).decode())
                for name in about.names_of(target)
            ]
            for target in about.boosters
        }
        blends = {target: Blend(tuple(each.own), tuple(each.new)) for target, each in about.blends.items()}
        return cls(boosters, blends, Encoder(about.vocabulary), about.shifts)
