"""Checks that MLflow and Prefect respond before a command starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fingerpost.settings import Settings


def settings_with_registry() -> "Settings":
    """The settings, applied to this process, with the registry known to answer.

    Raises:
        FingerpostError: it does not.
    """
    from fingerpost.environment import apply_tool_environment
    from fingerpost.logs import configure_logs
    from fingerpost.settings import get_settings

    settings = get_settings()
    need_registry(settings)
    apply_tool_environment(settings)
    configure_logs("WARNING", settings.log_format)
    return settings


def need_registry(settings: "Settings") -> None:
    """Makes sure that MLflow answers, which itself would try for minutes; a database needs no server.

    Raises:
        FingerpostError: it does not.
    """
    if settings.mlflow.startswith("http"):
        need_server("MLflow", f"{settings.mlflow}/health", "FINGERPOST_MLFLOW_URL")


def need_prefect(settings: "Settings") -> None:
    """Makes sure that Prefect answers, and takes the credential.

    Raises:
        FingerpostError: it does not; the message says where the credential comes from.
    """
    import os

    import httpx

    from fingerpost.errors import FingerpostError
    from fingerpost.home import prefect_credential

    need_server("Prefect", f"{settings.prefect}/health", "FINGERPOST_PREFECT_URL")
    # A user's own server may be reached by what Prefect's own variables say.
    credential = prefect_credential(settings) or os.environ.get("PREFECT_API_AUTH_STRING", "")
    if not credential and os.environ.get("PREFECT_API_KEY"):
        return
    user, _, password = credential.partition(":")
    auth = httpx.BasicAuth(user, password) if credential else None
    try:
        answer = httpx.get(f"{settings.prefect}/admin/version", auth=auth, timeout=10, trust_env=False)
    except httpx.HTTPError:
        return  # it has just answered: whatever uses it will tell
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        origin = f"what is in {settings.prefect_credential_file}"
        if settings.prefect_auth or settings.prefect_url:
            origin = "FINGERPOST_PREFECT_AUTH" if credential else "no credential; set FINGERPOST_PREFECT_AUTH"
        raise FingerpostError(
            f"Prefect at {settings.prefect} asks for another credential than it was given: {origin}; "
            "is it the server of another home?"
        )


def need_server(what: str, health_url: str, setting: str) -> None:
    """Makes sure that a server answers.

    Raises:
        FingerpostError: it does not; the message names the setting that points at it.
    """
    import httpx

    from fingerpost.errors import FingerpostError

    try:
        httpx.get(health_url, timeout=10, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise FingerpostError(
            f"{what} does not answer at {health_url} ({type(error).__name__}): start it, or point {setting} at it"
        ) from error
