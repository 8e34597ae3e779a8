"""The cost, and Envoy itself with the configuration we write."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog.envoy import parse_line
from fingerpost.clock import clock_us
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.routing.cost import routing_cost, service_time
from fingerpost.routing.envoy.config import POLICIES, Upstream, envoy_config
from fingerpost.routing.envoy.module import build_module, compiler
from tests.support.waiting import wait_for

ENVOY = str(Path(sys.executable).parent / "envoy")


def test_cost_is_the_time_to_drain():
    assert routing_cost([0, 4], [100, 500]).tolist() == [0.01, 0.01]
    assert routing_cost(0, 100, success_rate=0.5)[()] == pytest.approx(0.08)
    assert routing_cost(0, 100, 0.05)[()] == pytest.approx(0.06)
    assert routing_cost(0, 100, 0.05, latency_weight=0.5)[()] == pytest.approx(0.035)


def test_latency_apart_from_queueing_is_the_lesser_of_what_is_predicted_and_what_slots_allow():
    rate, latency, slots = [100.0, 100.0, 100.0, np.nan, 0.0], [0.05, 0.5, np.nan, 0.2, 0.1], [8, 8, 8, 8, np.nan]
    assert service_time(rate, latency, slots).tolist() == pytest.approx([0.05, 0.08, 0.08, np.nan, np.nan], nan_ok=True)
    assert np.isnan(service_time(100.0, 0.05, np.nan))


def test_a_host_that_cannot_serve_costs_infinitely_much():
    costs = routing_cost(0, [0.0, -1.0, np.nan, np.inf, 10.0], success_rate=[1, 1, 1, 1, 0])
    assert np.isinf(costs).all()


@given(st.integers(0, 1000), st.floats(0.01, 1e6), st.floats(0.01, 1.0))
def test_cost_rises_with_load_and_falls_with_throughput(inflight, rate, success):
    assert routing_cost(inflight + 1, rate, success_rate=success) > routing_cost(inflight, rate, success_rate=success)
    assert routing_cost(inflight, rate * 2, success_rate=success) < routing_cost(inflight, rate, success_rate=success)


@pytest.mark.process
@pytest.mark.parametrize("policy", POLICIES)
def test_envoy_accepts_the_configuration(tmp_path, policy):
    if policy == "fingerpost" and compiler() is None:
        pytest.skip("there is no C compiler")
    hosts = [Upstream("h1", "127.0.0.1", 9), Upstream("h2", "::1", 9)]
    config = envoy_config(
        hosts,
        tmp_path / "log",
        "127.0.0.1",
        1234,
        1235,
        policy,
        table=tmp_path / "table",
        health_path="/healthz",
        picker=("::1", 9002),
    )
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    module = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(build_module().parent)} if policy == "fingerpost" else {}
    done = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", str(tmp_path / "envoy.json"), "--base-id", "77"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **module},
    )
    assert done.returncode == 0, done.stderr


def test_bad_configurations_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one host"):
        envoy_config([], tmp_path, "127.0.0.1", 1, 2)
    with pytest.raises(ValueError, match="'best'"):
        envoy_config([Upstream("h1", "127.0.0.1", 9)], tmp_path, "127.0.0.1", 1, 2, "best")
    with pytest.raises(ValueError, match="table"):
        envoy_config([Upstream("h1", "127.0.0.1", 9)], tmp_path, "127.0.0.1", 1, 2, "fingerpost")
    with pytest.raises(ValueError, match="endpoint picker"):
        envoy_config([Upstream("h1", "127.0.0.1", 9)], tmp_path, "127.0.0.1", 1, 2, "endpoint_picker")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        for name, value in (("x-fingerpost-inflight", "3"), ("x-fingerpost-cpu-s", "0.0042"), ("content-length", "2")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.mark.process
def test_envoy_logs_what_a_record_needs_and_no_secret(tmp_path, free_ports):
    port, admin = free_ports(2)
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    log = tmp_path / "access.log"
    hosts = [Upstream("h1", "127.0.0.1", upstream.server_port)]
    (tmp_path / "envoy.json").write_text(json.dumps(envoy_config(hosts, log, "127.0.0.1", port, admin)))
    command = [ENVOY, "-c", str(tmp_path / "envoy.json"), "--base-id", str(admin), "--concurrency", "1"]
    envoy = subprocess.Popen([*command, "--file-flush-interval-msec", "100", "-l", "error"], cwd=tmp_path)
    try:
        answer = wait_for(lambda: httpx.get(f"http://127.0.0.1:{admin}/ready", trust_env=False))
        assert answer.status_code == 200
        answer = httpx.post(
            f"http://127.0.0.1:{port}/users/42?token=SECRET",
            content=b"12345",
            headers={
                "authorization": "Bearer SECRET",
                "x-api-key": "SECRET",
                "cookie": "session=SECRET",
                "cf-ipcountry": "DE",
                "user-agent": 'curl/8 "\\',
            },
            trust_env=False,
        )
        assert answer.text == "ok"
        assert "x-fingerpost-inflight" not in answer.headers
        upstream.shutdown()
        upstream.server_close()
        text = wait_for(lambda: log.read_bytes() or None)
        assert b"SECRET" not in text
        row = parse_line(text.splitlines()[0], "shop")
        now = clock_us()
        assert refusal(row, REQUEST_RECORD, now - 60_000_000, now + 1_000_000) is None
        assert (row["host"], row["method"], row["route"], row["status"]) == ("h1", "POST", "/users/*", 200)
        assert (row["bytes_in"], row["bytes_out"], row["auth"], row["region"]) == (5, 2, "bearer", "DE")
        assert (row["inflight"], row["cpu_s"], row["policy"], row["propensity"]) == (3, 0.0042, "random", 1.0)
        assert 0 < row["service_time_s"] <= row["duration_s"] < 5
    finally:
        envoy.terminate()
        envoy.wait(10)


def test_envoy_is_installed_with_the_program():
    assert shutil.which(ENVOY)
