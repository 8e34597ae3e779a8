"""A model of the fleet that is measured: ingest, features and training on what its agents have reported.

A process of its own (`python -m bench.fleet_model RESULT`, settings from the environment), so that what it loads does
not weigh on the one that sends the requests. Tells its progress on lines that begin with `>`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fingerpost.settings import Settings, get_settings

MARK = "> "
_DAY_S = 86_400.0


def learn_model(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Registers a version; tells whether it became champion, or the baseline goes on, and what it was learned from.

    Raises:
        NoDataError: the agents reported too little.
    """
    from fingerpost.features.build import build_features
    from fingerpost.features.ingest import ingest
    from fingerpost.features.prepare import FeatureSettings
    from fingerpost.training.train import train

    lake, service = settings.lake, settings.service
    taken = ingest(lake, service, settings.clock_skew_s, settings.max_age_days * _DAY_S)
    say(f"ingested {taken.request_records} request records, {taken.host_samples} host samples")
    chosen = FeatureSettings(
        settings.window_s, settings.halflife_s, settings.max_categories, settings.min_category_requests
    )
    built = build_features(lake, service, chosen)
    say(f"{built.windows} windows, {built.training_rows} training rows of {len(built.categories)} categories")
    make_registry(settings)
    trained = train(lake, settings, say)
    say(f"version {trained.model_version}: {trained.reason}")
    return {
        "model_version": trained.model_version,
        "champion": trained.champion,
        "request_records": taken.request_records,
        "refused": dict(taken.refused),
        "windows": built.windows,
        "training_rows": trained.train_rows,
        "test_rows": trained.test_rows,
        "skill": {target: round(score.skill, 3) for target, score in trained.scores.items()},
        "regret": round(trained.regret, 4),
    }


def make_registry(settings: Settings) -> None:
    """Makes the experiment of trainings, its artifacts beside the database: MLflow's default is the present folder."""
    import mlflow

    folder = settings.home / "mlartifacts"
    mlflow.MlflowClient(settings.mlflow).create_experiment(
        f"{settings.model_name}-training", artifact_location=folder.as_uri()
    )


def main() -> None:
    learned = learn_model(get_settings(), lambda text: print(f"{MARK}{text}", flush=True))
    Path(sys.argv[1]).write_text(json.dumps(learned))


if __name__ == "__main__":
    main()
