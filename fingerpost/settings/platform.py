"""Where everything is: the service, the folder, addresses, logs."""

from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from fingerpost.names import check_name

# Servers and databases that MLflow keeps registered models in.
_REGISTRIES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


class Platform(BaseModel):
    """Where everything is: the service, the folder, addresses, logs."""

    service: str = Field(default="shop", description="The service that is measured, predicted and routed.")
    home: Path = Field(default=Path(".fingerpost"), description="Directory of all local state: lake, databases, logs.")
    bind_host: str = Field(
        default="127.0.0.1", description="Address that Envoy and the engine listen on; all else stays on 127.0.0.1."
    )
    envoy_port: int = Field(default=8080, ge=1, le=65535, description="Envoy's port for clients.")
    envoy_admin_port: int = Field(
        default=9901,
        ge=1,
        le=65535,
        description="Port of Envoy's metrics and readiness, on 127.0.0.1; all of its admin is on a socket in `home`.",
    )
    engine_port: int = Field(default=3000, ge=1, le=65535, description="The prediction engine's port.")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="The MLflow server's port.")
    prefect_port: int = Field(default=4200, ge=1, le=65535, description="The Prefect server's port.")
    host_port_base: int = Field(
        default=9100, ge=1, le=65000, description="Port of the first demo host; the others follow."
    )
    mlflow_url: str = Field(default="", description="MLflow tracking server; empty: the local one on `mlflow_port`.")
    prefect_url: str = Field(default="", description="Prefect API; empty: the local one on `prefect_port`.")
    access_log_mb: float = Field(
        default=256.0, gt=0, description="Size from which on `fingerpost up` begins a new access log, megabytes."
    )
    part_log_mb: float = Field(default=16.0, gt=0, description="The same for the logs of its parts, megabytes.")
    log_files: int = Field(
        default=4, ge=1, le=1000, description="How many of each of these logs are kept, the current one among them."
    )
    disk_low_mb: float = Field(
        default=1024.0, ge=0, description="Room on the disk of `home` below which a warning is given, megabytes."
    )
    prefect_auth: str = Field(
        default="",
        description="Credential of Prefect, `user:password`; empty: for the local one a random one, kept in `home`.",
    )
    allowed_hosts: list[str] = Field(
        default=[],
        description="Further names by which servers of ours may be called, as JSON; `*` stands for any letters.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(default="json", description="`json` (one object a line) or `console`.")

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

    @field_validator("home")
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
