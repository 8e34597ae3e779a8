"""The scenario file: what fleet, what traffic, what goes wrong, and what the predictions are."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fingerpost.accesslog.envoy_format import FLUSH_MS
from fingerpost.errors import FingerpostError
from fingerpost.routing.router import GUARDED_WAIT_S
from fingerpost.routing.table_watch import LOOK_S
from fingerpost.settings import Settings
from fingerpost.simulator.causes import Churn, Cold, Jobs, Reservoir, Restarts
from fingerpost.telemetry.windows import SETTLE_S

Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(ge=0, le=3)]
Host = Annotated[int, Field(ge=0)]
Crowding = Annotated[float, Field(ge=0, le=10)]

MAX_HOSTS = 2000
MAX_CATEGORIES = 512
_MEAN_TOLERANCE = 1e-6


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MatrixFleet(_Part):
    """Mean service times as they are: one row a category, one column a host, seconds."""

    kind: Literal["matrix"]
    service_time_s: Annotated[
        list[Annotated[list[Positive], Field(min_length=1, max_length=MAX_HOSTS)]],
        Field(min_length=1, max_length=MAX_CATEGORIES),
    ]

    @model_validator(mode="after")
    def _rectangular(self) -> "MatrixFleet":
        if len({len(row) for row in self.service_time_s}) > 1:
            raise ValueError("rows of different lengths: every category needs a time for every host")
        return self


class ClassFleet(_Part):
    """Hosts in classes: a class's time for a category is the category's mean times a lognormal affinity."""

    kind: Literal["classes"]
    hosts: Annotated[int, Field(ge=1, le=MAX_HOSTS)] = 40
    classes: Annotated[int, Field(ge=1, le=MAX_HOSTS)] = 5
    categories: Annotated[int, Field(ge=1, le=MAX_CATEGORIES)] = 12
    mean_service_s: Positive = 0.05
    category_sigma: Spread = 0.5
    affinity_sigma: Spread = 0.45
    host_sigma: Spread = 0.0


class ServiceTime(_Part):
    """How single service times scatter about their mean; `cv` is the coefficient of variation of the lognormal.

    Of `empirical` times `quantiles` has a row for each category, or one for all: equally likely multiples of the mean.
    """

    kind: Literal["exponential", "lognormal", "deterministic", "hyperexponential", "empirical"] = "exponential"
    cv: Annotated[float, Field(gt=0, le=10)] = 1.0
    quantiles: list[Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=1, max_length=10_000)]] = []

    @model_validator(mode="after")
    def _has_quantiles(self) -> "ServiceTime":
        if self.kind != "empirical":
            return self
        if not self.quantiles or len({len(row) for row in self.quantiles}) > 1:
            raise ValueError("empirical times need rows of quantiles, all of one length")
        if not all(abs(sum(row) / len(row) - 1) < _MEAN_TOLERANCE for row in self.quantiles):
            raise ValueError("the quantiles of each row need a mean of 1")
        return self


class Drift(_Part):
    """Speeds change between two factors: `wander` slowly, `step` to a new value at once, `spells` to `low` and back.

    Attributes:
        of: what changes as one: each `cell` (host and category), each `host` with all its categories, or each `class`
            of hosts with all of them.
        share: of each period in which a spell has them at `low`.
    """

    kind: Literal["none", "wander", "step", "spells"] = "none"
    of: Literal["cell", "host", "class"] = "cell"
    low: Annotated[float, Field(gt=0, le=10)] = 0.5
    high: Annotated[float, Field(gt=0, le=10)] = 1.0
    period_s: Positive = 60.0
    share: Annotated[float, Field(gt=0, lt=1)] = 0.25

    @model_validator(mode="after")
    def _ordered(self) -> "Drift":
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


class Antagonist(_Part):
    """A host, or a list of them, is `factor` times as slow for everything, for a while."""

    host: Host | Annotated[list[Host], Field(min_length=1, max_length=MAX_HOSTS)]
    at_s: Seconds
    for_s: Positive
    factor: Annotated[float, Field(ge=1, le=1000)]


class Failure(_Part):
    """A host, or a list of them, fails a share of its requests `after_s` they came, without working on them.

    Attributes:
        category: only of this; None: of all.
    """

    host: Host | Annotated[list[Host], Field(min_length=1, max_length=MAX_HOSTS)]
    category: Annotated[int, Field(ge=0)] | None = None
    at_s: Seconds = 0.0
    for_s: Positive = 86_400.0
    share: Share = 1.0
    after_s: Seconds = 0.001


class HostEvent(_Part):
    """A host is lost, leaves once its requests have ended, or joins; if it joins first it is not there before."""

    host: Host
    at_s: Seconds
    kind: Literal["fail", "leave", "join"]


class Mix(_Part):
    """Weights of the categories from a time on; scaled to a sum of 1."""

    at_s: Seconds = 0.0
    weights: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _some(self) -> "Mix":
        if sum(self.weights) <= 0:
            raise ValueError("weights sum to 0")
        return self


class Arrivals(_Part):
    """Poisson, or Poisson within the bursts of a trace: its times are stretched to the run, its rate to the load.

    Of kind `rates`, `rates` are relative rates in equal parts of the run, warm-up included.
    """

    kind: Literal["poisson", "trace", "rates"] = "poisson"
    path: Path | None = None
    bins: Annotated[int, Field(ge=1, le=100_000)] = 60
    rates: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(max_length=100_000)] = []

    @model_validator(mode="after")
    def _has_shape(self) -> "Arrivals":
        if self.kind == "trace" and self.path is None:
            raise ValueError("a trace needs a path")
        if self.kind == "rates" and sum(self.rates) <= 0:
            raise ValueError("rates need a number above 0")
        return self


def _shipped(name: str) -> Any:
    """The default of a setting: what a user gets who sets nothing."""
    return Settings.model_fields[name].default


class Telemetry(_Part):
    """What is known of requests and hosts, and when: windows, agents and engine as they are shipped.

    Attributes:
        hosts_tell: hosts tell their slots and, with every answer, their requests in flight, as the middleware does.
        cpu: of a request is `measured`; or `attributed`, by agents at the hosts that read plain logs; or `unknown`, as
            is the hosts' own, where nothing is installed at them.
        window_s, halflife_s: of windows and histories.
        settle_s: a window is closed so long after its end.
        report_s: agents report so often, each as soon as a window is closed.
        refresh_s: the engine makes a table at most so often.
        slow_start_s, ttl_s: new hosts are ramped up over the first, and silent ones left out after the second.
    """

    hosts_tell: bool = False
    cpu: Literal["attributed", "measured", "unknown"] = "attributed"
    window_s: Annotated[float, Field(ge=0.1, le=3600)] = _shipped("window_s")
    halflife_s: Positive = _shipped("halflife_s")
    attribution_halflife_s: Positive = _shipped("attribution_halflife_s")
    settle_s: Seconds = SETTLE_S
    report_s: Positive = _shipped("agent_batch_s")
    refresh_s: Positive = _shipped("table_refresh_s")
    slow_start_s: Seconds = _shipped("slow_start_s")
    ttl_s: Positive = _shipped("fingerprint_ttl_s")


class Predictions(_Part):
    """Where the predictions come from.

    Attributes:
        delay_s: by how much tables come late, beside the delays of telemetry.
        memory_s: of `ewma` and `average`: what was measured fades to 1/e in this time.
        horizon_s: of `clairvoyant`: over which time it knows the true mean.
    """

    kind: Literal[
        "baseline",
        "learned",
        "ewma",
        "average",
        "oracle",
        "clairvoyant",
        "noisy",
        "shuffled",
        "all_equal",
        "ten_times_off",
        "absurd_hosts",
    ] = "baseline"
    sigma: Spread = 0.3
    delay_s: Seconds = 0.0
    absurd_from_s: Seconds = 0.0
    absurd_hosts: Annotated[int, Field(ge=1)] = 1
    memory_s: Positive = 30.0
    horizon_s: Positive = 2.0


class Picker(_Part):
    """The pickers and their routers; defaults are those of the settings.

    Attributes:
        guard: routers judge predictions by the access log.
        routers: a router with a log for `each` picker, or one `shared` by all.
        router_s: routers look at the log so often; what it has is `log_flush_s` late.
        look_s: pickers look for another table so often.
        inflight: see `fingerpost.simulator.choice.fingerpost`; None: `reported` where hosts tell, else `own`.
    """

    exploration: Share = _shipped("exploration")
    exploration_within: Annotated[float, Field(ge=1)] = _shipped("exploration_within")
    latency_weight: Annotated[float, Field(ge=0, le=10)] = _shipped("latency_weight")
    prediction_trust: Share = _shipped("prediction_trust")
    guard: bool = True
    routers: Literal["each", "shared"] = "shared"
    router_s: Positive = GUARDED_WAIT_S
    log_flush_s: Seconds = FLUSH_MS / 1000
    look_s: Positive = LOOK_S
    inflight: Literal["reported", "scaled", "own"] | None = None


class Scenario(_Part):
    """A whole scenario; times in seconds from the start of the run, warm-up included.

    Attributes:
        slots: requests that a host works on at once.
        cores: of each host; None: as many as slots.
        sharing: in `slots` each request runs at full speed; those that share a `processor` all run equally slower where
            they are more than cores.
        crowding: by how much each other request in service lengthens one that starts: one number, or a row a category
            with one a host.
        harm: by how much each request in service lengthens one that starts, a row a category that suffers with a number
            for each category in service.
        jobs, reservoirs, restarts, churn, cold: see `fingerpost.simulator.causes`.
        past_s: length of the past that models learn from; None: some 400,000 requests.
        retries, retry_failures: further tries of what a lost host refused, and of what failed or timed out.
        timeout_s: clients give a try up after so long; None: never. With `works_on` the host goes on with it in vain.
    """

    name: Annotated[str, Field(min_length=1, max_length=80)]
    fleet: Annotated[MatrixFleet | ClassFleet, Field(discriminator="kind")]
    slots: Annotated[int, Field(ge=1, le=4096)] | list[Annotated[int, Field(ge=1, le=4096)]] = 8
    cores: Annotated[float, Field(gt=0, le=4096)] | None = None
    service_time: ServiceTime = ServiceTime()
    mix: list[Mix] = []
    sharing: Literal["slots", "processor"] = "slots"
    crowding: Crowding | Annotated[list[list[Crowding]], Field(max_length=MAX_CATEGORIES)] = 0.0
    harm: Annotated[list[list[Crowding]], Field(max_length=MAX_CATEGORIES)] = []
    drift: Drift | list[Drift] = Drift()
    jobs: Annotated[list[Jobs], Field(max_length=10)] = []
    reservoir: Reservoir | None = None
    restarts: Restarts | None = None
    churn: Churn | None = None
    cold: Cold | None = None
    past_s: Positive | None = None
    antagonists: list[Antagonist] = []
    failures: Annotated[list[Failure], Field(max_length=200)] = []
    events: list[HostEvent] = []
    network_rtt_s: Annotated[float, Field(ge=0, le=10)] = 0.001
    detection_s: Seconds = 1.0
    retries: Annotated[int, Field(ge=0, le=10)] = 1
    retry_failures: Annotated[int, Field(ge=0, le=10)] = 0
    timeout_s: Positive | None = None
    works_on: bool = True
    arrivals: Arrivals = Arrivals()
    telemetry: Telemetry = Telemetry()
    predictions: Predictions = Predictions()
    picker: Picker = Picker()
    warmup_s: Seconds = 30.0
    warmup_load: Annotated[float, Field(gt=0, le=1)] = 0.5
    duration_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    slo_s: Positive = 0.5

    @property
    def hosts(self) -> int:
        """Number of hosts, also those that join later."""
        return self.fleet.hosts if isinstance(self.fleet, ClassFleet) else len(self.fleet.service_time_s[0])

    @property
    def inflight(self) -> str:
        """How pickers count requests in flight."""
        return self.picker.inflight or ("reported" if self.telemetry.hosts_tell else "own")

    @property
    def categories(self) -> int:
        """Number of categories."""
        return self.fleet.categories if isinstance(self.fleet, ClassFleet) else len(self.fleet.service_time_s)

    @model_validator(mode="after")
    def _fits(self) -> "Scenario":
        if isinstance(self.slots, list) and len(self.slots) != self.hosts:
            raise ValueError(f"slots has {len(self.slots)} entries for {self.hosts} hosts")
        for mix in self.mix:
            if len(mix.weights) != self.categories:
                raise ValueError(f"a mix has {len(mix.weights)} weights for {self.categories} categories")
        named = [host for part in (self.antagonists, self.failures) for each in part for host in hosts_of(each)]
        for host in [*named, *(each.host for each in self.events)]:
            if host >= self.hosts:
                raise ValueError(f"host {host} of {self.hosts} (the first is 0)")
        for failure in self.failures:
            if failure.category is not None and failure.category >= self.categories:
                raise ValueError(f"category {failure.category} of {self.categories} (the first is 0)")
        if isinstance(self.crowding, list) and len(self.crowding) != self.categories:
            raise ValueError(f"crowding has {len(self.crowding)} rows for {self.categories} categories")
        if isinstance(self.crowding, list) and {len(row) for row in self.crowding} != {self.hosts}:
            raise ValueError(f"crowding needs {self.hosts} numbers in every row")
        if self.harm and {len(self.harm), *map(len, self.harm)} != {self.categories}:
            raise ValueError(f"harm needs {self.categories} rows of {self.categories} numbers")
        if self.reservoir is not None and self.sharing == "processor":
            raise ValueError("a reservoir needs sharing `slots`: requests that share cores have begun at another speed")
        if len(self.service_time.quantiles) not in (0, 1, self.categories):
            raise ValueError(f"{len(self.service_time.quantiles)} rows of quantiles for {self.categories} categories")
        return self


def hosts_of(part: Antagonist | Failure) -> list[int]:
    """The hosts that a part is about."""
    return part.host if isinstance(part.host, list) else [part.host]


def load_scenario(path: Path) -> Scenario:
    """Reads a scenario file; a trace's path is relative to it.

    Raises:
        FingerpostError: one line that names the file, the field and the value that is wrong.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FingerpostError(f"{path}: not JSON: {error}") from None
    try:
        scenario = Scenario.model_validate(raw)
    except ValidationError as error:
        raise FingerpostError(f"{path}: {_first_problem(error)}") from None
    trace = scenario.arrivals.path
    if trace is None or trace.is_absolute():
        return scenario
    arrivals = scenario.arrivals.model_copy(update={"path": path.parent / trace})
    return scenario.model_copy(update={"arrivals": arrivals})


def _first_problem(error: ValidationError) -> str:
    first, more = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in first["loc"]) or "scenario"
    message = str(first["msg"]).removeprefix("Value error, ")
    value = first.get("input")
    shown = "" if isinstance(value, dict | list) or first["type"] == "missing" else f", not {value!r:.60}"
    return f"{where}: {message}{shown}" + (f" (and {more} more)" if more else "")
