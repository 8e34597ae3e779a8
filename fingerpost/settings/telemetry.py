"""Windows, fingerprints, categories, and the bounds of agents and the lake."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from fingerpost.route_templates import normal_template


class Telemetry(BaseModel):
    """Windows, fingerprints, categories, and the bounds of agents and the lake."""

    window_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Aggregate requests into windows of this length, which is also the prediction horizon, seconds.",
    )
    halflife_s: float = Field(
        default=60.0, gt=0, description="Halve the weight of an observation after this time, seconds."
    )
    attribution_halflife_s: float = Field(
        default=600.0,
        gt=0,
        description="Halve the weight of a CPU sample after this time when a host's CPU is attributed to "
        "categories, seconds.",
    )
    max_categories: int = Field(
        default=256, ge=1, le=4096, description="Keep at most this many categories for a service, `other` included."
    )
    min_category_requests: int = Field(
        default=30, ge=1, description="Fold a category with fewer requests than this into a coarser one."
    )
    category_drift: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Adopt refitted categories once they would reassign at least this fraction of the requests (0..1).",
    )
    route_templates: list[str] = Field(
        default=[],
        description='Match these route templates before any are learned, as a JSON list: `["/users/{id}/orders"]`.',
    )
    region_rules: dict[str, str] = Field(
        default={}, description='Map address ranges to regions, as a JSON object: `{"10.0.0.0/8": "office"}`.'
    )
    region_detail: Literal["country", "continent"] = Field(
        default="country", description="Name regions by `country` or by `continent`."
    )
    geoip_database: Path | None = Field(
        default=None,
        description="Look up the country of client addresses in this GeoIP database (`.mmdb`); empty: no lookup.",
    )
    calendar: Path | None = Field(
        default=None, description="Read planned events from this file (TOML), in engine and training; empty: none."
    )
    holidays: str = Field(
        default="",
        pattern=r"^([A-Z]{2}(-[A-Z0-9]{1,8})?)?$",
        description="Tell models of the public holidays of this country, `DE`, or of a part of it, `DE-BY`; empty: of "
        "none.",
    )
    clock_skew_s: float = Field(
        default=5.0, ge=0, description="Refuse telemetry whose time lies further in the future than this, seconds."
    )
    max_age_days: float = Field(
        default=30.0, gt=0, description="Refuse telemetry older than this, and remove it from the lake, days."
    )
    max_quarantine_mb: float = Field(
        default=256.0,
        gt=0,
        description="Remove the oldest files of the quarantine when it exceeds this size, megabytes.",
    )
    agent_batch_s: float = Field(
        default=5.0, gt=0, description="Write a batch of records this often at an agent, seconds."
    )
    agent_sample_s: float = Field(default=1.0, gt=0, description="Sample the host this often at an agent, seconds.")
    agent_lines_per_s: float = Field(
        default=2500.0,
        gt=0,
        description="Parse at most about this many lines a second of a proxy's log at `agent --proxy`; of a busier "
        "log, parse a random sample of the lines, whose counts are scaled up.",
    )
    agent_decisions_per_s: float = Field(
        default=20.0,
        gt=0,
        description="Send about this many records a second of how requests were routed from an agent, and as many of "
        "explored requests.",
    )
    agent_inbox_mb: float = Field(
        default=1024.0,
        gt=0,
        description="Remove an agent's oldest batches when those not yet ingested exceed this size, megabytes.",
    )
    agent_address: str = Field(
        default="",
        description="Announce this address of the host to the engine, `10.0.0.7:8000`; `auto:8000`: the one by which "
        "the engine is reached; empty: none.",
    )
    agent_zone: str = Field(default="", description="Announce this zone of the host; empty: none.")
    agent_class: str = Field(
        default="",
        description="Announce this class of the host: hosts of a class are expected to be alike; empty: none.",
    )
    agent_drain_s: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="Drain a host that has announced its address when its agent is stopped, for this long; 0: do not, "
        "seconds.",
    )
    agent_spool_mb: float = Field(
        default=64.0,
        gt=0,
        description="Remove an agent's oldest window reports when those waiting for the engine exceed this size on "
        "disk, megabytes.",
    )

    otlp_token: str = Field(
        default="",
        description="Require this bearer token for spans sent to `agent --otlp`; required when it is bound "
        "beyond loopback.",
    )

    @field_validator("calendar")
    @classmethod
    def _calendar_is_absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("route_templates")
    @classmethod
    def _templates_are_paths(cls, values: list[str]) -> list[str]:
        return [normal_template(value) for value in values]
