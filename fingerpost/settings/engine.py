"""The prediction engine: its address, models, store and bounds."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, field_validator, model_validator

# What to do about an engine that others could reach and that knows no token.
NAME_TOKENS = "set FINGERPOST_ENGINE_TOKEN, FINGERPOST_ENGINE_TOKEN_FILE or FINGERPOST_ENGINE_ROLES_FILE"


class Engine(BaseModel):
    """The prediction engine: its address, models, store and bounds."""

    engine_url: str = Field(
        default="",
        description="Send window reports of agents to the engine at this URL; empty: write to the lake only.",
    )
    engine_token: str = Field(
        default="",
        description="Send this bearer token to the engine, and take it there from callers of any role; what changes "
        "anything then requires a token. Bound beyond loopback, the engine requires one for reading too, and does not "
        "start without.",
    )
    engine_token_file: Path | None = Field(
        default=None,
        description="Send the first token of this file to the engine, and take all of them there, for any role. It is "
        "read again when it changes.",
    )
    engine_roles_file: Path | None = Field(
        default=None,
        description="Take the tokens of this file at the engine, each for its role: lines of `agent TOKEN`, `proxy "
        "TOKEN` or `person TOKEN`. It is read again when it changes.",
    )
    engine_cert: Path | None = Field(
        default=None,
        description="Serve the engine by TLS, with this certificate (PEM, with those that lead to its authority); "
        "empty: without.",
    )
    engine_key: Path | None = Field(default=None, description="The key of the engine's certificate (PEM).")
    engine_client_ca: Path | None = Field(
        default=None,
        description="Take only callers of the engine with a certificate of these authorities (PEM), probes included; "
        "empty: tokens alone decide.",
    )
    engine_ca: Path | None = Field(
        default=None,
        description="Trust these authorities (PEM) for the certificate of an engine whose URL begins with `https:`; "
        "empty: the system's.",
    )
    engine_client_cert: Path | None = Field(
        default=None, description="Show this certificate (PEM) to the engine; empty: none."
    )
    engine_client_key: Path | None = Field(
        default=None, description="The key of the certificate that is shown to the engine (PEM)."
    )
    model_poll_s: float = Field(
        default=10.0, gt=0, description="Check the registry's aliases this often at the engine, seconds."
    )
    model_version: str = Field(
        default="", description="Serve this one model version; empty: follow the champion alias."
    )
    ready_without_model: bool = Field(
        default=False, description="Report the engine as ready before the registry has answered which model serves."
    )
    swap_max_ratio: float = Field(
        default=5.0,
        gt=1,
        description="Refuse a new champion whose predictions differ from the current ones by more than this factor.",
    )
    baseline_takes_over: bool = Field(
        default=True,
        description="Let the baseline serve in place of a champion while measured windows show that it predicts "
        "better; false: the champion serves whatever is measured.",
    )
    store_url: str = Field(
        default="",
        description="Store hosts, reports and states in this database (SQLAlchemy URL); empty: SQLite in `home`.",
    )
    engine_workers: int = Field(default=1, ge=1, le=64, description="Run this many engine processes on this machine.")
    engine_max_connections: int = Field(
        default=4096,
        ge=16,
        description="Accept at most this many connections in one engine process; `ulimit -n` may lower it.",
    )
    engine_head_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="Close a connection to the engine whose request headers take longer than this, seconds.",
    )
    engine_body_timeout_s: float = Field(
        default=15.0,
        gt=0,
        description="Close a connection to the engine whose request body takes longer than this, seconds.",
    )
    engine_stalled_s: float = Field(
        default=30.0,
        gt=0,
        description="Close a connection to the engine whose client reads nothing of a response for this long, seconds.",
    )
    fingerprint_ttl_s: float = Field(
        default=60.0,
        gt=0,
        description="Drop a host from the routing tables after this time without a report, seconds.",
    )
    host_ttl_s: float = Field(
        default=3600.0,
        gt=0,
        description="Remove an announced host from Envoy's endpoints after this time without its agent, seconds.",
    )
    table_ttl_s: float = Field(
        default=30.0, gt=0, description="Let pickers use a fetched routing table for this long, seconds."
    )
    table_refresh_s: float = Field(
        default=0.5, gt=0, description="Compute a service's routing table at most this often, seconds."
    )
    engine_inbox_mb: float = Field(
        default=4096.0,
        gt=0,
        description="Refuse batches of agents while more than this of their service waits for ingest, megabytes.",
    )
    slow_start_s: float = Field(
        default=60.0, ge=0, description="Raise a new host to its full weight over this time, seconds."
    )
    max_hosts: int = Field(default=5000, ge=1, description="Keep at most this many hosts of a service in the engine.")
    max_services: int = Field(default=100, ge=1, description="Keep at most this many services in the engine.")
    shadow_every_s: float = Field(
        default=30.0,
        gt=0,
        description="Log the predictions of champion and challenger for comparison this often, seconds.",
    )
    max_shadow_mb: float = Field(
        default=256.0,
        gt=0,
        description="Remove the oldest logged predictions of champion and challenger, and the oldest live errors, "
        "beyond this size each, megabytes.",
    )

    @field_validator(
        *("engine_token_file", "engine_roles_file", "engine_cert", "engine_key", "engine_client_ca"),
        *("engine_ca", "engine_client_cert", "engine_client_key"),
    )
    @classmethod
    def _file_is_absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @model_validator(mode="after")
    def _certificates_have_keys(self) -> Self:
        for cert, key in (("engine_cert", "engine_key"), ("engine_client_cert", "engine_client_key")):
            if (getattr(self, cert) is None) != (getattr(self, key) is None):
                raise ValueError(f"FINGERPOST_{cert.upper()} and FINGERPOST_{key.upper()} must both be set, or neither")
        if self.engine_client_ca and not self.engine_cert:
            raise ValueError("FINGERPOST_ENGINE_CLIENT_CA needs FINGERPOST_ENGINE_CERT: only TLS knows certificates")
        return self

    @field_validator("engine_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value
