"""The engine as a Bento: the program, its pinned requirements, and one model version in it."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import fingerpost
from fingerpost.errors import NoDataError
from fingerpost.experiment import CHAMPION
from fingerpost.roles import installed_version, requirements
from fingerpost.settings import Settings

# Rooms that the engine has no use for.
_LEFT_OUT = ("abtest", "agent", "cli", "flows", "middleware", "simulator", "__pycache__")
# The extras whose libraries the engine runs with.
_ROLES = ("engine", "postgres")


def build_bento(settings: Settings, model_version: str) -> dict[str, Any]:
    """Builds a Bento that serves a model version, without the registry.

    Args:
        model_version: of the settings' service; empty: its champion.

    Returns:
        `tag`, `path`, `model_name` and `model_version`.

    Raises:
        NoDataError: there is no champion yet.
    """
    import bentoml

    from fingerpost.serving.models import SHIPPED
    from fingerpost.serving.registry_watch import fetch
    from fingerpost.training.registry import Registry

    registry = Registry(settings)
    chosen = model_version or registry.version_of(CHAMPION)
    if chosen is None:
        raise NoDataError(f"{settings.model_name} has no champion in {settings.mlflow}: train first, or name a version")
    with tempfile.TemporaryDirectory(prefix="fingerpost-bento-") as folder:
        context = Path(folder)
        package = context / fingerpost.__name__
        shutil.copytree(Path(fingerpost.__file__).parent, package, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        shipped = package / "serving" / SHIPPED.name
        fetch(registry, chosen, shipped)
        (shipped / "version").write_text(chosen)
        environment = {
            "FINGERPOST_SERVICE": settings.service,
            "FINGERPOST_MODEL_VERSION": chosen,
            # A container listens for others than itself.
            "FINGERPOST_BIND_HOST": "0.0.0.0",  # noqa: S104
        }
        bento = bentoml.build(
            "fingerpost.serving.service:PredictionEngine",
            build_ctx=str(context),
            version=f"model-{chosen}",
            labels={"model": settings.model_name, "model_version": chosen},
            include=["fingerpost/**"],
            python={"packages": _pinned_requirements(), "lock_packages": False},
            docker={"env": environment},
        )
    return {
        "tag": str(bento.tag),
        "path": str(bento.path),
        "model_name": settings.model_name,
        "model_version": chosen,
    }


def _pinned_requirements() -> list[str]:
    """The requirements of the engine's roles, at the versions that are installed here; others as they were written."""
    pinned = []
    for name, written in requirements(*_ROLES).items():
        here = installed_version(name)
        pinned.append(f"{re.split('[<>=!~ ]', written)[0]}=={here}" if here else written)
    return pinned
