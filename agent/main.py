"""The agent's process: `python -m fingerpost.agent.main HOST`, its options as JSON in `FINGERPOST_AGENT_OPTIONS`.

A process of its own, started anew by the command line, so that the settings library does not stay in memory.
"""

import gc
import os
import platform
import sys
import uuid
from collections import Counter
from pathlib import Path

from fingerpost.agent.active_categories import ActiveCategories
from fingerpost.agent.agent import Agent
from fingerpost.agent.announcer import Announcer
from fingerpost.agent.courier import Courier
from fingerpost.agent.health import Health
from fingerpost.agent.http import AgentHTTPServer, TakeTraces
from fingerpost.agent.metrics import AgentMetrics
from fingerpost.agent.options import OPTIONS_VARIABLE, AgentOptions
from fingerpost.agent.proxy import ProxyAgent
from fingerpost.agent.proxy_log import ProxyLog
from fingerpost.agent.record_buffer import RecordBuffer
from fingerpost.agent.sampling import SamplerOptions, Subject, finder, make_sampler
from fingerpost.agent.sender import Sender
from fingerpost.agent.sources import LogSource, QueueSource, Source
from fingerpost.agent.spool import Spool
from fingerpost.announcement import Announcement, Notice
from fingerpost.errors import FingerpostError
from fingerpost.lake import INBOX, published_categories, remove_left_over
from fingerpost.locks import sole
from fingerpost.logs import configure_logs
from fingerpost.masking import masked
from fingerpost.origins import own_names
from fingerpost.regions import Regions
from fingerpost.tokens import Token, token_of


def build_agent(
    options: AgentOptions, engine_token: Token = "", otlp_token: str = ""
) -> tuple[Agent, AgentHTTPServer | None, Sender | None, Courier | None]:
    """Everything an agent is made of, not yet started.

    Raises:
        FingerpostError: an option cannot be used.
        OSError: the folder of its state cannot be made.
    """
    boot_id = uuid.uuid4().hex
    book, intake, sender, courier = _common_parts(options, engine_token)
    announcer = None
    if options.engine_url:
        about = Announcement(options.address, options.zone, options.host_class, options.slots, options.cores)
        notice = Notice(options.service, options.host, boot_id=boot_id, about=about)
        target = options.target(engine_token)
        announcer = Announcer(notice, target, options.drain_s if options.address else 0.0)
    source, take_traces = _source(options, boot_id)
    subject = Subject(
        options.service, options.host, options.cores, options.mem_limit_bytes, options.stats_url, options.slots
    )
    find = finder(options.pid, options.pid_file, options.unit, options.match)
    sampler = make_sampler(
        subject,
        SamplerOptions(options.sampler, find, options.cgroup, options.prometheus_url, options.prometheus_labels),
    )
    agent = Agent(options, source, sampler, intake, book, sender, boot_id, announcer=announcer)
    health = Health(agent, sender, options.batch_s, courier, announcer)
    metrics = AgentMetrics(agent, book, sender, health, courier)
    return agent, _door(options, metrics, health, agent.counts, take_traces, otlp_token), sender, courier


def build_proxy_agent(
    options: AgentOptions, engine_token: Token = ""
) -> tuple[ProxyAgent, AgentHTTPServer | None, Sender, Courier | None]:
    """Everything the agent of a proxy is made of, not yet started; errors as of `build_agent`."""
    book, intake, sender, courier = _common_parts(options, engine_token)
    if options.access_log is None or sender is None:
        raise FingerpostError("the agent of a proxy needs --access-log and --engine-url")
    log = ProxyLog(
        *(options.access_log, options.log_format, options.service, options.state_name),
        *(options.state, options.lines_per_s),
    )
    agent = ProxyAgent(options, log, intake, book, sender, uuid.uuid4().hex)
    # It reports once a window.
    health = Health(agent, sender, options.window_s, courier)
    metrics = AgentMetrics(agent, book, sender, health, courier, agent.metrics)
    return agent, _door(options, metrics, health, agent.counts), sender, courier


def _common_parts(
    options: AgentOptions, engine_token: Token
) -> tuple[ActiveCategories, RecordBuffer, Sender | None, Courier | None]:
    options.state.mkdir(parents=True, exist_ok=True)
    book = ActiveCategories(
        published_categories(options.lake, options.service),
        options.max_categories,
        options.min_category_requests,
        options.route_templates,
    )
    regions = Regions(options.region_rules, options.geoip_database, options.region_detail)
    intake = RecordBuffer(regions, options.clock_skew_s, options.max_age_s)
    if not options.engine_url:
        return book, intake, None, None
    target = options.target(engine_token)
    sender = Sender(Spool(options.state / f"{options.state_name}.spool", options.spool_bytes), target)
    to_engine = options.deliver == "engine"
    courier = Courier(options.lake, options.service, options.host, target) if to_engine else None
    return book, intake, sender, courier


def _door(
    options: AgentOptions,
    metrics: AgentMetrics,
    health: Health,
    counts: Counter[str],
    take_traces: TakeTraces | None = None,
    otlp_token: str = "",
) -> AgentHTTPServer | None:
    if not options.http_port:
        return None
    names = own_names(options.bind_host, (options.host, *options.allowed_hosts))
    return AgentHTTPServer(
        *(options.bind_host, options.http_port, metrics.text, health.told, take_traces),
        names=names,
        token=otlp_token,
        counts=counts,
    )


def _source(options: AgentOptions, boot_id: str) -> tuple[Source | None, TakeTraces | None]:
    if options.access_log:
        log = LogSource(options.access_log, options.log_format, options.service, options.host, options.state)
        return log, None
    if options.middleware_socket:
        from fingerpost.middleware.receiver import MiddlewareReceiver

        receiver = MiddlewareReceiver(options.middleware_socket)
        return QueueSource(receiver, options.service, options.host, boot_id), None
    if options.otlp:
        from fingerpost.agent.otlp_queue import OtlpQueue

        queue = OtlpQueue(options.service, options.host)
        return QueueSource(queue, options.service, options.host, boot_id), queue.take
    return None, None


def main() -> None:
    """Runs an agent until it is stopped; what keeps it from starting ends as one line, exit code 1."""
    try:
        options = AgentOptions.from_json(os.environ[OPTIONS_VARIABLE])
        lock, kind = options.state / f"{options.state_name}.lock", "proxy" if options.proxy else "host"
        what = f"an agent of {kind} {options.host} of service {options.service} runs on this lake"
        with sole(lock, what, platform.node(), f"stop it, or give this one its own --{kind}"):
            _run(options)
    except FingerpostError as error:
        sys.exit(f"fingerpost: {masked(str(error))}")
    except OSError as error:
        sys.exit(f"fingerpost: {error.strerror or error}: {error.filename or 'agent'}")


def _run(options: AgentOptions) -> None:
    configure_logs(os.environ.get("FINGERPOST_LOG_LEVEL", "INFO"), os.environ.get("FINGERPOST_LOG_FORMAT", "json"))
    # Tokens, and URLs that may hold a password, stay out of the arguments, which anyone on the machine can read.
    names = ("FINGERPOST_ENGINE_TOKEN", "FINGERPOST_ENGINE_TOKEN_FILE", "FINGERPOST_OTLP_TOKEN")
    fixed, path, otlp_token = (os.environ.get(name, "") for name in names)
    engine_token = token_of(fixed, Path(path) if path else None)
    parts = (
        build_proxy_agent(options, engine_token) if options.proxy else build_agent(options, engine_token, otlp_token)
    )
    agent, door, sender, courier = parts
    for folder in (options.state, *(options.lake / INBOX).glob(f"*/service={options.service}")):
        remove_left_over(folder)
    for part in (door, sender, courier):
        if part:
            part.start()
    # Rows by the thousand, and no cycles among them: looking through them again and again is a tenth of the work.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    agent.run()
    if courier:
        courier.stop()
    if door:
        door.stop()


if __name__ == "__main__":
    main()
