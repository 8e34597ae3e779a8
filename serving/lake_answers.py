"""Predictions from the lake's latest windows, for services whose agents send no fingerprints to the engine."""

from typing import TYPE_CHECKING, Any

from fingerpost.serving.answers import UnknownError
from fingerpost.serving.api_models import PredictRequest
from fingerpost.serving.http import RefusedRequestError
from fingerpost.serving.predictor import cells_to_json, predict_cells

if TYPE_CHECKING:
    from fingerpost.serving.engine import Engine


def predict_from_lake(engine: "Engine", asked: PredictRequest) -> dict[str, Any]:
    """The answer to a PredictRequest out of `fingerprints/service=S/latest.parquet`.

    Raises:
        UnknownError: it is another service than the one the engine's lake is of.
        RefusedRequestError: there is no model of windows yet, or no windows.
    """
    settings = engine.settings
    if asked.service != settings.service:
        raise UnknownError(f"service {asked.service!r} has no live hosts here")
    model = engine.models.slot(asked.service, "champion").model
    if model is None:
        why = engine.models.slot(asked.service, "champion").problem or engine.models.registry_problem
        raise RefusedRequestError(503, f"no fingerprints of {asked.service!r}, and no model of its windows: {why}")
    windows = engine.windows.read()
    if windows is None:
        raise RefusedRequestError(503, f"no fingerprints yet: {engine.windows.problem}")
    cells = predict_cells(model.bundle, windows, settings.latency_weight)
    wanted = cells["host"].isin(asked.hosts or cells["host"])
    wanted &= cells["category"].isin(asked.categories or cells["category"])
    as_of = windows["time"].iloc[0]
    return {
        "service": asked.service,
        "source": "windows",
        "model_name": settings.model_name,
        "model_version": model.version,
        "category": None,
        "as_of": as_of.isoformat(),
        "cells": cells_to_json(cells[wanted]),
    }
