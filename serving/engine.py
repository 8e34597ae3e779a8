"""The prediction engine as a BentoML service: `bentoml serve serving.engine:PredictionEngine`."""

import logging
from typing import Any

import bentoml
from bentoml.exceptions import InvalidArgument, NotFound, ServiceUnavailable

from fingerpost.environment import apply_tool_environment
from fingerpost.settings import get_settings
from serving.champion import ChampionFollower
from serving.fingerprints import LatestFingerprints
from serving.predictor import cells_to_json, predict_cells

logger = logging.getLogger(__name__)
_MAX_FILTER = 1000


@bentoml.service(name="fingerpost-engine", workers=1, traffic={"timeout": 30})
class PredictionEngine:
    """Predicts throughput and latency of every host for every category, with the model that is champion now."""

    def __init__(self) -> None:
        self._settings = get_settings()
        apply_tool_environment(self._settings)
        self._fingerprints = LatestFingerprints(self._settings.lake, self._settings.service)
        self._follower = ChampionFollower(self._settings)
        self._follower.start()

    @bentoml.api(route="/v1/predict")
    def predict(
        self, service: str, hosts: list[str] | None = None, categories: list[str] | None = None
    ) -> dict[str, Any]:
        """Predictions for hosts and categories.

        Args:
            service: the service.
            hosts: only these; all if absent.
            categories: only these; all if absent.

        Returns:
            `service`, `model_name`, `model_version`, `as_of` (end of the last window that was seen), and `cells`: host,
            category, throughput_rps, latency_p50_s, latency_p99_s, cost_s, best.
        """
        if service != self._settings.service:
            raise NotFound(f"service {service[:64]!r} is not known here; this engine serves {self._settings.service!r}")
        if len(hosts or []) > _MAX_FILTER or len(categories or []) > _MAX_FILTER:
            raise InvalidArgument(f"at most {_MAX_FILTER} hosts or categories can be asked for at once")
        champion, fingerprints = self._follower.champion, self._fingerprints.read()
        if champion is None:
            raise ServiceUnavailable(f"no model yet: {self._follower.problem}")
        if fingerprints is None:
            raise ServiceUnavailable(f"no fingerprints yet: {self._fingerprints.problem}")
        cells = predict_cells(champion.bundle, fingerprints, self._settings.latency_weight)
        wanted = cells["host"].isin(hosts or cells["host"]) & cells["category"].isin(categories or cells["category"])
        return {
            "service": service,
            "model_name": self._settings.model_name,
            "model_version": champion.version,
            "as_of": fingerprints["time"].iloc[0].isoformat(),
            "cells": cells_to_json(cells[wanted]),
        }

    @bentoml.on_shutdown
    def close(self) -> None:
        self._follower.stop()

    async def __is_ready__(self) -> bool:
        return self._follower.champion is not None and self._fingerprints.read() is not None
