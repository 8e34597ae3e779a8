"""The bodies of the HTTP API, as its OpenAPI document describes them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fingerpost.events import ID_PATTERN

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Text = Annotated[str, Field(max_length=512)]


class Problem(BaseModel):
    """Why a request was not served."""

    error: str


class Receipt(BaseModel):
    """What became of a message's reports."""

    accepted: int
    stale: int = Field(description="Not newer than what is there: replayed or out of order.")
    refused: int
    reasons: dict[str, int] = Field(description="Reason to number of refused reports.")
    category_version: str | None = Field(description="Version of the category table in force for the first service.")


class Refusal(Receipt):
    """A message of which nothing was stored."""

    error: str = Field(description="The most frequent reason.")


class Characteristics(BaseModel):
    """A request, by what its category depends on."""

    model_config = ConfigDict(extra="forbid")

    method: Annotated[str, Field(max_length=32)] = "GET"
    path: Annotated[str, Field(max_length=4096)] = "/"
    bytes_in: Annotated[int, Field(ge=0, le=2**40)] = 0
    auth: Annotated[str, Field(max_length=32)] = "none"
    user_agent: Annotated[str, Field(max_length=4096)] = ""
    region: Annotated[str, Field(max_length=16)] = "none"


class PredictRequest(BaseModel):
    """What to predict: for hosts and categories, or for one request's category."""

    service: Name
    hosts: Annotated[list[Text], Field(max_length=1000)] | None = Field(None, description="Only these; all if absent.")
    categories: Annotated[list[Text], Field(max_length=1000)] | None = Field(
        None, description="Only these; all if absent."
    )
    request: Characteristics | None = Field(None, description="Only the category of this request.")


class Cell(BaseModel):
    """A host's prediction for a category."""

    host: str
    category: str
    throughput_rps: float | None
    latency_p50_s: float | None
    latency_p99_s: float | None
    success_rate: float | None = None
    cost_s: float | None
    best: bool = Field(description="Whether this host has the least cost of the category.")
    age_s: float | None = Field(
        None,
        description="Age in seconds of the fingerprint it was predicted from; below 0: of the future, by our clock.",
    )


class Prediction(BaseModel):
    """Predictions of one service."""

    service: str
    source: str
    model_name: str
    model_version: str
    category: str | None = Field(None, description="Of the given request.")
    as_of: str
    cells: list[Cell]


class RouteRequest(BaseModel):
    """Where should a request go?"""

    service: Name
    category: Text | None = None
    request: Characteristics | None = None
    inflight: Annotated[dict[Text, Annotated[float, Field(ge=0, le=1e6)]], Field(max_length=10_000)] | None = Field(
        None, description="Host to requests on it now; else what the hosts told last."
    )
    exclude: Annotated[list[Text], Field(max_length=1000)] = []


class Route(BaseModel):
    """The best host, and the cost of each in seconds; null: it cannot be chosen."""

    service: str
    category: str
    host: str
    cost_s: float
    costs: dict[str, float | None]
    source: str
    model_version: str
    version: str


class HostInfo(BaseModel):
    """A host the store knows."""

    service: str
    host: str
    age_s: float = Field(description="Of its fingerprint; below 0: it is of the future, by our clock.")
    live: bool
    first_seen: float


class Hosts(BaseModel):
    hosts: list[HostInfo]


class MemberNotice(BaseModel):
    """A message about a host: of its agent, which names its life, or of an operator, who need not say where it is."""

    service: Name
    host: Name
    boot_id: Annotated[str, Field(pattern=rf"^$|{NAME}")] = Field("", description="Life of the agent.")
    state: Literal["serving", "draining", "removed"] = "serving"
    address: Annotated[str, Field(max_length=64)] = Field("", description="`10.0.0.7:8000` or `[fd00::7]:8000`.")
    zone: Annotated[str, Field(pattern=rf"^$|{NAME}")] = ""
    class_: Annotated[str, Field(pattern=rf"^$|{NAME}")] = Field("", alias="class")
    slots: Annotated[int, Field(ge=1, le=10**6)] | None = None
    cores: Annotated[float, Field(gt=0, le=10**5)] | None = None


class MemberState(BaseModel):
    """The state of a host that is in force; a draining host stays so while its agent lives."""

    state: str


class EventNotice(BaseModel):
    """An event that concerns a service, or one of its hosts."""

    service: Name
    kind: Literal["deploy", "config", "campaign"]
    host: Annotated[str, Field(pattern=rf"^$|{NAME}")] = Field("", description="Empty: all hosts of the service.")
    at: Annotated[float, Field(ge=0)] | None = Field(None, description="Begin, seconds since 1970; null: now.")
    until: Annotated[float, Field(ge=0)] | None = Field(None, description="End, seconds since 1970; null: none.")
    note: Annotated[str, Field(max_length=200)] = ""


class EventWithdrawal(BaseModel):
    """An event that is to be withdrawn."""

    service: Name
    id: Annotated[str, Field(pattern=ID_PATTERN)] = Field(description="As it is listed.")


class ListedEvent(EventNotice):
    """An event as it was told."""

    id: Annotated[str, Field(pattern=ID_PATTERN)]
    told: float = Field(description="When it was told, seconds since 1970.")
    withdrawn: float | None = Field(None, description="When it was withdrawn, seconds since 1970.")


class EventListing(BaseModel):
    """Events of a service, by their begin."""

    events: list[ListedEvent]


class RosterHost(BaseModel):
    """A host of a service; what is not known is empty or null."""

    host: str
    address: str
    zone: str
    class_: str = Field(alias="class")
    slots: int | None
    cores: float | None
    state: str = Field(description="`serving` or `draining`.")
    reports: bool = Field(description="Whether its agent has reported what it measures.")
    heard: float = Field(description="When it was last heard of, seconds since 1970.")


class Roster(BaseModel):
    """The hosts of a service, in order."""

    hosts: list[RosterHost]


class AliasInfo(BaseModel):
    """A model alias of a service."""

    service: str
    model_name: str
    alias: str
    version: str | None = Field(description="The version in use.")
    points_at: str | None = Field(description="The version the alias points at.")
    problem: str | None = Field(description="Why that one is not in use.")
    by_baseline: int = Field(description="Of a champion: the number of categories that the baseline serves.")
    reason: str = Field(description="Why the baseline serves those; empty where it does not.")


class Models(BaseModel):
    registry_problem: str | None
    models: list[AliasInfo]


class Health(BaseModel):
    """How this worker of the engine is; if `status` is not `ok`, `problems` says why."""

    status: str = Field(description="`ok`; `degraded`; `failing`: no store, and no table that may still be used.")
    ready: bool
    problems: dict[str, str]
    services: dict[str, dict[str, Any]]


class TableJson(BaseModel):
    """A routing table: a row a category in every matrix, a place a host."""

    expires_at: float = Field(description="After this time (seconds since 1970) the table is not to be used.")
    service: str
    version: str
    source: str
    model_version: str
    by_baseline: list[str] = Field(description="Categories that the baseline serves although a model is in use.")
    reason: str = Field(description="Why it does; empty where it does not.")
    arm: str = Field(description="Arm of the running experiment that the table is of; empty without one.")
    experiment: str = Field(description="Id of that experiment; empty without one.")
    category_version: str
    as_of: float
    hosts: list[dict[str, Any]]
    categories: list[str]
    routes: list[str]
    throughput_rps: list[list[float | None]]
    latency_p50_s: list[list[float | None]]
    latency_p99_s: list[list[float | None]]
    success_rate: list[list[float | None]]
    evidence: list[list[float | None]] = Field(
        description="Requests that the cell is known by, old ones weighing less."
    )
    age_s: list[list[float | None]]
