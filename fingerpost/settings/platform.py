"""The service, the state directory, addresses, ports and logs."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, field_validator

from fingerpost.names import check_name

# Servers and databases that MLflow keeps registered models in.
_REGISTRIES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


class Platform(BaseModel):
    """The service, the state directory, addresses, ports and logs."""

    service: str = Field(default="shop", description="Measure, predict and route this service.")
    services: list[str] = Field(
        default=[],
        max_length=200,
        description="Run the flows of these services too, as a JSON list; those that have data in the lake are found.",
    )
    home: Path = Field(
        default=Path(".fingerpost"), description="Keep all local state in this directory: lake, databases, logs."
    )
    lake: Path = Field(
        default_factory=lambda data: data["home"] / "lake",
        description="Keep telemetry in this folder, which engines and the platform must both see; default: `lake` in "
        "`home`.",
    )
    lake_url: str = Field(
        default="",
        description="Keep the lake in this object storage, `s3://BUCKET/PREFIX`; `lake` is then a working copy. "
        "Empty: the folder is the lake.",
    )
    bind_host: str = Field(
        default="127.0.0.1",
        description="Bind Envoy, the engine and the agent's HTTP port to this address; every other server stays "
        "on 127.0.0.1.",
    )
    envoy_port: int = Field(default=8080, ge=1, le=65535, description="Take requests of clients on this port of Envoy.")
    envoy_admin_port: int = Field(
        default=9901,
        ge=1,
        le=65535,
        description="Serve Envoy's metrics and readiness on this port of 127.0.0.1; its full administration is a "
        "socket in `home`.",
    )
    engine_port: int = Field(default=3000, ge=1, le=65535, description="Run the prediction engine on this port.")
    page_port: int = Field(
        default=3001,
        ge=1,
        le=65535,
        description="Serve `fingerpost page`, and the demo's page, on this port of 127.0.0.1.",
    )
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="Run the local MLflow server on this port.")
    prefect_port: int = Field(default=4200, ge=1, le=65535, description="Run the local Prefect server on this port.")
    host_port_base: int = Field(
        default=9100,
        ge=1,
        le=65000,
        description="Give the first demo host this port; the other hosts take the ports after it.",
    )
    mlflow_url: str = Field(
        default="", description="Use this MLflow tracking server; empty: the local one on `mlflow_port`."
    )
    prefect_url: str = Field(default="", description="Use this Prefect API; empty: the local one on `prefect_port`.")
    access_log_mb: float = Field(
        default=256.0,
        gt=0,
        description="Rotate the access log of `fingerpost up` when it reaches this size, megabytes.",
    )
    part_log_mb: float = Field(
        default=16.0,
        gt=0,
        description="Rotate the log of a process of `fingerpost up` when it reaches this size, megabytes.",
    )
    log_files: int = Field(
        default=4, ge=1, le=1000, description="Keep this many files of each rotated log, the current one included."
    )
    disk_low_mb: float = Field(
        default=1024.0, ge=0, description="Warn when the disk of `home` has less free space than this, megabytes."
    )
    prefect_auth: str = Field(
        default="",
        description="Authenticate to Prefect with this credential, `user:password`; empty: a random one for the "
        "local server, kept in `home`.",
    )
    allowed_hosts: list[str] = Field(
        default=[],
        description="Accept these further names in the `Host` header, as a JSON list; `*` matches any characters.",
    )
    log_level: str = Field(default="INFO", description="Log from this level on: DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(default="json", description="Write logs as `json` (one object a line) or `console`.")

    @field_validator("service")
    @classmethod
    def _service_is_a_name(cls, value: str) -> str:
        return check_name(value, "service")

    @field_validator("mlflow_url")
    @classmethod
    def _registry_is_known(cls, value: str) -> str:
        scheme, separator, _ = value.partition("://")
        # A database's driver may follow a plus sign.
        if value and not (separator and scheme.partition("+")[0] in _REGISTRIES):
            raise ValueError(f"must be a URL that begins with one of {', '.join(_REGISTRIES)}")
        return value

    @field_validator("prefect_auth")
    @classmethod
    def _credential_has_two_parts(cls, value: str) -> str:
        user, _, password = value.partition(":")
        if value and not (user and password):
            raise ValueError("must be `user:password`")
        return value

    @field_validator("lake", mode="before")
    @classmethod
    def _lake_is_a_folder(cls, value: Any) -> Any:
        if "://" in str(value):
            raise ValueError("must be a folder; object storage goes into FINGERPOST_LAKE_URL")
        return value

    @field_validator("lake_url")
    @classmethod
    def _storage_is_known(cls, value: str) -> str:
        bucket = value.removeprefix("s3://").partition("/")[0]
        if value and (not value.startswith("s3://") or not bucket):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX; a folder goes into FINGERPOST_LAKE")
        return value

    @field_validator("home", "lake")
    @classmethod
    def _home_is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("log_level")
    @classmethod
    def _level_exists(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("log_format")
    @classmethod
    def _format_exists(cls, value: str) -> str:
        if value not in {"json", "console"}:
            raise ValueError("must be json or console")
        return value
