"""Defines the options of an agent; they travel to its process as one JSON object in a variable."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from fingerpost.agent.sender import Target
from fingerpost.regions import Detail
from fingerpost.tls import ClientTLS
from fingerpost.tokens import Token

# How they travel: not as arguments, which anyone on the machine can read.
OPTIONS_VARIABLE = "FINGERPOST_AGENT_OPTIONS"


@dataclass(frozen=True)
class AgentOptions:
    """All times in seconds, all sizes in bytes. Of the three sources of request records at most one is given.

    Args:
        host: name of the host; with `proxy` of the proxy.
        proxy: the agent is beside a proxy, and reports all of its hosts by its access log.
        lines_per_s: lines of a proxy's log that are read a second, at most; of a busier log a sample is.
        decisions_per_s: records of how requests were routed that an agent sends a second, explored ones besides.
        access_log, log_format: the source is an access log.
        middleware_socket: the source is the middleware in the service's process.
        otlp: the source is OpenTelemetry spans sent to our own HTTP port.
        pid, pid_file, unit, match: tells the service's processes; at most one is given.
        slots: requests the host serves at once, if nothing else tells.
        http_port: where `/metrics`, `/healthz` and, with `otlp`, `/v1/traces` are; 0: nowhere.
        engine_url: where window reports are sent; empty: nowhere.
        engine_ca, engine_client_cert, engine_client_key: for TLS to it, as of `ClientTLS`.
        address, zone, host_class: of the host, announced to the engine; empty: not.
        drain_s: for so long the host drains when the agent is stopped; 0: it stays.
        deliver: `lake`: records and samples stay in the lake's inbox, which the platform sees; `engine`: only the
            network is shared, and what travels is windows, and of the records a sample of those with a decision.
        allowed_hosts: further names by which the HTTP port may be called.
        max_held_fingerprints: kept in memory while the lake cannot be written.
        inbox_bytes: of the host's own batches in the lake's inbox; the oldest go first.
        max_quarantine_bytes: refused lines of the service in the lake; the oldest go first.
    """

    lake: Path
    service: str
    host: str
    access_log: Path | None = None
    log_format: str = "envoy"
    proxy: bool = False
    lines_per_s: float = 2500.0
    decisions_per_s: float = 20.0
    middleware_socket: Path | None = None
    otlp: bool = False
    sampler: str = "auto"
    pid: int | None = None
    pid_file: Path | None = None
    unit: str | None = None
    match: str | None = None
    cgroup: Path | None = None
    prometheus_url: str | None = None
    prometheus_labels: dict[str, str] = field(default_factory=dict)
    cores: float | None = None
    slots: int | None = None
    mem_limit_bytes: int | None = None
    stats_url: str | None = None
    batch_s: float = 5.0
    sample_s: float = 1.0
    clock_skew_s: float = 5.0
    max_age_s: float = 30 * 86400.0
    window_s: float = 10.0
    halflife_s: float = 60.0
    attribution_halflife_s: float = 600.0
    max_categories: int = 256
    min_category_requests: int = 30
    route_templates: tuple[str, ...] = ()
    region_rules: dict[str, str] = field(default_factory=dict)
    region_detail: Detail = "country"
    geoip_database: Path | None = None
    bind_host: str = "127.0.0.1"
    http_port: int = 0
    allowed_hosts: tuple[str, ...] = ()
    engine_url: str = ""
    engine_ca: Path | None = None
    engine_client_cert: Path | None = None
    engine_client_key: Path | None = None
    address: str = ""
    zone: str = ""
    host_class: str = ""
    drain_s: float = 0.0
    deliver: str = "lake"
    spool_bytes: int = 64 * 2**20
    max_held_fingerprints: int = 100
    inbox_bytes: int = 1024 * 2**20
    max_quarantine_bytes: int = 256 * 2**20

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "AgentOptions":
        """What `to_json` wrote."""
        given = json.loads(text)
        for name in (each.name for each in fields(cls) if "Path" in str(each.type)):
            given[name] = Path(given[name]) if given[name] else None
        for name in ("route_templates", "allowed_hosts"):
            given[name] = tuple(given[name])
        return cls(**given)

    def target(self, token: Token) -> Target:
        """The engine to send to."""
        tls = ClientTLS(self.engine_ca, self.engine_client_cert, self.engine_client_key)
        return Target(self.engine_url, token, tls)

    @property
    def state(self) -> Path:
        """Folder of what the agents of the service must remember."""
        return self.lake / "agents" / f"service={self.service}"

    @property
    def state_name(self) -> str:
        """Begins the names of the agent's files in `state`: hosts and proxies may be called the same."""
        return f"proxy={self.host}" if self.proxy else self.host

    @property
    def finds_processes(self) -> bool:
        """Whether it is told which processes are the service's."""
        return any((self.pid, self.pid_file, self.unit, self.match))

    def missing(self) -> str | None:
        """What the host's throughput cannot be told without, and which option tells it; None: nothing."""
        missing = []
        if not (self.access_log or self.middleware_socket or self.otlp):
            missing.append("its requests (--access-log, --middleware-socket or --otlp)")
        if not (self.slots or self.stats_url):
            missing.append("how many requests it serves at once (--slots or --stats-url)")
        # The middleware measures each request's CPU.
        if not (self.middleware_socket or self.finds_processes or self.cgroup or self.prometheus_url):
            missing.append("whose CPU its requests use (--pid-file, --unit, --match, --pid or --cgroup: now all of it)")
        return f"the throughput of host {self.host} is not well known without {'; '.join(missing)}" if missing else None
