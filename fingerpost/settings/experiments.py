"""Comparisons of versions on live traffic."""

from pydantic import BaseModel, Field


class Experiments(BaseModel):
    """Comparisons of versions on live traffic."""

    experiment_slot_s: float = Field(
        default=60.0, ge=1, le=86_400, description="Length of an experiment's slots: one arm routes at a time, seconds."
    )
    experiment_washout_s: float = Field(
        default=10.0, ge=0, description="What is left out at the beginning of each slot, seconds."
    )
    experiment_pairs: int = Field(
        default=200, ge=1, le=50_000, description="Pairs of slots after which an experiment ends at the latest."
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
