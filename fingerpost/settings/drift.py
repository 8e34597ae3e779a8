"""Detection of changes after which a new version is trained."""

from pydantic import BaseModel, Field


class Drift(BaseModel):
    """Detection of changes after which a new version is trained."""

    drift_distance: float = Field(
        default=0.4,
        gt=0,
        description="Report a column as drifted when the distance of its two distributions exceeds this.",
    )
    drift_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Report drift when at least this fraction of the columns has drifted (0..1).",
    )
    drift_cell_ratio: float = Field(
        default=1.5,
        gt=1,
        description="Report a cell (host and category) as changed when its throughput or errors change by this factor.",
    )
    drift_live_ratio: float = Field(
        default=1.5,
        gt=1,
        description="Count a window against the champion when its live error is this many times the error it was "
        "tested with, and beyond the interval of these.",
    )
    drift_cell_share: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Report drift when more than this fraction of the cells has changed (0..1).",
    )
    drift_window_s: float = Field(
        default=21_600.0, gt=0, description="Compare the latest span of this length with the training data, seconds."
    )
    drift_max_rows: int = Field(
        default=20_000,
        ge=200,
        description="Sample at most this many rows for a drift report, from each of the two spans.",
    )
    drift_min_rows: int = Field(
        default=200, ge=20, description="Report too little data for drift below this many rows."
    )
    drift_max_missing: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Fail the data test when the fraction of unmeasured values rises by more than this (0..1).",
    )
    drift_max_outside: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Fail the data test when more than this fraction of values is far outside the training range "
        "(0..1).",
    )
    skill_fall: float = Field(
        default=0.15, gt=0, description="Start a training when the champion's mean skill falls by more than this."
    )
    retrain_pause_s: float = Field(
        default=21_600.0,
        ge=0,
        description="Wait at least this long between two trainings that drift started, seconds; up to four times as "
        "long while new versions are not promoted.",
    )
