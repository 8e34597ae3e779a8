"""Features as a matrix: numbers as they are, category attributes as codes learned in training."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definition import CATEGORICAL_FEATURES, FEATURES, NUMERIC_FEATURES


@dataclass(frozen=True)
class Encoder:
    """Encodes a frame with FEATURES.

    Args:
        vocabulary: attribute to its values in order; a value's place is its code, an unknown value is NaN.
    """

    vocabulary: dict[str, list[str]]

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Encoder":
        return cls({name: sorted(set(frame[name])) for name in CATEGORICAL_FEATURES})

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """The matrix of a frame, shape (rows, features), in the order of FEATURES.

        Raises:
            ValueError: columns are missing; the message names them.
        """
        missing = [name for name in FEATURES if name not in frame.columns]
        if missing:
            raise ValueError(f"features are missing: {', '.join(missing)}")
        columns = [frame[name].to_numpy(np.float64) for name in NUMERIC_FEATURES]
        for name in CATEGORICAL_FEATURES:
            codes = {value: float(code) for code, value in enumerate(self.vocabulary[name])}
            columns.append(frame[name].map(codes).to_numpy(np.float64))
        return np.stack(columns, axis=1)
