"""Where MLflow's aliases of a service's registered model point, for every room that asks."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
# What MLflow answers of a model, a version, an alias or a tag that there is none of.
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@contextlib.contextmanager
def none_if_missing() -> Iterator[None]:
    """Passes over what MLflow says of something that is not there; everything else it says is raised."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in _MISSING:
            raise


def pointed_at(client: "MlflowClient", model_name: str, alias: str) -> "ModelVersion | None":
    """MLflow's entry of the version an alias points at, or None.

    Raises:
        mlflow.exceptions.MlflowException: the registry does not answer.
    """
    with none_if_missing():
        return client.get_model_version_by_alias(model_name, alias)
    return None


def version_of(client: "MlflowClient", model_name: str, alias: str) -> str | None:
    """The number of the version an alias points at, or None; raises as `pointed_at`."""
    found = pointed_at(client, model_name, alias)
    return None if found is None else str(found.version)
