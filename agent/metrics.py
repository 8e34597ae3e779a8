"""The agent's metrics, in Prometheus' text format."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from fingerpost.agent.health import PROBLEMS
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS
from fingerpost.metric_family import BUILD_INFO, Family, build_info
from fingerpost.records import FINGERPRINT_HOST

if TYPE_CHECKING:
    from fingerpost.agent.active_categories import ActiveCategories
    from fingerpost.agent.agent import Agent
    from fingerpost.agent.courier import Courier
    from fingerpost.agent.health import Health
    from fingerpost.agent.proxy import ProxyAgent
    from fingerpost.agent.sender import Sender

_EVENTS = Family("fingerpost_agent_events", "counter", "What was taken, refused, failed.", ("event",))
_REFUSED = Family("fingerpost_agent_refused", "counter", "Rows refused, by reason.", ("reason",))
_CATEGORISED = Family(
    "fingerpost_agent_categorised", "counter", "Requests categorised; folded: into a coarser category.", ("what",)
)
_CATEGORIES = Family("fingerpost_agent_categories", "gauge", "Categories in force.")
_AGE = Family("fingerpost_agent_report_age_seconds", "gauge", "Since the last report into the lake.")
_SENT = Family("fingerpost_agent_sent", "counter", "Fingerprints by the engine's answer.", ("what",))
_SPOOL = {
    name: Family(f"fingerpost_agent_spool_{name}", "gauge", text)
    for name, text in {
        "waiting": "Packets that wait for the engine.",
        "bytes": "Their size.",
        "dropped": "Packets that the cap has dropped.",
    }.items()
}
_PROBLEM = Family("fingerpost_agent_problem", "gauge", "1 while it is so; see /healthz.", ("problem",))
_HOST = {
    column.name: Family(
        f"fingerpost_host_{column.name.removeprefix('host_')}", "gauge", f"Of the host: {column.meaning}."
    )
    for column in FINGERPRINT_HOST
}
# By what a cell of the report has.
_CELLS = {
    name: Family(f"fingerpost_category_{metric}", "gauge", text, ("category",))
    for name, metric, text in (
        ("rate_rps", "rate_rps", "Requests a second."),
        ("error_rate", "error_rate", "Share of requests that failed at the server."),
        ("latency_p50_s", "latency_p50_seconds", "Median duration."),
        ("latency_p99_s", "latency_p99_seconds", "99th percentile of duration."),
        ("cpu_s", "cpu_seconds", "CPU time a request, measured or attributed."),
        ("cpu_error_s", "cpu_error_seconds", "Standard error of the attributed CPU time a request."),
    )
}
FAMILIES = (
    BUILD_INFO, _EVENTS, _REFUSED, _CATEGORISED, _CATEGORIES, _AGE, _SENT, *_SPOOL.values(), _PROBLEM,
    *_HOST.values(), *_CELLS.values(),
)  # fmt: skip


class AgentMetrics:
    """Collects when it is asked; `text` is the exposition."""

    def __init__(
        self,
        agent: "Agent | ProxyAgent",
        book: "ActiveCategories",
        sender: "Sender | None",
        health: "Health",
        courier: "Courier | None" = None,
        besides: Callable[[], Iterator[Metric]] | None = None,
    ) -> None:
        self._agent, self._book, self._sender, self._health = agent, book, sender, health
        self._courier, self._besides = courier, besides
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        return bytes(generate_latest(self._registry))

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield from self._counts()
        yield self._problems()
        yield from self._fingerprint()
        if self._besides:
            yield from self._besides()

    def _counts(self) -> Iterator[Metric]:
        yield build_info("agent")
        events, refused = _EVENTS.of(()), _REFUSED.of(())
        delivered = self._courier.counts if self._courier else {}
        for name, count in sorted({**self._agent.all_counts(), **delivered}.items()):
            if name.startswith("refused "):
                refused.add_metric([name.removeprefix("refused ")], count)
            else:
                events.add_metric([name], count)
        yield from (events, refused)
        yield _CATEGORISED.of(((name,), count) for name, count in sorted(self._book.counts.items()))
        yield _CATEGORIES.of([((), len(self._book.table.names))])
        yield _AGE.of([((), time.monotonic() - self._agent.reported_s)])
        if self._sender:
            yield _SENT.of(((name,), count) for name, count in sorted(self._sender.counts.items()))
            for name, value in self._sender.state().items():
                yield _SPOOL[name].of([((), value)])

    def _problems(self) -> Metric:
        present = self._health.problems()
        return _PROBLEM.of(((name,), float(name in present)) for name in PROBLEMS)

    def _fingerprint(self) -> Iterator[Metric]:
        report = self._agent.last
        if report is None:
            return
        for name, value in zip(FINGERPRINT_HOST_COLUMNS, report.fingerprint.host_values.tolist(), strict=True):
            if np.isfinite(value):
                yield _HOST[name].of([((), value)])
        cells = report.cells()
        for name, family in _CELLS.items():
            yield family.of(((cell["category"],), cell[name]) for cell in cells if name in cell)
