"""Reads all settings from `FINGERPOST_*` in the environment and from a file; `docs/settings.md` has the tables."""

import difflib
import ipaddress
import logging
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from fingerpost.errors import FingerpostError
from fingerpost.masking import masked_setting
from fingerpost.settings.drift import Drift
from fingerpost.settings.engine import Engine
from fingerpost.settings.experiments import Experiments
from fingerpost.settings.file import VARIABLE, read_settings, remember, settings_file
from fingerpost.settings.flows import Flows
from fingerpost.settings.platform import Platform
from fingerpost.settings.routing import Routing
from fingerpost.settings.telemetry import Telemetry
from fingerpost.settings.training import Training
from fingerpost.tls import ClientTLS
from fingerpost.tokens import AcceptedTokens, Token, token_of

logger = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
_PREFIX = "FINGERPOST_"
# Variables that parts give each other, or Envoy's picker reads: no settings.
_OTHERS = ("FINGERPOST_STACK", "FINGERPOST_UNTESTED_ENVOY", VARIABLE)
# What Kubernetes tells every container of services whose name begins as ours does.
_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
# How a setting is named in an error of what reads the environment.
_FIELD = re.compile(r'field "(\w+)"')
# How alike two names are of which one may be the other misspelt, 0 to 1.
_ALIKE = 0.8
_ANY = {"0.0.0.0", "::"}  # noqa: S104 (to tell it, not to bind it)
GROUPS = (Platform, Telemetry, Training, Routing, Engine, Experiments, Flows, Drift)


class Settings(Drift, Flows, Experiments, Engine, Routing, Training, Telemetry, Platform, BaseSettings):
    """One flat set of settings, shared by every part; each field's description is its documentation."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments go before the environment, and the environment before the file."""
        path = settings_file(os.environ)
        return (init_settings, env_settings, InitSettingsSource(settings_cls, _of_file(path)[0]))

    @property
    def mlflow(self) -> str:
        """Address of the MLflow tracking server."""
        return self.mlflow_url or f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def prefect(self) -> str:
        """Address of the Prefect API."""
        return self.prefect_url or f"http://{LOOPBACK}:{self.prefect_port}/api"

    @property
    def prefect_credential_file(self) -> Path:
        """Where the credential of the local Prefect server is kept."""
        return self.home / "prefect-credential"

    @property
    def envoy_admin_socket(self) -> Path:
        """Unix socket of the administration of the Envoy that `up` and the demo start."""
        return self.home / "envoy-admin.sock"

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
    def token_to_send(self) -> Token:
        """What callers of the engine send it."""
        return token_of(self.engine_token, self.engine_token_file)

    @property
    def engine_tls(self) -> ClientTLS:
        """What callers of the engine use where its URL begins with `https:`."""
        return ClientTLS(self.engine_ca, self.engine_client_cert, self.engine_client_key)

    @property
    def own_engine(self) -> str:
        """URL of this machine's engine; by TLS it is the one that is set, for a certificate is good for its names."""
        if self.engine_cert and self.engine_url:
            return self.engine_url.rstrip("/")
        return f"http{'s' if self.engine_cert else ''}://{self.reach_host}:{self.engine_port}"

    def accepted_tokens(self) -> AcceptedTokens:
        """What the engine takes from callers."""
        return AcceptedTokens(self.engine_token, self.engine_token_file, self.engine_roles_file)

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
    """The settings of this process; a variable or a key that looks like one of them and is none is warned of.

    Raises:
        FingerpostError: a value does not fit, or the file cannot be read; the message names it.
    """
    path = settings_file(os.environ)
    remember(path)
    meant_by = unknown_variables(os.environ) + [(f"{key} in {path}", _alike(key)) for key in _of_file(path)[1]]
    for name, meant in meant_by:
        hint = f": did you mean {meant}?" if meant else "; docs/settings.md lists all"
        logger.warning("%s is not a setting and has no effect%s", name, hint)
    try:
        return Settings()
    except SettingsError as error:
        # Of lists and maps; the value itself may be a secret.
        field = _FIELD.search(str(error))
        name = f"{_PREFIX}{field.group(1).upper()}" if field else "a setting"
        raise FingerpostError(f'settings refused: {name} is no JSON: write ["a", "b"] or {{"a": 1}}') from error
    except ValidationError as error:
        lines = [
            f"{_where(name, path)}={masked_setting(name, problem['input'])!r}: {problem['msg']}"
            for problem in error.errors()
            for name in ["_".join(map(str, problem["loc"]))]
        ]
        raise FingerpostError("settings refused: " + "; ".join(lines) + " (see docs/settings.md)") from error


def _of_file(path: Path | None) -> tuple[dict[str, Any], list[str]]:
    groups = [group.__name__.lower() for group in GROUPS]
    return read_settings(path, Settings.model_fields, groups) if path else ({}, [])


def _where(name: str, path: Path | None) -> str:
    """How a setting is called where its value comes from."""
    variable = _PREFIX + name.upper()
    set_there = any(each.upper() == variable for each in os.environ)
    return variable if set_there or path is None else f"{path}: {name}"


def _alike(key: str) -> str | None:
    """The setting that a key may mean, if any."""
    return next(iter(difflib.get_close_matches(key.lower(), Settings.model_fields, 1, _ALIKE)), None)


def unknown_variables(names: Iterable[str]) -> list[tuple[str, str | None]]:
    """The variables among some that begin as settings do and are none, each with the setting it may mean, if any."""
    known = [name.upper() for name in Settings.model_fields]
    found = []
    for name in sorted(names):
        prefix, ours = name[: len(_PREFIX)].upper(), name[len(_PREFIX) :].upper()
        if prefix == _PREFIX and ours not in known and name not in _OTHERS and not _LINK.search(name):
            meant = difflib.get_close_matches(ours, known, 1, _ALIKE)
            found.append((name, f"{_PREFIX}{meant[0]}" if meant else None))
    return found


def settings_tables() -> str:
    """The settings as Markdown, a section a group, each with a table: variable, default, meaning."""
    sections = []
    for group in GROUPS:
        rows = [f"## {group.__name__}", "", f"{group.__doc__}", "", "| variable | default | meaning |", "|---|---|---|"]
        for name, field in group.model_fields.items():
            default = "(see there)" if field.default_factory else field.default if str(field.default) else "(empty)"
            rows.append(f"| `FINGERPOST_{name.upper()}` | `{default}` | {field.description} |")
        sections.append("\n".join(rows) + "\n")
    return "\n".join(sections)
