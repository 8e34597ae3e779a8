"""When the world has changed so much that a new version is due."""

from pydantic import BaseModel, Field


class Drift(BaseModel):
    """When the world has changed so much that a new version is due."""

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
