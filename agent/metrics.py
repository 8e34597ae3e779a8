"""The agent's metrics, in Prometheus' text format."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fingerpost.agent.health import PROBLEMS
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS

if TYPE_CHECKING:
    from fingerpost.agent.active_categories import ActiveCategories
    from fingerpost.agent.agent import Agent
    from fingerpost.agent.courier import Courier
    from fingerpost.agent.health import Health
    from fingerpost.agent.proxy import ProxyAgent
    from fingerpost.agent.sender import Sender

_CELLS = {
    "rate_rps": "Requests a second.",
    "error_rate": "Share of requests that failed at the server.",
    "latency_p50_s": "Median duration, seconds.",
    "latency_p99_s": "99th percentile of duration, seconds.",
    "cpu_s": "CPU-seconds a request, measured or attributed.",
    "cpu_error_s": "Standard error of the attributed CPU-seconds a request.",
}


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
        events = CounterMetricFamily("fingerpost_agent_events", "What was taken, refused, failed.", labels=["event"])
        refused = CounterMetricFamily("fingerpost_agent_refused", "Rows refused, by reason.", labels=["reason"])
        delivered = self._courier.counts if self._courier else {}
        for name, count in sorted({**self._agent.all_counts(), **delivered}.items()):
            if name.startswith("refused "):
                refused.add_metric([name.removeprefix("refused ")], count)
            else:
                events.add_metric([name], count)
        yield from (events, refused)
        book = CounterMetricFamily(
            "fingerpost_agent_categorised", "Requests categorised; folded: into a coarser category.", labels=["what"]
        )
        for name, count in sorted(self._book.counts.items()):
            book.add_metric([name], count)
        yield book
        yield GaugeMetricFamily("fingerpost_agent_categories", "Categories in force.", len(self._book.table.names))
        age_s = time.monotonic() - self._agent.reported_s
        yield GaugeMetricFamily("fingerpost_agent_report_age_seconds", "Since the last report into the lake.", age_s)
        if self._sender:
            sent = CounterMetricFamily("fingerpost_agent_sent", "Fingerprints by the engine's answer.", labels=["what"])
            for name, count in sorted(self._sender.counts.items()):
                sent.add_metric([name], count)
            yield sent
            for name, value in self._sender.state().items():
                yield GaugeMetricFamily(f"fingerpost_agent_spool_{name}", f"The spool: {name}.", value)

    def _problems(self) -> Metric:
        family = GaugeMetricFamily("fingerpost_agent_problem", "1 while it is so; see /healthz.", labels=["problem"])
        present = self._health.problems()
        for name in PROBLEMS:
            family.add_metric([name], 1.0 if name in present else 0.0)
        return family

    def _fingerprint(self) -> Iterator[Metric]:
        report = self._agent.last
        if report is None:
            return
        for name, value in zip(FINGERPRINT_HOST_COLUMNS, report.fingerprint.host_values.tolist(), strict=True):
            if np.isfinite(value):
                yield GaugeMetricFamily(f"fingerpost_host_{name.removeprefix('host_')}", name, value)
        cells = report.cells()
        for name, meaning in _CELLS.items():
            family = GaugeMetricFamily(f"fingerpost_category_{name}", meaning, labels=["category"])
            for cell in cells:
                if name in cell:
                    family.add_metric([cell["category"]], cell[name])
            yield family
