"""The environment that the tools around us (Prefect, MLflow, BentoML) read: quiet, local, and all of one mind."""

import os
import sys

from fingerpost.home import make_home, own_prefect_credential, prefect_credential
from fingerpost.settings import LOOPBACK, Settings

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def python_module(module: str, *arguments: str) -> list[str]:
    """A command that runs an installed module; a folder of that name where it is run changes nothing (`-P`)."""
    return [sys.executable, "-P", "-m", module, *arguments]


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
    """Sets `tool_environment` in this process, before the tools are imported; they find the home made."""
    make_home(settings.home)
    os.environ.update(tool_environment(settings))


def own_origins(port: int) -> list[str]:
    """The origins of the pages that a server on a port of this machine serves itself."""
    return [f"http://{host}:{port}" for host in (LOOPBACK, "localhost")]


def prefect_server_environment(settings: Settings) -> dict[str, str]:
    """Variables for the Prefect server of this machine: it answers who has the credential, and its own pages alone.

    Whoever may change a deployment may run commands as the server's user. The origins keep other pages out; the
    credential keeps out other users of the machine, and pages whose name was made to point here.
    """
    return {
        "PREFECT_SERVER_API_AUTH_STRING": own_prefect_credential(settings),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(own_origins(settings.prefect_port)),
    }


def apply_flow_environment(settings: Settings) -> None:
    """As `apply_tool_environment`, for a process that runs flows: with the credential of Prefect, if there is one.

    Raises:
        FingerpostError: the credential cannot be read.
    """
    apply_tool_environment(settings)
    if credential := prefect_credential(settings):
        os.environ["PREFECT_API_AUTH_STRING"] = credential
