"""Tuning and training."""

from pydantic import BaseModel, Field, field_validator


class Training(BaseModel):
    """Tuning and training."""

    tuning_trials: int = Field(
        default=20, ge=1, description="Finished Optuna trials of one tuning, over all runs on the same rows."
    )
    tuning_timeout_s: float = Field(default=600.0, gt=0, description="Most seconds spent in one run of a tuning.")
    tuning_storage: str = Field(
        default="", description="Database URL of Optuna's trials; empty: SQLite, `tuning.db` in `home`."
    )
    tuning_jobs: int = Field(
        default=4, ge=1, le=256, description="Trials that run side by side, on as many cores or workers as there are."
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
    challenger_min_skill: float = Field(
        default=0.0, le=1, description="Mean skill above which a new version becomes challenger."
    )
    baseline_margin: float = Field(
        default=0.01,
        ge=-1,
        lt=1,
        description="A first model serves if its replayed choices cost at most this share more than the baseline's.",
    )

    @field_validator("dask_address")
    @classmethod
    def _dask_is_at_an_address(cls, value: str) -> str:
        if value and not value.startswith(("tcp://", "tls://")):
            raise ValueError("must begin with tcp:// or tls://")
        return value
