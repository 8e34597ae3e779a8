"""Writes the Grafana dashboards: `python deploy/monitoring/make_dashboards.py`."""

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("dashboards")
_OF = '{service=~"$service"}'
# Dashboard to its panels: title, unit of Grafana, and expressions with their legends.
_PANELS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "fleet-and-traffic": [
        ("Requests a second", "reqps", [(f"fingerpost_engine_fleet_requests_per_second{_OF}", "{{service}}")]),
        ("What the fleet could carry", "reqps", [(f"fingerpost_engine_fleet_capacity_requests_per_second{_OF}", "{{routing}}")]),
        ("Headroom", "percentunit", [(f"fingerpost_engine_headroom_ratio{_OF}", "{{horizon}}")]),
        ("Hosts by state", "short", [(f"fingerpost_engine_host_states{_OF}", "{{state}}")]),
        ("Latency by who routed, last hour", "s", [(f"fingerpost_engine_routed_latency_seconds{_OF}", "{{arm}} {{quantile}}")]),
        ("Failed, by who routed", "percentunit", [(f"fingerpost_engine_routed_failed_ratio{_OF}", "{{arm}}")]),
        ("Explored", "percentunit", [(f"fingerpost_engine_routed_explored_ratio{_OF}", "{{arm}}")]),
        ("Table may still be used for", "s", [("fingerpost_router_table_remaining_seconds", "{{service}} {{instance}}")]),
        ("Age of each picker's table", "s", [(f"fingerpost_engine_picker_table_age_seconds{_OF}", "{{kind}} {{picker}}")]),
    ],
    "predictions-and-models": [
        ("Error of predicted throughput", "percentunit", [('fingerpost_engine_prediction_error_ratio{target="throughput_rps", service=~"$service"}', "{{predictor}}")]),
        ("Error of predicted median latency", "percentunit", [('fingerpost_engine_prediction_error_ratio{target="latency_p50_s", service=~"$service"}', "{{predictor}}")]),
        ("Regret of the choice", "percentunit", [(f"fingerpost_engine_prediction_regret_ratio{_OF}", "{{predictor}}")]),
        ("p99 above the predicted one", "percentunit", [(f"fingerpost_engine_p99_exceeded_ratio{_OF}", "{{service}}")]),
        ("Share of the categories that the model serves", "percentunit", [(f"fingerpost_engine_model_share{_OF}", "{{service}}")]),
        ("Trust of the guard", "percentunit", [("fingerpost_guard_trust", "{{version}} {{instance}}")]),
        ("Drift", "short", [(f"fingerpost_engine_drift{_OF}", "{{service}}")]),
        ("Decisions of the latest hundred", "short", [(f"fingerpost_promotion_decisions{_OF}", "{{action}}")]),
    ],
    "platform": [
        ("Versions of the program", "short", [("count by (part, version) (fingerpost_build_info)", "{{part}} {{version}}")]),
        ("Since the last success of each flow", "s", [("time() - fingerpost_flow_last_success_timestamp_seconds > 0", "{{flow}}")]),
        ("How long flows take", "s", [("fingerpost_flow_duration_seconds", "{{flow}}")]),
        ("How much later than planned flows begin", "s", [("fingerpost_flow_lag_seconds", "{{flow}}")]),
        ("Reports a second, by what became of them", "short", [("sum by (outcome) (rate(fingerpost_engine_reports_total[5m]))", "{{outcome}}")]),
        ("Refused a second, by reason", "short", [("sum by (reason) (rate(fingerpost_engine_refused_total[5m]))", "{{reason}}")]),
        ("99% of the engine's answers within", "s", [("histogram_quantile(0.99, sum by (le) (rate(fingerpost_engine_request_seconds_bucket[5m])))", "p99")]),
        ("From a report to its table, 99% within", "s", [("histogram_quantile(0.99, sum by (le) (rate(fingerpost_engine_arrival_to_table_seconds_bucket[5m])))", "p99")]),
        ("Left out of hosts' states a second", "short", [("sum by (what) (rate(fingerpost_engine_history_passed_over_total[5m]))", "{{what}}")]),
        ("Agents' problems", "short", [("sum by (problem) (fingerpost_agent_problem)", "{{problem}}")]),
    ],
}  # fmt: skip


def dashboards() -> dict[str, str]:
    """File name to the JSON of every dashboard."""
    return {f"{name}.json": json.dumps(_dashboard(name), indent=1) + "\n" for name in _PANELS}


def expressions() -> list[str]:
    """Every expression, for all services."""
    told = [expression for panels in _PANELS.values() for _, _, targets in panels for expression, _ in targets]
    return [each.replace("$service", ".*") for each in told]


def _dashboard(name: str) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = [
        {
            "id": place + 1,
            "type": "timeseries",
            "title": title,
            "datasource": source,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (place % 2), "y": 8 * (place // 2)},
            "fieldConfig": {"defaults": {"unit": unit, "custom": {"fillOpacity": 5}}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend, "datasource": source}
                for number, (expression, legend) in enumerate(targets)
            ],
        }
        for place, (title, unit, targets) in enumerate(_PANELS[name])
    ]
    query = "label_values(fingerpost_engine_hosts, service)"
    return {
        "uid": f"fingerpost-{name}"[:40],
        "title": f"Fingerpost: {name.replace('-', ' ')}",
        "tags": ["fingerpost"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {"name": "service", "type": "query", "datasource": source, "query": query, "definition": query,
                 "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2},
            ]
        },
        "panels": panels,
    }  # fmt: skip


if __name__ == "__main__":
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text)
        sys.stdout.write(f"wrote {FOLDER / name}\n")
