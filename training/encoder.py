"""Features as a matrix: numbers as they are, category attributes as codes learned in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.category import category_attributes
from fingerpost.features.definition import CATEGORICAL_FEATURES, FEATURES, NUMERIC_FEATURES


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
