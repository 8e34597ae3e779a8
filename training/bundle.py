"""What is registered as one model: a booster for each target, the encoder, and what they fit to. Plain text files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definition import TARGETS, schema_hash
from training.blend import Blend
from training.encoder import Encoder

if TYPE_CHECKING:
    from lightgbm import Booster

_FORMAT = 1
# Corrections by more than this ratio are not believed.
_MAX_CORRECTION = np.log(20.0)


class SchemaMismatchError(ValueError):
    """A model was made for other features than these."""


@dataclass(frozen=True)
class ModelBundle:
    """Predicts every target as a blend of naive forecasts times a learned correction: log y = blend + f(features).

    Args:
        boosters: target to booster of the correction, on a log scale.
        blends: target to the blend it corrects.
    """

    boosters: dict[str, "Booster"]
    blends: dict[str, Blend]
    encoder: Encoder

    def predict_log(self, frame: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """Logs of the predicted targets, each of shape (rows,).

        Args:
            frame: FEATURES and the naive forecasts, as `features.dataset.Replay` makes them.
        """
        matrix = self.encoder.encode(frame)
        return {
            target: self.blends[target].predict(frame, target)
            + np.clip(booster.predict(matrix), -_MAX_CORRECTION, _MAX_CORRECTION)
            for target, booster in self.boosters.items()
        }

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The predicted targets in their units; p99 is never below p50."""
        predicted = {target: np.exp(values) for target, values in self.predict_log(frame).items()}
        predicted["latency_p99_s"] = np.maximum(predicted["latency_p99_s"], predicted["latency_p50_s"])
        return pd.DataFrame(predicted, index=frame.index)[list(TARGETS)]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for target, booster in self.boosters.items():
            (folder / f"{target}.txt").write_text(booster.model_to_string())
        about = {
            "format": _FORMAT,
            "schema_hash": schema_hash(),
            "blends": {target: asdict(blend) for target, blend in self.blends.items()},
            "vocabulary": self.encoder.vocabulary,
        }
        (folder / "bundle.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "ModelBundle":
        """Loads what `save` wrote; nothing in it is executed.

        Raises:
            SchemaMismatchError: it was made for other features.
        """
        from lightgbm import Booster

        about = json.loads((folder / "bundle.json").read_text())
        if about["format"] != _FORMAT or about["schema_hash"] != schema_hash():
            raise SchemaMismatchError(
                f"the model has format {about['format']} and feature schema {about['schema_hash']}, this program "
                f"{_FORMAT} and {schema_hash()}: train a new version"
            )
        boosters = {target: Booster(model_str=(folder / f"{target}.txt").read_text()) for target in TARGETS}
        blends = {target: Blend(tuple(map(float, each["weights"]))) for target, each in about["blends"].items()}
        return cls(boosters, blends, Encoder(about["vocabulary"]))
