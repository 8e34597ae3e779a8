"""Comparisons of versions on live traffic."""

from pydantic import BaseModel, Field


class Experiments(BaseModel):
    """Comparisons of versions on live traffic."""

    shadow_block_s: float = Field(
        default=600.0,
        ge=1,
        description="Compare predictions in the shadow by blocks of this length, seconds; longer than errors depend on "
        "each other.",
    )
    experiment_slot_s: float = Field(
        default=30.0,
        ge=1,
        le=86_400,
        description="Route by one arm at a time in an experiment, in time slices of this length, seconds.",
    )
    experiment_washout_s: float = Field(
        default=5.0,
        ge=0,
        description="Exclude requests of this long at the beginning of each time slice of an experiment, seconds; "
        "doubled by itself where one arm is found to reach into the next time slice.",
    )
    experiment_pairs: int = Field(
        default=400, ge=1, le=50_000, description="End an experiment after at most this many pairs of time slices."
    )
    experiment_auto: bool = Field(
        default=True,
        description="Start an experiment automatically for a challenger that is no worse in the shadow.",
    )
    experiment_unattended_s: float = Field(
        default=900.0,
        ge=10,
        description="Give all requests back to the champion when the experiment flow has not looked at an "
        "experiment for this long, seconds.",
    )
    experiment_min_pairs: int = Field(
        default=10, ge=1, description="Reach no verdict of better or worse before this many pairs of time slices."
    )
    experiment_alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="Limit the false-positive rate (alpha) of an experiment to this."
    )
    experiment_margin: float = Field(
        default=0.03,
        ge=0,
        lt=0.5,
        description="Call a challenger not worse once its latency is certainly below the champion's plus this share; "
        "0: only a lower latency counts.",
    )
    max_error_increase: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Stop an experiment once the challenger's error rate certainly exceeds the champion's by "
        "this (0..1).",
    )
    max_p99_ratio: float = Field(
        default=1.5, gt=1, description="Stop an experiment once challenger p99 / champion p99 certainly exceeds this."
    )
    max_mean_ratio: float = Field(
        default=1.2,
        gt=1,
        description="Stop an experiment once challenger / champion of the raw mean latency certainly exceeds this.",
    )
    max_category_ratio: float = Field(
        default=1.5,
        gt=1,
        description="Stop an experiment once the latency of any one category certainly exceeds this many times the "
        "champion's.",
    )
    min_throughput_ratio: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description="Stop an experiment once the requests a second certainly fall below this share of the champion's.",
    )
