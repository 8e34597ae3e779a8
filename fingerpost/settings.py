"""All settings, read from `FINGERPOST_*` in the environment. `docs/settings.md` is this file as a table."""

import ipaddress
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fingerpost.errors import FingerpostError
from fingerpost.names import check_name
from fingerpost.routes import normal_template

LOOPBACK = "127.0.0.1"
_ANY = {"0.0.0.0", "::"}  # noqa: S104 (to tell it, not to bind it)


class Settings(BaseSettings):
    """One flat set of settings, shared by every part; each field's description is its documentation."""

    model_config = SettingsConfigDict(env_prefix="FINGERPOST_", extra="ignore")

    service: str = Field(default="shop", description="The service that is measured, predicted and routed.")
    home: Path = Field(default=Path(".fingerpost"), description="Directory of all local state: lake, databases, logs.")
    bind_host: str = Field(
        default="127.0.0.1", description="Address that Envoy and the engine listen on; all else stays on 127.0.0.1."
    )
    envoy_port: int = Field(default=8080, ge=1, le=65535, description="Envoy's port for clients.")
    envoy_admin_port: int = Field(default=9901, ge=1, le=65535, description="Envoy's admin port.")
    engine_port: int = Field(default=3000, ge=1, le=65535, description="The prediction engine's port.")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="The MLflow server's port.")
    prefect_port: int = Field(default=4200, ge=1, le=65535, description="The Prefect server's port.")
    host_port_base: int = Field(
        default=9100, ge=1, le=65000, description="Port of the first demo host; the others follow."
    )
    mlflow_url: str = Field(default="", description="MLflow tracking server; empty: the local one on `mlflow_port`.")
    prefect_url: str = Field(default="", description="Prefect API; empty: the local one on `prefect_port`.")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: str = Field(default="json", description="`json` (one object a line) or `console`.")
    window_s: float = Field(
        default=10.0, gt=0, le=3600, description="Length of a window, and the prediction horizon, seconds."
    )
    halflife_s: float = Field(
        default=60.0, gt=0, description="Time after which an old observation weighs half, seconds."
    )
    attribution_halflife_s: float = Field(
        default=600.0, gt=0, description="The same for the split of a host's CPU over categories, seconds."
    )
    max_categories: int = Field(
        default=256, ge=1, le=4096, description="Categories kept for one service, `other` included."
    )
    min_category_requests: int = Field(
        default=30, ge=1, description="Requests below which a category is folded into a coarser one."
    )
    category_drift: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Share of the requests that new categories would move, from which on they are adopted.",
    )
    route_templates: list[str] = Field(
        default=[], description='Route templates known beforehand, as JSON: `["/users/{id}/orders"]`.'
    )
    region_rules: dict[str, str] = Field(
        default={}, description='Regions of address ranges, as JSON: `{"10.0.0.0/8": "office"}`.'
    )
    region_detail: Literal["country", "continent"] = Field(
        default="country", description="How coarse regions are: `country` or `continent`."
    )
    geoip_database: Path | None = Field(
        default=None, description="A GeoIP database (`.mmdb`) that tells the country of client addresses."
    )
    clock_skew_s: float = Field(
        default=5.0, ge=0, description="How far in the future a time may lie before it is refused."
    )
    max_age_days: float = Field(
        default=30.0, gt=0, description="Telemetry older than this is refused, and removed from the lake."
    )
    max_quarantine_mb: float = Field(
        default=256.0, gt=0, description="Size of the quarantine; the oldest files go first."
    )
    agent_batch_s: float = Field(default=5.0, gt=0, description="Seconds between an agent's batches.")
    agent_sample_s: float = Field(default=1.0, gt=0, description="Seconds between an agent's host samples.")
    agent_spool_mb: float = Field(
        default=64.0, gt=0, description="Fingerprints that wait for the engine on an agent's disk; the oldest go first."
    )
    engine_url: str = Field(default="", description="Where agents send fingerprints; empty: they only go to the lake.")
    engine_token: str = Field(
        default="", description="Bearer token that the engine asks for; needed where it is bound beyond loopback."
    )
    tuning_trials: int = Field(default=20, ge=1, description="Most Optuna trials in one tuning.")
    tuning_timeout_s: float = Field(default=600.0, gt=0, description="Most seconds spent in one tuning.")
    tuning_storage: str = Field(
        default="", description="Database URL of Optuna's trials; empty: SQLite, `tuning.db` in `home`."
    )
    tuning_batch: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Trials that are drawn together and may run side by side; the result depends on it.",
    )
    dask_address: str = Field(
        default="", description="Dask scheduler (`tcp://...`) whose workers do features, tuning, training; empty: none."
    )
    dask_workers: int = Field(
        default=0, ge=0, le=1024, description="The same by a Dask cluster of processes on this machine; 0: none."
    )
    test_share: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the windows, the latest, kept for evaluation."
    )
    max_training_rows: int = Field(default=1_000_000, ge=100, description="Training rows kept, the latest first.")
    latency_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of predicted latency in the cost, beside (in-flight + 1) / throughput.",
    )
    exploration: float = Field(
        default=0.01, ge=0, le=1, description="Share of the requests that a picker sends at random, to keep measuring."
    )
    pickers: float = Field(
        default=1.0,
        ge=1,
        description="Proxies that share the fleet's traffic: each sees that part of what is in flight.",
    )
    scan_limit: int = Field(
        default=1024, ge=1, le=16384, description="Hosts up to which a picker looks at all; else at `sample_hosts`."
    )
    sample_hosts: int = Field(default=64, ge=1, le=16384, description="Hosts drawn for a request in larger fleets.")
    fallback_choices: int = Field(
        default=2, ge=0, le=16384, description="Hosts the least-request fallback draws; 0: it looks at all."
    )
    prediction_trust: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Exponent of predicted throughput over the category's median; 0: all hosts count as alike.",
    )
    panic_percent: float = Field(
        default=50.0,
        ge=0,
        le=100,
        description="Part of the hosts alive below which all are used by least request; see docs/routing.md.",
    )
    arm_shares: dict[str, float] = Field(
        default={}, description='Policies as arms, as JSON: `{"fingerpost": 0.5, "least_request": 0.5}`.'
    )
    arm_by: Literal["request", "header", "time"] = Field(
        default="request", description="Arms by request id, by the header `arm_header`, or by time."
    )
    arm_header: str = Field(default="", description="Header whose value decides the arm.")
    arm_seconds: int = Field(default=60, ge=1, description="Length of a span of time with one arm, seconds.")
    arm_salt: str = Field(default="", description="Another salt draws other arms for the same requests.")
    model_poll_s: float = Field(
        default=10.0, gt=0, description="Seconds between the engine's looks at the champion alias."
    )
    model_version: str = Field(
        default="", description="The one model version the engine serves; empty: it follows the champion alias."
    )
    ready_without_model: bool = Field(
        default=False, description="Whether the engine calls itself ready with a store alone, before the first model."
    )
    swap_max_ratio: float = Field(
        default=5.0, gt=1, description="A new champion whose predictions are off the old ones by more is refused."
    )
    store_url: str = Field(
        default="", description="Database of the fingerprints (SQLAlchemy URL); empty: SQLite in `home`."
    )
    engine_workers: int = Field(default=1, ge=1, le=64, description="Processes of the engine on this machine.")
    fingerprint_ttl_s: float = Field(
        default=60.0, gt=0, description="Silence after which a host leaves the routing tables, seconds."
    )
    fingerprint_max_age_s: float = Field(
        default=300.0, gt=0, description="A fingerprint older than this at its arrival is refused, seconds."
    )
    table_ttl_s: float = Field(default=30.0, gt=0, description="How long a fetched routing table may be used, seconds.")
    table_refresh_s: float = Field(
        default=0.5, gt=0, description="Least time between two routing tables of a service, seconds."
    )
    slow_start_s: float = Field(
        default=60.0, ge=0, description="Time over which a new host is ramped up to its full weight, seconds."
    )
    max_hosts: int = Field(default=5000, ge=1, description="Hosts of one service the engine keeps.")
    max_services: int = Field(default=100, ge=1, description="Services the engine keeps.")
    shadow_every_s: float = Field(
        default=30.0, gt=0, description="Seconds between logs of what champion and challenger predict."
    )
    max_shadow_mb: float = Field(default=256.0, gt=0, description="Size of those logs; the oldest files go first.")
    experiment_slot_s: float = Field(
        default=60.0, ge=1, le=86_400, description="Length of an experiment's slots: one arm routes at a time, seconds."
    )
    experiment_washout_s: float = Field(
        default=10.0, ge=0, description="What is left out at the beginning of each slot, seconds."
    )
    experiment_pairs: int = Field(
        default=200, ge=1, le=50_000, description="Pairs of slots after which an experiment ends at the latest."
    )
    challenger_min_skill: float = Field(
        default=0.0, le=1, description="Mean skill above which a new version becomes challenger."
    )
    experiment_auto: bool = Field(
        default=True,
        description="Whether a challenger that is no worse in the shadow gets an experiment by itself.",
    )
    experiment_min_pairs: int = Field(
        default=10, ge=1, description="Pairs before which no challenger is called better or worse."
    )
    experiment_alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="Most probability that an experiment finds a difference there is not."
    )
    max_error_increase: float = Field(
        default=0.01, gt=0, le=1, description="Rise of the error rate that ends an experiment once it is certain."
    )
    max_p99_ratio: float = Field(
        default=1.5, gt=1, description="The challenger's p99 over the champion's that does the same."
    )
    ingest_every_s: float = Field(default=60.0, gt=0, description="Schedule of the ingest flow, seconds.")
    features_every_s: float = Field(default=300.0, gt=0, description="Schedule of the features flow, seconds.")
    train_cron: str = Field(default="0 3 * * *", description="Schedule of the training flow, cron, UTC.")
    drift_cron: str = Field(default="10 * * * *", description="Schedule of the drift flow, cron, UTC.")
    compare_every_s: float = Field(
        default=60.0, gt=0, description="Schedule of shadow comparison and experiments, seconds."
    )
    promote_every_s: float = Field(
        default=300.0, gt=0, description="Schedule of the promotion flow, which also watches, seconds."
    )
    retention_cron: str = Field(
        default="30 2 * * *", description="Schedule of the retention flow, which also compacts, cron, UTC."
    )
    alert_url: str = Field(
        default="", description="Webhook that gets alerts as JSON: drift, promotion, rollback, refusal, failed flows."
    )
    promotion_policy: Path | None = Field(
        default=None, description="TOML file that says when a challenger is promoted; empty: the shipped policy."
    )
    watch_s: float = Field(
        default=3600.0, ge=0, description="How long a promotion is watched, to be rolled back, seconds; 0: not."
    )
    watch_slot_s: float = Field(
        default=60.0, ge=1, description="Requests are compared in slots of this length in a watch, seconds."
    )
    watch_p99_ratio: float = Field(
        default=1.25, gt=1, description="Rise of the p99 since a promotion beyond which it is rolled back."
    )
    watch_error_rise: float = Field(
        default=0.01, gt=0, lt=1, description="Rise of the share of failed requests, the same."
    )
    drift_distance: float = Field(
        default=0.4, gt=0, description="Distance of two distributions beyond which a column has drifted."
    )
    drift_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of drifted columns from which on it is called drift."
    )
    drift_cell_ratio: float = Field(
        default=1.5, gt=1, description="Change of a host's throughput or errors in a category that counts as drift."
    )
    drift_cell_share: float = Field(
        default=0.01, ge=0, lt=1, description="Share of cells that may change so much before it is called drift."
    )
    drift_window_s: float = Field(
        default=21_600.0, gt=0, description="The latest span of time that is held against the training's, seconds."
    )
    drift_max_rows: int = Field(
        default=20_000, ge=200, description="Rows that a drift report looks at, drawn from all, each side."
    )
    drift_min_rows: int = Field(default=200, ge=20, description="Rows below which drift cannot be told.")
    drift_max_missing: float = Field(
        default=0.1, ge=0, le=1, description="Rise of the share of unmeasured values that a data test lets pass."
    )
    drift_max_outside: float = Field(
        default=0.05, ge=0, le=1, description="Share of values far outside the reference's range that passes."
    )
    skill_fall: float = Field(
        default=0.15, gt=0, description="Fall of the champion's mean skill that asks for a new training."
    )
    retrain_pause_s: float = Field(
        default=21_600.0, ge=0, description="Least time between two trainings because of drift, seconds."
    )

    @field_validator("service")
    @classmethod
    def _service_is_a_name(cls, value: str) -> str:
        return check_name(value, "service")

    @field_validator("route_templates")
    @classmethod
    def _templates_are_paths(cls, values: list[str]) -> list[str]:
        return [normal_template(value) for value in values]

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("promotion_policy")
    @classmethod
    def _policy_is_absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("alert_url")
    @classmethod
    def _alerts_go_to_a_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("dask_address")
    @classmethod
    def _dask_is_at_an_address(cls, value: str) -> str:
        if value and not value.startswith(("tcp://", "tls://")):
            raise ValueError("must begin with tcp:// or tls://")
        return value

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


def settings_table() -> str:
    """The settings as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default if str(field.default) else "(empty)"
        rows.append(f"| `FINGERPOST_{name.upper()}` | `{default}` | {field.description} |")
    return "\n".join(rows) + "\n"
