"""Agents for tests, in this process and as processes, what they leave behind, and an engine that they send to."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pyarrow.parquet as pq

from fingerpost.agent.agent import Agent
from fingerpost.agent.main import build_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.lake import parquet_files
from fingerpost.packed_message import open_message
from fingerpost.window_report import pack, unpack
from tests.support.records import made_report

FAR = 2**62


def log_line(**changes):
    entry = {
        "start": f"{time.time() - 1:.6f}",
        "host": "h1",
        "method": "POST",
        "path": "/work/hash?secret=1",
        "status": 200,
        "bytes_in": 5,
        "bytes_out": 2,
        "duration_us": 12500,
        "service_time_us": 12000,
        "auth_scheme": "Bearer",
        "api_key": "false",
        "cookie": "false",
        "user_agent": "curl/8",
        "region": "DE",
        "inflight": 3,
        "cpu_s": 0.004,
        "policy": "random",
        "propensity": 0.5,
        **changes,
    }
    return json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()


def agent(tmp_path, host="h1", **changes) -> Agent:
    log = tmp_path / "access.log"
    made, *_ = build_agent(AgentOptions(tmp_path / "lake", "shop", host, log, **changes))
    return made


def accepted(tmp_path, kind="requests"):
    files = list(parquet_files(tmp_path / "lake" / "inbox" / kind))
    return [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]


def quarantined(tmp_path):
    files = sorted((tmp_path / "lake" / "quarantine" / "lines").rglob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@contextlib.contextmanager
def running_agent(home, *arguments, **environment):
    variables = {"FINGERPOST_HOME": str(home), "FINGERPOST_AGENT_BATCH_S": "0.3", "FINGERPOST_AGENT_SAMPLE_S": "0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fingerpost", "agent", "--host", "h1", *arguments],
        env={**os.environ, **variables, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def lake_rows(home, kind):
    files = parquet_files(home / "lake" / "inbox" / kind)
    return [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]


def get(port, path):
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)


def is_up(port):
    try:
        return get(port, "/healthz").status_code == 200
    except httpx.HTTPError:
        return False


class Engine:
    """Stands where the engine would: notes what it is sent and answers with `status`."""

    def __init__(self, port=0):
        self.status, self.sequences, self.headers, self.notices = 200, [], [], []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/members":
                    engine.notices.append(json.loads(body))
                    self.answer({"state": "serving"})
                    return
                engine.headers.append((self.path, dict(self.headers)))
                parts = open_message(body)
                if engine.status == 200:
                    engine.sequences += [unpack(part, 0, FAR).sequence for part in parts]
                self.answer({"accepted": len(parts), "stale": 0, "refused": 0})

            def answer(self, content):
                answer = json.dumps(content).encode()
                self.send_response(engine.status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def packet(sequence):
    return pack(made_report(sequence=sequence))
