"""Defines what flows share: steps with retries, and hooks that report failures."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.flows.alerts import send_alert
from fingerpost.masking import mask_error
from fingerpost.settings import get_settings

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_RETRIES = 3
_FIRST_PAUSE_S = 5


def run_step(name: str, work: Callable[[], Any], retries: int = _RETRIES) -> Any:
    """Does the work of a flow as a task: what fails is tried again after 5, 10 and 20 seconds, or a little longer.

    Every step can be repeated: killed and run again, it ends the same. What a person must change is not tried again.
    """

    @without_secrets
    def step_of_flow() -> Any:
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
    settings = get_settings()
    address = f"{settings.prefect.removesuffix('/api')}/runs/flow-run/{flow_run.id}"
    send_alert(
        settings, "failed flow", f"{flow.name}: {state.message or state.name}", {"run": flow_run.name, "url": address}
    )
