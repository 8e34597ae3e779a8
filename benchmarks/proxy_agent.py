"""What the agent beside a proxy costs: a real process on a log of many hosts that grows at a steady rate."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks.agent import TICK_S, reports_taken
from fingerpost.agent.sampling.cpu_clock import process_cpu_s
from fingerpost.cli.stack.ports import free_ports
from fingerpost.window_report import ANY_TIME, unpack

_SETTLE_S = 3.0
_START = b"0000000000.000000"
_LINES = 20_000
_EXPLORED = 0.02


def measure_proxy_agent(rate_rps: float, seconds: float, hosts: int, categories: int) -> dict[str, Any]:
    """CPU and memory of `fingerpost agent --proxy` at so many lines a second, and whether its counts are right.

    Returns:
        `cpu_share` (of one core, from the first window on) and `rss_mb` at the end; `lines` written, `requests` that
        the reports count and `error`, their difference as a part; `reports` and the
        hosts in them; `decisions` in the lake and how many requests they stand for.
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as folder, reports_taken() as (url, received):
        log, port = Path(folder) / "access.log", free_ports(1)[0]
        log.touch()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fingerpost", "agent", "--proxy", "p1", "--access-log", str(log)),
                *("--engine-url", url, "--deliver", "lake", "--http-port", str(port)),
            ],
            env={**os.environ, "FINGERPOST_HOME": folder, "FINGERPOST_LOG_LEVEL": "WARNING"},
        )
        try:
            lines = _lines(hosts, categories)
            time.sleep(_SETTLE_S)
            written = _write(log, lines, rate_rps, _SETTLE_S)
            before_s, began_s = process_cpu_s(process.pid), time.monotonic()
            written += _write(log, lines, rate_rps, seconds)
            share = (process_cpu_s(process.pid) - before_s) / (time.monotonic() - began_s)
            rss_mb = psutil.Process(process.pid).memory_info().rss / 2**20
            # The last windows close.
            time.sleep(12)
        finally:
            process.terminate()
            process.wait(30)
        told = [unpack(part, *ANY_TIME) for part in received]
        requests = sum(float(report.column("requests").sum()) for report in told)
        decisions = _decisions(Path(folder) / "lake")
        return {
            "rate_rps": rate_rps,
            "hosts": hosts,
            "categories": categories,
            "seconds": seconds,
            "cpu_share": round(share, 4),
            "rss_mb": round(rss_mb, 1),
            "lines": written,
            "requests": round(requests),
            "error": round(requests / written - 1, 5),
            "reports": len(told),
            "reported_hosts": len({report.host for report in told}),
            "reported_categories": len({name for report in told for name in report.categories}),
            "report_bytes": round(sum(map(len, received)) / max(1, len(told))),
            **decisions,
        }


def _lines(hosts: int, categories: int) -> list[bytes]:
    """Lines as Envoy writes them, by a policy that explores; hosts in turn, as proxies without load take them."""
    made = []
    for number in range(_LINES):
        explored = number % round(1 / _EXPLORED) == 0
        entry = {
            "start": _START.decode(),
            "host": f"host-{number % hosts}",
            "method": "POST",
            "path": f"/shop/{'abcdefghijklmnopqrstuvwxyz'[number // hosts % categories]}/orders",
            "status": 200,
            "response_flags": "-",
            "grpc_status": None,
            "bytes_in": number * 31 % 1000 + 1,
            "bytes_out": 512,
            "duration_us": 12_500 + number * 37 % 9000,
            "service_time_us": 12_000,
            "auth_scheme": "Bearer",
            "api_key": None,
            "cookie": None,
            "user_agent": f"Mozilla/5.0 (X11; Linux x86_64) Chrome/{100 + number % 40}.0.0.0 Safari/537.36",
            "region": "DE",
            "decision": f"fingerpost;;{'1' if explored else ''};champion;7;42;{0.004 if explored else 0.98};0.0125;a",
            "inflight": 3,
            "cpu_s": None,
        }
        made.append(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
    return made


def _write(log: Path, lines: list[bytes], rate_rps: float, seconds: float) -> int:
    began, written = time.monotonic(), 0
    with log.open("ab", buffering=0) as handle:
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * rate_rps) - written
            start = f"{time.time() - 0.05:.6f}".encode()
            for begin in range(written, written + due, _LINES):
                some = [lines[number % _LINES] for number in range(begin, min(begin + _LINES, written + due))]
                handle.write(b"".join(some).replace(_START, start))
            written += due
            time.sleep(TICK_S)
    return written


def _decisions(lake: Path) -> dict[str, Any]:
    found: Counter[str] = Counter()
    for path in (lake / "inbox" / "requests").rglob("*.parquet"):
        table = pq.ParquetFile(path).read(columns=["weight"])
        found["decisions"] += table.num_rows
        found["decisions_stand_for"] += round(sum(table.column("weight").to_pylist()))
    return dict(found)
