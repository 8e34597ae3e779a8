"""Loads a registered model for MLflow: text files in, no pickles (a `loader_module` of an MLflow pyfunc)."""

from pathlib import Path

import pandas as pd

from fingerpost.training.bundle import ModelBundle


class BundleModel:
    """The interface that MLflow asks for."""

    def __init__(self, bundle: ModelBundle) -> None:
        self._bundle = bundle

    def get_raw_model(self) -> ModelBundle:
        return self._bundle

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self._bundle.predict(frame)


def _load_pyfunc(data_path: str) -> BundleModel:
    return BundleModel(ModelBundle.load(Path(data_path)))
