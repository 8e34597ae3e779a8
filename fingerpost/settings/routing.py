"""What a request costs, and how its host is picked."""

from typing import Literal

from pydantic import BaseModel, Field


class Routing(BaseModel):
    """What a request costs, and how its host is picked."""

    latency_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of predicted latency in the cost, beside (in-flight + 1) / throughput.",
    )
    exploration: float = Field(
        default=0.01, ge=0, le=1, description="Share of the requests that a picker sends at random, to keep measuring."
    )
    pickers: float = Field(
        default=1.0,
        ge=1,
        description="Proxies that share the fleet's traffic: each sees that part of what is in flight.",
    )
    scan_limit: int = Field(
        default=1024, ge=1, le=16384, description="Hosts up to which a picker looks at all; else at `sample_hosts`."
    )
    sample_hosts: int = Field(default=64, ge=1, le=16384, description="Hosts drawn for a request in larger fleets.")
    fallback_choices: int = Field(
        default=2, ge=0, le=16384, description="Hosts the least-request fallback draws; 0: it looks at all."
    )
    prediction_trust: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Exponent of predicted throughput over the category's median; 0: all hosts count as alike.",
    )
    panic_percent: float = Field(
        default=50.0,
        ge=0,
        le=100,
        description="Part of the hosts alive below which all are used by least request; see docs/routing.md.",
    )
    envoy_max_connections: int = Field(
        default=20_000, ge=1, description="Connections of clients that Envoy takes at once; further ones are closed."
    )
    arm_shares: dict[str, float] = Field(
        default={}, description='Policies as arms, as JSON: `{"fingerpost": 0.5, "least_request": 0.5}`.'
    )
    arm_by: Literal["request", "header", "time"] = Field(
        default="request",
        description="Arms by a random id of the request's own, by the header `arm_header`, or by time.",
    )
    arm_header: str = Field(default="", description="Header whose value decides the arm.")
    arm_seconds: int = Field(default=60, ge=1, description="Length of a span of time with one arm, seconds.")
    arm_salt: str = Field(default="", description="Another salt draws other arms for the same requests.")
