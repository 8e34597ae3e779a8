"""Figures of the fleet: from the proxies' logs, the proxies' tables and the control plane's lake."""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from examples.demo.measured import requests_between
from examples.fleet.machines import SERVICES, Fleet
from fingerpost.errors import RefusedError
from fingerpost.features.maintenance import lake_lock
from fingerpost.lake import INBOX, parquet_files, service_folder
from fingerpost.routing.table_file import decode

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

_IN_TABLE_S = 15.0


def requests_of(fleet: Fleet, begin_s: float, end_s: float) -> "pd.DataFrame":
    """The requests of all proxies that ended in a span of time, with the `service` of each; see `requests_between`."""
    import pandas as pd

    found = [
        requests_between(proxy.file(fleet.log_file(service)), service.name, begin_s, end_s).assign(service=service.name)
        for proxy in fleet.proxies
        for service in SERVICES
    ]
    return pd.concat(found).sort_values("at_s", ignore_index=True)


class TableWatch:
    """Looks at the tables on the proxies.

    Attributes:
        oldest_s: the greatest age of any table since `forget`, seconds: time since its router last wrote it.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._hosts: dict[tuple[str, str], frozenset[str]] = {}
        self._ages: list[float] = []
        self.oldest_s = 0.0

    def look(self) -> None:
        """Reads every table once."""
        self._ages = []
        for proxy in self._fleet.proxies:
            for service in SERVICES:
                path = proxy.file(self._fleet.table_file(service))
                try:
                    self._hosts[proxy.name, service.name] = frozenset(decode(path.read_bytes()).hosts)
                    self._ages.append(time.time() - path.stat().st_mtime)
                except (OSError, RefusedError):
                    continue
        self.oldest_s = max([self.oldest_s, *self._ages])

    def forget(self) -> None:
        """Begins a new span of time."""
        self.oldest_s = 0.0

    def age_s(self) -> float:
        """The greatest age of a table now."""
        self.look()
        return max(self._ages, default=0.0)

    def known(self) -> set[str]:
        """Every host that each table of its service has."""
        by_service: dict[str, list[frozenset[str]]] = {}
        for (_, service), hosts in self._hosts.items():
            by_service.setdefault(service, []).append(hosts)
        return {host for tables in by_service.values() for host in frozenset.intersection(*tables)}

    def all_know(self, service: str, host: str) -> bool:
        """Whether the host is in the table of each proxy."""
        return all(host in hosts for (_, name), hosts in self._hosts.items() if name == service)


def delivered(fleet: Fleet, dead: str) -> dict[str, Any]:
    """How many requests the proxies sent to hosts, and how many of them windows in the control plane's lake count.

    Args:
        dead: a host that is left out: what its agent had not sent died with the machine.
    """
    sent = requests_of(fleet, 0, time.time() + 60)
    # Neither what no host was found for, nor our own looks whether a proxy answers, which no host reports.
    sent = sent[sent["host"].notna() & (sent["host"] != dead) & (sent["route"] != "/healthz")]
    answered = Counter(sent["host"])
    landed: Counter[str] = Counter()
    lake = fleet.control_home() / "lake"
    for service in SERVICES:
        # What is ingested meanwhile would be counted twice, or not at all.
        with lake_lock(lake, service.name, alone=True):
            landed += _reported(lake / INBOX, service.name) + _reported(lake, service.name)
    del landed[dead]
    lost = {host: answered[host] - landed[host] for host in sorted(answered | landed) if answered[host] != landed[host]}
    return {"answered": answered.total(), "landed": landed.total(), "lost": lost}


def _reported(root: Path, service: str) -> Counter[str]:
    """Requests by host, as the hosts' own agents reported them."""
    import pyarrow.parquet as pq

    found: Counter[str] = Counter()
    for path in parquet_files(service_folder(root, "reported_windows", service)):
        rows = pq.ParquetFile(path).read(columns=["host", "source", "requests"]).to_pylist()
        for row in rows:
            if row["source"] == "host":
                found[row["host"]] += row["requests"]
    return found


def problems_of(found: dict[str, Any]) -> list[str]:
    """What of the proof has failed, in words; empty: nothing."""
    problems = []
    for name, step in found.items():
        if not isinstance(step, dict) or "failed_by_host" not in step:
            continue
        elsewhere = {host: count for host, count in step["failed_by_host"].items() if host != found.get("dead")}
        if elsewhere:
            problems.append(f"{name}: requests failed at {elsewhere}")
    others = {status: count for status, count in found["clients"]["statuses"].items() if status != "200"}
    on_dead = sum(
        step["failed_by_host"].get(found["dead"], 0)
        for step in found.values()
        if isinstance(step, dict) and "failed_by_host" in step
    )
    if sum(others.values()) > on_dead:
        problems.append(f"clients saw {others}, and {on_dead} requests were under way on the dead host")
    if found["telemetry"]["lost"]:
        problems.append(f"windows in the lake count fewer, or more, than the requests: {found['telemetry']['lost']}")
    if found["joined"]["in_table_s"] > _IN_TABLE_S:
        problems.append(f"the joined host was in the tables after {found['joined']['in_table_s']} s")
    return problems


def figures_of_fleet(found: dict[str, Any], console: "Console") -> None:
    """Prints the figures as tables."""
    steps = Table("step", "requests", "failed", "p99 s", "oldest table s", "figures")
    for name, step in found.items():
        if isinstance(step, dict) and "failed_by_host" in step:
            rest = {key: value for key, value in step.items() if isinstance(value, int | float)}
            shown = ", ".join(
                f"{key} {value}"
                for key, value in rest.items()
                if key not in ("requests", "failed", "p99_s", "table_age_max_s")
            )
            failed = f"{step['failed']} {step['failed_by_host'] or ''}"
            steps.add_row(name, str(step["requests"]), failed, str(step["p99_s"]), str(step["table_age_max_s"]), shown)
    console.print(steps)
    arms = Table("service", "policy", "requests", "mean s", "p99 s", title="by turns, in the same minutes")
    for service in SERVICES:
        for policy, each in found["learned"][service.name].items():
            arms.add_row(service.name, policy, str(each["requests"]), str(each["mean_s"]), str(each["p99_s"]))
    console.print(arms)
    telemetry = found["telemetry"]
    console.print(f"{telemetry['answered']} requests, {telemetry['landed']} of them in windows in the lake")
