"""All settings, read from `FINGERPOST_*` in the environment; a file a group. `docs/settings.md` has the tables."""

import ipaddress
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fingerpost.errors import FingerpostError
from fingerpost.settings.drift import Drift
from fingerpost.settings.engine import Engine
from fingerpost.settings.experiments import Experiments
from fingerpost.settings.flows import Flows
from fingerpost.settings.platform import Platform
from fingerpost.settings.routing import Routing
from fingerpost.settings.telemetry import Telemetry
from fingerpost.settings.training import Training

LOOPBACK = "127.0.0.1"
_ANY = {"0.0.0.0", "::"}  # noqa: S104 (to tell it, not to bind it)
GROUPS = (Platform, Telemetry, Training, Routing, Engine, Experiments, Flows, Drift)


class Settings(Drift, Flows, Experiments, Engine, Routing, Training, Telemetry, Platform, BaseSettings):
    """One flat set of settings, shared by every part; each field's description is its documentation."""

    model_config = SettingsConfigDict(env_prefix="FINGERPOST_", extra="ignore")

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    @property
    def mlflow(self) -> str:
        """Address of the MLflow tracking server."""
        return self.mlflow_url or f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def prefect(self) -> str:
        """Address of the Prefect API."""
        return self.prefect_url or f"http://{LOOPBACK}:{self.prefect_port}/api"

    @property
    def only_this_machine(self) -> bool:
        """Whether what listens on `bind_host` can be reached from this machine alone."""
        return is_loopback(self.bind_host)

    @property
    def fingerprint_store(self) -> str:
        """SQLAlchemy URL of the engine's fingerprint store."""
        return self.store_url or f"sqlite:///{self.home / 'fingerprints.db'}"

    @property
    def reach_host(self) -> str:
        """Where Envoy and the engine are reached from this machine."""
        return LOOPBACK if self.bind_host in _ANY else self.bind_host

    @property
    def model_name(self) -> str:
        """The service's registered model in MLflow."""
        return f"fingerpost-{self.service}"


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from this machine alone; a name other than `localhost` may be anything."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process.

    Raises:
        FingerpostError: a variable has a value that does not fit; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"FINGERPOST_{'_'.join(map(str, problem['loc'])).upper()}={problem['input']!r}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise FingerpostError("settings refused: " + "; ".join(lines) + " (see docs/settings.md)") from error


def settings_tables() -> str:
    """The settings as Markdown, a section a group, each with a table: variable, default, meaning."""
    sections = []
    for group in GROUPS:
        rows = [f"## {group.__name__}", "", f"{group.__doc__}", "", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in group.model_fields.items():
            default = field.default if str(field.default) else "(empty)"
            rows.append(f"| `FINGERPOST_{name.upper()}` | `{default}` | {field.description} |")
        sections.append("\n".join(rows) + "\n")
    return "\n".join(sections)
