"""Schedules, alerts, promotion and the watch after it."""

from pathlib import Path

from pydantic import BaseModel, Field, field_validator


class Flows(BaseModel):
    """Schedules, alerts, promotion and the watch after it."""

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
