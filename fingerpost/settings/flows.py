"""Schedules of the flows, alerts, promotion and the watch after a promotion."""

from pathlib import Path

from pydantic import BaseModel, Field, field_validator


class Flows(BaseModel):
    """Schedules of the flows, alerts, promotion and the watch after a promotion."""

    ingest_every_s: float = Field(default=60.0, gt=0, description="Run the ingest flow this often, seconds.")
    features_every_s: float = Field(default=300.0, gt=0, description="Run the features flow this often, seconds.")
    train_cron: str = Field(default="0 3 * * *", description="Run the training flow on this schedule (cron, UTC).")
    first_training_rows: int = Field(
        default=2000,
        ge=0,
        description="Train a first model as soon as there are this many training rows, and again each time they have "
        "doubled, until one serves; 0: by the schedule alone.",
    )
    drift_cron: str = Field(default="10 * * * *", description="Run the drift flow on this schedule (cron, UTC).")
    compare_every_s: float = Field(
        default=60.0, gt=0, description="Run the shadow and experiment flows this often, seconds."
    )
    promote_every_s: float = Field(
        default=300.0, gt=0, description="Run the promotion flow, which also watches promotions, this often, seconds."
    )
    retention_cron: str = Field(
        default="30 2 * * *", description="Run the retention flow, which also compacts, on this schedule (cron, UTC)."
    )
    runs_at_once: int = Field(
        default=16, ge=1, description="Run at most this many flows at once that take seconds; more wait."
    )
    long_runs_at_once: int = Field(
        default=2,
        ge=1,
        description="Run at most this many flows at once that take minutes (train, drift, retention, pipeline).",
    )
    alert_url: str = Field(
        default="",
        description="Post alerts as JSON to this webhook: drift, promotion, rollback, refusal, failed flows; "
        "empty: no alerts.",
    )
    promotion_policy: Path | None = Field(
        default=None, description="Promote by the policy in this TOML file; empty: the shipped policy."
    )
    approval_token: str = Field(
        default="",
        description="Sign and check approvals of versions (`fingerpost approve`) with this secret; only approvers and "
        "the flows have it.",
    )
    watch_s: float = Field(
        default=3600.0,
        ge=0,
        description="Watch a promotion for this long and roll it back if it harms requests, seconds; 0: no watch.",
    )
    watch_slot_s: float = Field(
        default=3.0,
        ge=1,
        description="Let the promoted version and the champion before it route by turns in time slices of at least "
        "this length, seconds; longer ones where few requests come.",
    )
    watch_p99_ratio: float = Field(
        default=1.25, gt=1, description="Roll back when p99 is certainly higher, by more than this factor."
    )
    watch_latency_ratio: float = Field(
        default=1.1,
        gt=1,
        description="Roll back when the geometric mean latency is certainly higher, by more than this factor.",
    )
    watch_error_rise: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Roll back when the error rate is certainly higher, by more than this (0..1).",
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
