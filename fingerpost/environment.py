"""The environment that the tools around us (Prefect, MLflow, BentoML) read: quiet, local, and all of one mind."""

import os

from fingerpost.settings import Settings

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def tool_environment(settings: Settings) -> dict[str, str]:
    """Variables for a process that uses Prefect, MLflow or BentoML; no telemetry leaves the machine."""
    home = settings.home
    return {
        **QUIET,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": settings.prefect,
        # Runs leave the history as telemetry leaves the lake.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(round(settings.max_age_days * 86400)),
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        # Our own processes log through the root logger; Prefect's copies of each line would double the log.
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_CLI_COLORS": "false",
        "MLFLOW_TRACKING_URI": settings.mlflow,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # The job runner is for MLflow's own judges; its consumers outlive the server that is stopped.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Without a repository there is no commit to record, and no reason to warn of it.
        "GIT_PYTHON_REFRESH": "quiet",
        "BENTOML_HOME": str(home / "bentoml"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }


def apply_tool_environment(settings: Settings) -> None:
    """Sets `tool_environment` in this process, before the tools are imported."""
    os.environ.update(tool_environment(settings))
