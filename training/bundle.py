"""The model of a service: an encoder of features, blends of naive forecasts, and boosters that correct them.

A registered model is this, saved as plain text files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.category import category_attributes
from fingerpost.features.definition import CATEGORICAL_FEATURES, FEATURES, NUMERIC_FEATURES, TARGETS, schema_hash
from fingerpost.training.manifest import (
    ABOUT,
    FORMAT,
    NEW,
    OWN,
    FileEntry,
    Verdict,
    booster_file,
    read_about,
    read_checked,
)
from fingerpost.training.trees.fast import Predict

if TYPE_CHECKING:
    from lightgbm import Booster

_MAX_BLEND_ROWS = 50_000
_MIN_BLEND_ROWS = 50
_BLEND_SCALE = 0.1
_PLACE = {name: place for place, name in enumerate(NUMERIC_FEATURES)}
# Corrections by more than this ratio are not believed.
_MAX_CORRECTION = np.log(20.0)


@dataclass(frozen=True)
class Encoder:
    """Encodes a frame with FEATURES.

    Args:
        vocabulary: attribute to its values in order; a value's place is its code, an unknown value is NaN.
    """

    vocabulary: dict[str, list[str]]

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Encoder":
        return cls({name: sorted(map(str, frame[name].unique())) for name in CATEGORICAL_FEATURES})

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """The matrix of a frame, shape (rows, features), in the order of FEATURES.

        Raises:
            ValueError: columns are missing; the message names them.
        """
        missing = [name for name in FEATURES if name not in frame.columns]
        if missing:
            raise ValueError(f"features are missing: {', '.join(missing)}")
        matrix = np.empty((len(frame), len(FEATURES)))
        matrix[:, : len(NUMERIC_FEATURES)] = frame[list(NUMERIC_FEATURES)].to_numpy(np.float64)
        for place, name in enumerate(CATEGORICAL_FEATURES, start=len(NUMERIC_FEATURES)):
            # Each distinct value is looked up once, however many rows there are.
            values = frame[name].astype("category").cat
            codes = {value: float(code) for code, value in enumerate(self.vocabulary[name])}
            table = np.array([*(codes.get(str(value), np.nan) for value in values.categories), np.nan])
            matrix[:, place] = table[values.codes.to_numpy()]
        return matrix

    def encode_cells(
        self, numeric: NDArray[np.float64], categories: Sequence[str], category: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The same matrix, of `fingerpost.features.fleet_features.CellFeatures`.

        Args:
            numeric: NUMERIC_FEATURES, shape (rows, features).
            categories: names.
            category: of each row, as a place in these, shape (rows,).
        """
        matrix = np.empty((len(numeric), len(FEATURES)))
        matrix[:, : len(NUMERIC_FEATURES)] = numeric
        matrix[:, len(NUMERIC_FEATURES) :] = self.codes(categories)[:, category].T
        return matrix

    def codes(self, categories: Sequence[str]) -> NDArray[np.float64]:
        """CATEGORICAL_FEATURES of categories, given by name, shape (attributes, categories)."""
        attributes = [category_attributes(name) for name in categories]
        found = np.empty((len(CATEGORICAL_FEATURES), len(attributes)))
        for place, name in enumerate(CATEGORICAL_FEATURES):
            codes = {value: float(code) for code, value in enumerate(self.vocabulary[name])}
            found[place] = [codes.get(each[name], np.nan) for each in attributes]
        return found


@dataclass(frozen=True)
class Blend:
    """log y = rolling average + weights . (differences of the other views from it).

    The weights lie in 0..1 and there is no constant: a combination of forecasts (Bates and Granger, 1969) errs little
    outside of what it was fitted to, which a free regression over a short history does not promise. Where the cell has
    no history of its own, the rolling average is the fleet's for the category times the host's ratio to it.

    Args:
        own: a weight for each of OWN, for cells with a history.
        new: a weight for each of NEW, for cells without.
    """

    own: tuple[float, ...]
    new: tuple[float, ...]

    @classmethod
    def fit(cls, matrix: Floats, outcome: Floats, target: str) -> "Blend":
        """Fits by a smooth absolute loss (pseudo-Huber, scale 0.1); on the latest 50,000 rows of either kind.

        Args:
            matrix: features as `fingerpost.training.bundle.Encoder` orders them, shape (n, features).
            outcome: logs, shape (n,).
        """
        seen = _own(matrix)
        own = _fit(matrix, outcome, target, OWN, seen)
        new = _fit(matrix, outcome, target, NEW, ~seen)
        # With too few to learn from, the compromise between similar hosts and the fleet stands.
        return cls(
            own if own is not None else tuple(1.0 if view == "mixed" else 0.0 for view in OWN),
            new if new is not None else tuple(1.0 if view == "shrunk" else 0.0 for view in NEW),
        )

    def predict(self, matrix: Floats, target: str) -> Floats:
        """Logs of the forecast, shape (n,)."""
        base = matrix[:, _PLACE[f"{target}_ewma"]]
        own = _differences(matrix, target, OWN) @ np.array(self.own)
        new = _differences(matrix, target, NEW) @ np.array(self.new)
        blended: Floats = base + np.where(_own(matrix), own, new)
        return blended


def _own(matrix: Floats) -> NDArray[np.bool_]:
    seen: NDArray[np.bool_] = matrix[:, _PLACE["seen_windows"]] > 0
    return seen


def _differences(matrix: Floats, target: str, views: tuple[str, ...]) -> Floats:
    """The views less the rolling average, shape (n, views); one that is not known, or is no feature, agrees with it."""
    # A view side by side, whichever way the features lie, so that the sums are the same to the bit.
    picked = np.zeros((len(matrix), len(views)), order="F")
    for number, view in enumerate(views):
        # Of p90, which is not served, there is no baseline.
        if (place := _PLACE.get(f"{target}_{view}")) is not None:
            picked[:, number] = matrix[:, place]
    return np.where(np.isfinite(picked), picked, 0.0)


def _fit(
    matrix: Floats, outcome: Floats, target: str, views: tuple[str, ...], where: NDArray[np.bool_]
) -> tuple[float, ...] | None:
    from scipy.optimize import minimize

    wanted = outcome - matrix[:, _PLACE[f"{target}_ewma"]]
    usable = np.flatnonzero(where & np.isfinite(wanted))[-_MAX_BLEND_ROWS:]
    if len(usable) < _MIN_BLEND_ROWS:
        return None
    differences, wanted = _differences(matrix[usable], target, views), wanted[usable]

    def loss(weights: Floats) -> tuple[float, Floats]:
        error = differences @ weights - wanted
        root = np.sqrt(error**2 + _BLEND_SCALE**2)
        return float(root.mean()), differences.T @ (error / root) / len(error)

    count = len(views)
    found = minimize(loss, np.full(count, 0.1), jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * count)
    return tuple(float(weight) for weight in found.x)


@dataclass(frozen=True)
class ModelBundle:
    """Predicts every target as a blend of naive forecasts times a learned correction: log y = blend + f(features).

    Args:
        boosters: target to boosters of the correction, on a log scale, whose mean counts.
        blends: target to the blend it corrects.
        shifts: target to what is added to the log of what is served, so that a quantile holds the share of requests
            that it should; see `fingerpost.training.calibration`.
        verdict: in which categories its predictions are to be served.
    """

    boosters: dict[str, list["Booster"]]
    blends: dict[str, Blend]
    encoder: Encoder
    shifts: dict[str, float] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

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
        if self.verdict != Verdict():
            # Left out where it says nothing, so that programs of an earlier version can read the rest.
            about["verdict"] = self.verdict.model_dump()
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
        return cls(boosters, blends, Encoder(about.vocabulary), about.shifts, about.verdict)
