"""Cost of a request on a host, and choice of the host."""

from typing import Literal

from pydantic import BaseModel, Field


class Routing(BaseModel):
    """Cost of a request on a host, and choice of the host."""

    latency_weight: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Weigh a request's own predicted latency, without waiting, by this in the cost, beside "
        "(in-flight + 1) / throughput.",
    )
    exploration: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Send this fraction of the requests to other hosts than the best, for measurement (0..1).",
    )
    exploration_within: float = Field(
        default=1.5,
        ge=1,
        le=1e6,
        description="Explore hosts whose cost when idle is at most this multiple of the least, and unknown ones.",
    )
    scan_limit: int = Field(
        default=1024,
        ge=1,
        le=16384,
        description="Compare all hosts in fleets of up to this size; draw `sample_hosts` hosts in larger ones.",
    )
    sample_hosts: int = Field(
        default=64,
        ge=1,
        le=16384,
        description="Draw this many hosts for each request in fleets larger than `scan_limit`.",
    )
    fallback_choices: int = Field(
        default=2,
        ge=0,
        le=16384,
        description="Draw this many hosts in the least-request fallback; 0: compare all hosts.",
    )
    prediction_trust: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Raise (predicted throughput / the category's median) to at most this exponent; 0: ignore "
        "predictions (0..1).",
    )
    panic_percent: float = Field(
        default=50.0,
        ge=0,
        le=100,
        description="Send to all hosts by least request when a smaller percentage than this is healthy; see "
        "docs/routing.md.",
    )
    envoy_max_connections: int = Field(
        default=20_000, ge=1, description="Close further client connections to Envoy beyond this number."
    )
    arm_shares: dict[str, float] = Field(
        default={},
        description='Split traffic between policies by these fractions, as a JSON object: `{"fingerpost": 0.5, '
        '"least_request": 0.5}`.',
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        le=0.05,
        description="Always send this share of the requests by least request, to know what prediction is worth "
        "(0..0.05, such as 0.01); without effect where arm_shares is set.",
    )
    arm_by: Literal["request", "header", "time"] = Field(
        default="request",
        description="Assign a request to an arm by a random id (`request`), by the header `arm_header` "
        "(`header`) or by its time (`time`).",
    )
    arm_header: str = Field(default="", description="Assign arms by the value of this header, with `arm_by=header`.")
    arm_seconds: int = Field(default=60, ge=1, description="Keep one arm for this long, with `arm_by=time`, seconds.")
    arm_salt: str = Field(default="", description="Change this text to assign the same requests to arms anew.")
