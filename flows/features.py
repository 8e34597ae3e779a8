"""The features flow: records to windows, training rows and the latest fingerprints."""

import logging
from dataclasses import asdict
from typing import Any

from prefect import flow

from fingerpost.experiment import CHAMPION
from fingerpost.features.build import FeatureSettings, FeaturesReport, build_features
from fingerpost.features.maintenance import lake_lock
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.flows.train import ask_for_training
from fingerpost.masking import described
from fingerpost.settings import Settings
from fingerpost.shown import markdown_name
from fingerpost.training.registry import Registry
from fingerpost.workers import SERIAL, workers_of

logger = logging.getLogger(__name__)


@flow(name="features", timeout_seconds=1800, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def features_flow(service: str = "", ask: bool = True) -> dict[str, Any]:
    """Builds the features of the service; leaves a report of hosts and categories.

    Args:
        ask: for a first training, once there is enough to train on.
    """
    settings = settings_of(service)
    report: FeaturesReport = run_step("features", lambda: _build(settings))
    leave_markdown(
        settings,
        "features",
        _markdown(report),
        description="What the features were built from",
    )
    return {**asdict(report), "training": _first_training(settings, report) if ask else None}


def first_training_key(least_rows: int, report: FeaturesReport) -> str | None:
    """Names what a first training would be trained on, by its size in powers of two; None: it is too little.

    Args:
        least_rows: see the setting `first_training_rows`.
    """
    # Of one host alone there is nothing to choose.
    if not least_rows or report.training_rows < least_rows or len(report.hosts) < 2:
        return None
    return f"{report.schema_hash}-{(report.training_rows // least_rows).bit_length()}"


def _first_training(settings: Settings, report: FeaturesReport) -> str | None:
    """Asks for a training while no model serves; the run's name, None where there is no reason, or no schedules."""
    from prefect.exceptions import ObjectNotFound

    key = first_training_key(settings.first_training_rows, report)
    if key is None:
        return None
    try:
        if Registry(settings).version_of(CHAMPION) is not None:
            return None
        return ask_for_training(settings.service, key=f"first-{settings.service}-{key}")
    except ObjectNotFound:
        return None
    except Exception as error:
        # The features are built; the next run asks again.
        logger.warning("no first training could be asked for: %s", described(error))
        return None


def feature_settings(settings: Settings) -> FeatureSettings:
    """What features depend on, of the settings."""
    return FeatureSettings(
        settings.window_s,
        settings.halflife_s,
        settings.max_categories,
        settings.min_category_requests,
        tuple(settings.route_templates),
        category_drift=settings.category_drift,
        max_rows=settings.max_training_rows,
        recent_hours=settings.training_recent_hours,
        calendar=settings.calendar,
        holidays=settings.holidays,
    )


def _build(settings: Settings) -> FeaturesReport:
    with lake_lock(settings.lake, settings.service), workers_of(settings, SERIAL) as workers:
        return build_features(settings.lake, settings.service, feature_settings(settings), workers=workers)


def _markdown(report: FeaturesReport) -> str:
    categories = "\n".join(f"- {markdown_name(name)}" for name in report.categories)
    return (
        f"# Features as of {report.as_of}\n\n{report.request_records} request records, {report.windows} windows, "
        f"{report.training_rows} training rows (schema {report.schema_hash}).\n\n"
        f"**Dates windowed:** {', '.join(report.dates_made) or 'none: all are up to date'}; "
        f"**replayed:** {', '.join(report.dates_replayed) or 'none'} ({report.windows_replayed} windows)\n\n"
        f"**Hosts:** {', '.join(report.hosts)}\n\n"
        f"**Categories** (version {report.category_version}):\n\n{categories}\n"
    )
