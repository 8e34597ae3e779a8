"""Windows, fingerprints, categories, and what agents and the lake keep."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from fingerpost.routes import normal_template


class Telemetry(BaseModel):
    """Windows, fingerprints, categories, and what agents and the lake keep."""

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
    agent_inbox_mb: float = Field(
        default=1024.0, gt=0, description="Batches of an agent that nobody has fetched yet; the oldest go first."
    )
    agent_spool_mb: float = Field(
        default=64.0, gt=0, description="Fingerprints that wait for the engine on an agent's disk; the oldest go first."
    )

    otlp_token: str = Field(
        default="",
        description="Bearer token that `agent --otlp` asks for; needed where it is bound beyond loopback.",
    )

    @field_validator("route_templates")
    @classmethod
    def _templates_are_paths(cls, values: list[str]) -> list[str]:
        return [normal_template(value) for value in values]
