"""The prediction engine, and how it is reached."""

from pydantic import BaseModel, Field


class Engine(BaseModel):
    """The prediction engine, and how it is reached."""

    engine_url: str = Field(default="", description="Where agents send fingerprints; empty: they only go to the lake.")
    engine_token: str = Field(
        default="", description="Bearer token that the engine asks for; needed where it is bound beyond loopback."
    )
    model_poll_s: float = Field(
        default=10.0, gt=0, description="Seconds between the engine's looks at the champion alias."
    )
    model_version: str = Field(
        default="", description="The one model version the engine serves; empty: it follows the champion alias."
    )
    ready_without_model: bool = Field(
        default=False, description="Whether the engine is ready before the registry has told which model serves."
    )
    swap_max_ratio: float = Field(
        default=5.0, gt=1, description="A new champion whose predictions are off the old ones by more is refused."
    )
    store_url: str = Field(
        default="", description="Database of the fingerprints (SQLAlchemy URL); empty: SQLite in `home`."
    )
    engine_workers: int = Field(default=1, ge=1, le=64, description="Processes of the engine on this machine.")
    engine_max_connections: int = Field(
        default=4096, ge=16, description="Connections of one engine process; `ulimit -n` may make them fewer."
    )
    engine_head_timeout_s: float = Field(
        default=10.0, gt=0, description="Time in which a client has to send a request's headers, seconds."
    )
    engine_body_timeout_s: float = Field(
        default=15.0, gt=0, description="Time in which it has to send the body, seconds."
    )
    engine_stalled_s: float = Field(
        default=30.0, gt=0, description="Time in which it has to take some of an answer that waits, seconds."
    )
    fingerprint_ttl_s: float = Field(
        default=60.0, gt=0, description="Silence after which a host leaves the routing tables, seconds."
    )
    fingerprint_max_age_s: float = Field(
        default=300.0, gt=0, description="A fingerprint older than this at its arrival is refused, seconds."
    )
    table_ttl_s: float = Field(default=30.0, gt=0, description="How long a fetched routing table may be used, seconds.")
    table_refresh_s: float = Field(
        default=0.5, gt=0, description="Least time between two routing tables of a service, seconds."
    )
    slow_start_s: float = Field(
        default=60.0, ge=0, description="Time over which a new host is ramped up to its full weight, seconds."
    )
    max_hosts: int = Field(default=5000, ge=1, description="Hosts of one service the engine keeps.")
    max_services: int = Field(default=100, ge=1, description="Services the engine keeps.")
    shadow_every_s: float = Field(
        default=30.0, gt=0, description="Seconds between logs of what champion and challenger predict."
    )
    max_shadow_mb: float = Field(default=256.0, gt=0, description="Size of those logs; the oldest files go first.")
