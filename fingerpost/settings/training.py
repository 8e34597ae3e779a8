"""Tuning and training."""

from pydantic import BaseModel, Field, field_validator


class Training(BaseModel):
    """Tuning and training."""

    tuning_trials: int = Field(
        default=20, ge=1, description="Finish this many Optuna trials in a tuning, over all runs on the same rows."
    )
    tuning_timeout_s: float = Field(
        default=600.0, gt=0, description="Stop one run of a tuning after this time, seconds."
    )
    tuning_storage: str = Field(
        default="", description="Store Optuna's trials in this database (URL); empty: SQLite, `tuning.db` in `home`."
    )
    tuning_jobs: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Run this many trials in parallel, on as many cores or workers as there are.",
    )
    dask_address: str = Field(
        default="",
        description="Run features, tuning and training on the workers of this Dask scheduler (`tcp://...`); "
        "empty: in this process.",
    )
    dask_workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Start a local Dask cluster of this many processes for features, tuning and training; 0: no "
        "cluster.",
    )
    test_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Hold out this fraction of the windows, the latest, for evaluation (0..1).",
    )
    max_training_rows: int = Field(
        default=300_000,
        ge=100,
        description="Train on about this many rows: up to half are of the latest hours, the rest are drawn at random "
        "from the whole history.",
    )
    training_recent_hours: float = Field(
        default=6.0,
        gt=0,
        description="Keep all training rows of the latest hours, as far as `max_training_rows` allows, hours.",
    )
    max_tuning_rows: int = Field(
        default=50_000, ge=100, description="Tune on about this many rows, drawn at random from those trained on."
    )
    challenger_min_skill: float = Field(
        default=0.0, le=1, description="Make a new version the challenger when its mean skill is above this."
    )
    baseline_margin: float = Field(
        default=0.0,
        ge=-1,
        lt=1,
        description="Serve a model when its replayed choices cost less than the baseline's and this fraction of those "
        "by chance, at 95% confidence.",
    )

    @field_validator("dask_address")
    @classmethod
    def _dask_is_at_an_address(cls, value: str) -> str:
        if value and not value.startswith(("tcp://", "tls://")):
            raise ValueError("must begin with tcp:// or tls://")
        return value
