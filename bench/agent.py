"""What an agent costs: a real agent process on a log that grows at a steady rate."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from fingerpost.category import CategoryTable, category_key, size_bucket
from fingerpost.records import REQUEST_RECORD, refusal
from fleet.envoy_log import parse_line

_TICK_S = 0.1
_SETTLE_S = 2.0


def measure_agent(rate_rps: float, seconds: float) -> dict[str, Any]:
    """CPU and memory of an agent that reads `rate_rps` lines a second, beside the rates of its inner steps.

    Returns:
        `cpu_share` (of one core, after start), `rss_mb`, `records` reported of `lines` written, and `parse_lines_per_s`
        (parsing, checking and categorising one line after another).
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as folder:
        log = Path(folder) / "access.log"
        log.touch()
        process = subprocess.Popen(
            [sys.executable, "-m", "fingerpost", "agent", "--host", "h1", "--access-log", str(log)],
            env={**os.environ, "FINGERPOST_HOME": folder, "FINGERPOST_LOG_LEVEL": "WARNING"},
        )
        try:
            agent = psutil.Process(process.pid)
            # The first line has the user-agent parser built, once in an agent's life.
            time.sleep(_SETTLE_S)
            written = _write_lines(log, rate_rps, 1)
            time.sleep(_SETTLE_S)
            before, began = sum(agent.cpu_times()[:2]), time.monotonic()
            written += _write_lines(log, rate_rps, seconds)
            share = (sum(agent.cpu_times()[:2]) - before) / (time.monotonic() - began)
            rss_mb = agent.memory_info().rss / 2**20
        finally:
            process.terminate()
            process.wait(30)
        return {
            "rate_rps": rate_rps,
            "seconds": seconds,
            "cpu_share": round(share, 5),
            "rss_mb": round(rss_mb, 1),
            "lines": written,
            "records": _reported(Path(folder) / "lake"),
            "parse_lines_per_s": round(_parse_rate(log.read_bytes().splitlines())),
        }


def _write_lines(log: Path, rate_rps: float, seconds: float) -> int:
    began, written = time.monotonic(), 0
    with log.open("ab", buffering=0) as handle:
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * rate_rps) - written
            handle.write(b"".join(_line(written + number) for number in range(due)))
            written += due
            time.sleep(_TICK_S)
    return written


def _line(number: int) -> bytes:
    entry = {
        "start": f"{time.time() - 0.05:.6f}",
        "host": "h1",
        "method": "POST",
        "path": f"/users/{number % 1000}/orders",
        "status": 200,
        "bytes_in": number % 20_000,
        "bytes_out": 512,
        "duration_us": 12_500,
        "service_time_us": 12_000,
        "auth_scheme": "Bearer",
        "api_key": "false",
        "cookie": "false",
        "user_agent": f"Mozilla/5.0 (X11; Linux x86_64) Chrome/{100 + number % 40}.0.0.0 Safari/537.36",
        "region": "DE",
        "inflight": 3,
        "cpu_s": 0.004,
        "policy": "random",
        "propensity": 0.5,
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _reported(lake: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.ParquetFile(path).metadata.num_rows for path in (lake / "inbox" / "requests").rglob("*.parquet"))


def _parse_rate(lines: list[bytes]) -> float:
    table = CategoryTable((("POST /users/*/orders", "1K"),))
    now_us = time.time_ns() // 1000
    parse_line(lines[0], "shop")
    began = time.perf_counter()
    for line in lines:
        row = parse_line(line, "shop")
        refusal(row, REQUEST_RECORD, 0, now_us)
        key = category_key(
            row["method"],
            row["route"],
            size_bucket(row["bytes_in"]),
            row["auth"],
            row["user_agent_class"],
            row["region"],
        )
        table.assign(key)
    return len(lines) / (time.perf_counter() - began)
