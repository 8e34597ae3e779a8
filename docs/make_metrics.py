"""Writes docs/metrics.md out of the metrics that the parts declare: `python docs/make_metrics.py`."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

PAGE = Path(__file__).with_name("metrics.md")
_HEAD = """# Metrics

Every part serves Prometheus' text format, on 127.0.0.1 or `FINGERPOST_BIND_HOST`. Scrape configuration, alert rules
and dashboards lie in `deploy/monitoring/`; what to do about an alert is in [runbook.md](runbook.md). This page is made
by `python docs/make_metrics.py`.

Names have their unit at the end. Ratios are 0 to 1, or above where a measure exceeds what was predicted. Counters are
listed with `_total`. Histograms of the engine have the bounds of OpenTelemetry's `http.server.request.duration` and
three below, so that they can be added up over hosts.
Labels are bounded: services by the number that the engine keeps, categories by `FINGERPOST_MAX_CATEGORIES`.

"""
_PARTS = {
    "Engine": "`http://ENGINE:3000/metrics`, all workers added up. Predictions, capacity, experiments and flows are "
    "those of the page ([page.md](page.md)), at most a second old.",
    "Agent": "`fingerpost agent --http-port PORT`: `/metrics`.",
    "Agent of a proxy": "`fingerpost agent --proxy NAME --http-port PORT`: as agents, but of no host or category, and:",
    "Router": "`fingerpost router --metrics-port PORT`: `/metrics`.",
    "Endpoint picker": "`fingerpost endpoint-picker --metrics-port PORT`: `/metrics`.",
}


def families() -> dict[str, list[tuple[str, str, tuple[str, ...], str]]]:
    """By part: name, kind, labels and meaning of every metric, in the order of names."""
    from fingerpost.agent import metrics as agent
    from fingerpost.agent import proxy
    from fingerpost.routing import metrics_port
    from fingerpost.routing.endpoint_picker import metrics as endpoint_picker
    from fingerpost.serving.page import metrics as page

    declared = {
        "Agent": agent.FAMILIES,
        "Agent of a proxy": proxy.FAMILIES,
        "Router": metrics_port.FAMILIES,
        "Endpoint picker": endpoint_picker.FAMILIES,
    }
    found = {part: [_declared(each) for each in of_part] for part, of_part in declared.items()}
    found["Engine"] = [*_registered(), *(_declared(each) for each in page.FAMILIES)]
    return {part: sorted(found[part]) for part in _PARTS}


def _declared(family: Any) -> tuple[str, str, tuple[str, ...], str]:
    suffix = "_total" if family.kind == "counter" else ""
    return f"{family.name}{suffix}", family.kind, family.labels, family.text


def _registered() -> Iterable[tuple[str, str, tuple[str, ...], str]]:
    """Those of the engine that count as it works."""
    from fingerpost.serving.metrics import EngineMetrics

    registry = CollectorRegistry()
    EngineMetrics(registry)
    for collector in list(registry._collector_to_names):
        metric: Any = collector
        (described,) = metric.describe()
        suffix = "_total" if described.type == "counter" else ""
        yield f"{described.name}{suffix}", described.type, tuple(metric._labelnames), described.documentation


def rendered() -> str:
    """The page."""
    parts = [_HEAD]
    for part, rows in families().items():
        parts.append(f"## {part}\n\n{_PARTS[part]}\n\n| metric | kind | labels | what it tells |\n|---|---|---|---|\n")
        for name, kind, labels, text in rows:
            parts.append(f"| `{name}` | {kind} | {', '.join(f'`{each}`' for each in labels)} | {text.rstrip('.')} |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(rendered())
    sys.stdout.write(f"wrote {PAGE}\n")
