"""Defines what flows share: steps with retries, a status in the lake, and hooks that report failures."""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run as present_run
from prefect.tasks import exponential_backoff

from fingerpost.clock import US, clock_us
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.features.status import send_status
from fingerpost.flow_status import note_ended, note_started
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.run import verdict
from fingerpost.masking import described, mask_error
from fingerpost.names import check_name
from fingerpost.settings import Settings, get_settings
from fingerpost.tracing import flush, span

# What a key of Prefect's artifacts may not hold.
_NOT_IN_KEY = re.compile(r"[^a-z0-9-]")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_RETRIES = 3
_FIRST_PAUSE_S = 5
_MAX_DETAILS = 64 * 1024


def settings_of(service: str) -> Settings:
    """The settings for a flow of a service; empty: of the settings' own.

    Raises:
        FingerpostError: it cannot be a service's name.
    """
    settings = get_settings()
    try:
        return settings.model_copy(update={"service": check_name(service, "service")}) if service else settings
    except ValueError as error:
        raise FingerpostError(str(error)) from error


def leave_markdown(settings: Settings, name: str, markdown: str, description: str = "") -> None:
    """Leaves a text for people under the flow's name and the service's."""
    create_markdown_artifact(key=_artifact_key(name, settings), markdown=markdown, description=description)


def leave_table(settings: Settings, name: str, table: list[dict[str, Any]], description: str = "") -> None:
    """Leaves a table for people under the flow's name and the service's."""
    create_table_artifact(key=_artifact_key(name, settings), table=table, description=description)


def _artifact_key(name: str, settings: Settings) -> str:
    return f"{name}-{_NOT_IN_KEY.sub('-', settings.service.lower())}"


def run_step(name: str, work: Callable[[], Any], retries: int = _RETRIES) -> Any:
    """Does the work of a flow as a task: what fails is tried again after 5, 10 and 20 seconds, or a little longer.

    Every step can be repeated: killed and run again, it ends the same. What a person must change is not tried again.
    """

    @without_secrets
    def step_of_flow() -> Any:
        with span(f"step {name}"):
            return work()

    step = task(
        name=name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(_FIRST_PAUSE_S),
        retry_jitter_factor=0.2,
        retry_condition_fn=worth_trying_again,
        cache_policy=NO_CACHE,
    )(step_of_flow)
    return step()


def without_secrets(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function of a flow, whose errors hold no passwords: Prefect logs and keeps them."""

    @wraps(work)
    def masking(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return work(*args, **kwargs)
        except BaseException as error:
            mask_error(error)
            raise

    return masking


def reported(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function of a flow, `NAME_flow`: its errors hold no passwords, and the lake tells how its latest run went."""
    name = work.__name__.removesuffix("_flow")

    @wraps(work)
    def reporting(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        settings = settings_of(str((args[0] if args else kwargs.get("service")) or ""))
        place = (settings.lake, settings.service, name)
        address, planned_us = _address(settings, present_run.id), _planned_us()
        send_status(settings, *note_started(*place, clock_us(), address, planned_us))
        try:
            with span(f"flow {name}", fingerpost_service=settings.service):
                result = work(*args, **kwargs)
        except BaseException as error:
            send_status(settings, *note_ended(*place, clock_us(), True, described(error)))
            raise
        finally:
            # The process of a run may end without the words that would send them.
            flush()
        plain = json.loads(json.dumps(result, default=str))
        details = plain if _is_short(plain) else None
        send_status(settings, *note_ended(*place, clock_us(), False, verdict(name, plain), details))
        return result

    return without_secrets(reporting)


def _is_short(result: Any) -> bool:
    return isinstance(result, dict) and len(json.dumps(result)) <= _MAX_DETAILS


def _planned_us() -> int | None:
    """When the present run was to begin, microseconds since 1970; None: outside of one."""
    planned = present_run.scheduled_start_time
    return round(planned.timestamp() * US) if planned else None


def _address(settings: Settings, run_id: str | None) -> str:
    """The page of a run in Prefect; empty outside of one."""
    return f"{settings.prefect.removesuffix('/api')}/runs/flow-run/{run_id}" if run_id else ""


def worth_trying_again(_task: Any, _run: Any, state: Any) -> bool:
    """Whether an error may be gone the next time."""
    try:
        state.result()
    except (FingerpostError, RefusedError, TypeError, KeyError):
        return False
    except Exception:
        return True
    return True


def tell_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook of flows that fail or crash."""
    settings = settings_of(str((flow_run.parameters or {}).get("service") or ""))
    about = {"run": flow_run.name, "url": _address(settings, str(flow_run.id))}
    send_alert(settings, "failed flow", f"{flow.name}: {state.message or state.name}", about)
