"""The agent as a process: what it is told by middleware and spans, its port, and an engine that goes away."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fingerpost.agent.agent import Agent
from fingerpost.agent.main import build_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.middleware import FingerpostWsgiMiddleware
from fingerpost.records import FINGERPRINT, refusal
from tests.support.agent_harness import Engine, get, is_up, lake_rows, log_line, running_agent
from tests.support.waiting import wait_for


def most_requests(rows):
    """Requests of all categories together, in the fingerprint that has most."""
    sums = Counter()
    for row in rows:
        sums[row["sequence"]] += row["requests"]
    return max(sums.values(), default=0)


@pytest.mark.process
def test_requests_seen_by_middleware_become_records_and_fingerprints(tmp_path, free_ports):
    (port,) = free_ports(1)
    socket = tmp_path / "h1.sock"
    source = ("--middleware-socket", str(socket), "--http-port", str(port))
    with running_agent(tmp_path, *source, FINGERPOST_WINDOW_S="1"):
        wait_for(lambda: is_up(port))

        def app(_environ, start_response):
            sum(range(200_000))
            start_response("200 OK", [("content-length", "2")])
            return [b"ok"]

        wrapped = FingerpostWsgiMiddleware(app, service="shop", host="h1", socket=str(socket))
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/users/42", "HTTP_USER_AGENT": "curl/8", "REMOTE_ADDR": "::1"}
        for _ in range(40):
            body = wrapped(dict(environ), lambda *_: lambda _: None)
            list(body)
            getattr(body, "close", lambda: None)()
        wait_for(lambda: len(lake_rows(tmp_path, "requests")) == 40)
        wait_for(lambda: 'fingerpost_agent_events_total{event="records"} 40.0' in get(port, "/metrics").text)
        # A window later the history knows them.
        wait_for(lambda: "fingerpost_category_cpu_seconds{" in get(port, "/metrics").text)
        wait_for(lambda: most_requests(lake_rows(tmp_path, "fingerprints")) > 20)
        metrics = get(port, "/metrics").text
    row = lake_rows(tmp_path, "requests")[0]
    assert (row["route"], row["user_agent_class"], row["region"], row["host"]) == ("/users/*", "library", "none", "h1")
    assert row["cpu_s"] > 0.0005
    last = lake_rows(tmp_path, "fingerprints")[-1]
    assert last["cpu_s"] > 0.0005
    assert last["throughput_rps"] > 0
    for name in ("rate_rps", "error_rate", "latency_p50_seconds", "latency_p99_seconds", "cpu_seconds"):
        assert re.search(rf'fingerpost_category_{name}\{{category="[^"]+"\}} \d', metrics), name
    assert "fingerpost_host_cpu_util" in metrics
    assert not socket.exists()


@pytest.mark.process
def test_requests_that_a_host_serves_while_it_drains_are_reported(tmp_path, free_ports):
    (port,) = free_ports(1)
    socket, engine = tmp_path / "h1.sock", Engine()
    source = ("--middleware-socket", str(socket), "--http-port", str(port), "--address", "127.0.0.1:9000")
    told = ("--engine-url", f"http://127.0.0.1:{engine.port}", "--deliver", "lake")

    def app(_environ, start_response):
        start_response("200 OK", [])
        return [b"ok"]

    wrapped = FingerpostWsgiMiddleware(app, service="shop", host="h1", socket=str(socket))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/late", "HTTP_USER_AGENT": "curl/8", "REMOTE_ADDR": "::1"}
    with running_agent(tmp_path, *source, *told, FINGERPOST_AGENT_DRAIN_S="8") as agent:
        wait_for(lambda: is_up(port))
        agent.terminate()
        wait_for(lambda: any(notice["state"] == "draining" for notice in engine.notices))
        for _ in range(20):
            body = wrapped(dict(environ), lambda *_: lambda _: None)
            list(body)
            body.close()
        agent.wait(30)
    assert len(lake_rows(tmp_path, "requests")) == 20
    engine.stop()


@pytest.mark.process
def test_spans_become_records(tmp_path, free_ports):
    (port,) = free_ports(1)
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.kind, now = 2, time.time_ns()
    span.start_time_unix_nano, span.end_time_unix_nano = now - 20_000_000, now
    for name, value in (("http.request.method", "GET"), ("url.path", "/cart/7")):
        span.attributes.add(key=name).value.string_value = value
    span.attributes.add(key="http.response.status_code").value.int_value = 200
    url = f"http://127.0.0.1:{port}/v1/traces"
    headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
    with running_agent(tmp_path, "--otlp", "--http-port", str(port)):
        wait_for(lambda: is_up(port))
        answer = httpx.post(url, content=gzip.compress(request.SerializeToString()), headers=headers, trust_env=False)
        assert answer.status_code == 200
        assert httpx.post(url, content=b"junk", headers=headers, trust_env=False).status_code == 400
        assert httpx.post(url, content=b"x" * 9_000_000, headers=headers, trust_env=False).status_code == 413
        assert get(port, "/nothing").status_code == 404
        wait_for(lambda: lake_rows(tmp_path, "requests"))
    (row,) = lake_rows(tmp_path, "requests")
    assert (row["method"], row["route"], row["host"], row["duration_s"]) == ("GET", "/cart/*", "h1", 0.02)


@pytest.mark.process
def test_an_engine_that_is_killed_loses_no_report(tmp_path):
    engine, token = Engine(), tmp_path / "token"
    token.write_text("secret\n")
    options = {"FINGERPOST_ENGINE_TOKEN_FILE": str(token)}
    with running_agent(tmp_path, "--engine-url", f"http://127.0.0.1:{engine.port}", **options):
        wait_for(lambda: len(engine.sequences) >= 3)
        engine.stop()
        time.sleep(3)  # at least eight reports long
        waiting = list((tmp_path / "lake" / "agents" / "service=shop" / "h1.spool").iterdir())
        assert len(waiting) >= 5
        back = Engine(engine.port)
        wait_for(lambda: len(back.sequences) >= len(waiting) + 3)
    sequences = engine.sequences + back.sequences
    assert sequences == list(range(len(sequences)))
    assert back.headers[0][1]["Authorization"] == "Bearer secret"
    back.stop()


@pytest.mark.process
def test_sources_are_given_one_at_a_time_and_urls_are_urls(tmp_path):
    def complaint(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "fingerpost", "agent", "--host", "h1", *arguments],
            env={**os.environ, "FINGERPOST_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        return done.stderr

    assert "one of" in complaint("--access-log", "a", "--middleware-socket", "b")
    assert "'ftp://x'" in complaint("--engine-url", "ftp://x")
    assert "needs --http-port" in complaint("--otlp")
    assert "'magic'" in complaint("--sampler", "magic")
    assert "name=value" in complaint("--prometheus-url", "http://x", "--prometheus-label", "container")


def followed(tmp_path, clock) -> Agent:
    options = AgentOptions(tmp_path / "lake", "shop", "h1", tmp_path / "access.log", pid=os.getpid())
    agent, *_ = build_agent(options)
    agent._clock = clock
    return agent


def write_requests(tmp_path):
    """Forty requests of a window that is over."""
    (tmp_path / "access.log").write_bytes((log_line(start=f"{time.time() - 20:.6f}") + b"\n") * 40)


def requests_known(agent):
    return {cell["category"]: cell["requests"] for cell in agent.last.cells()}


def test_a_clock_that_jumps_begins_the_fingerprint_anew(tmp_path):
    now = {"offset": 0.0}
    agent = followed(tmp_path, lambda: time.time() + now["offset"])
    write_requests(tmp_path)
    agent.sample_host()
    agent.read()
    agent.report()
    first = agent.last.fingerprint
    assert sum(requests_known(agent).values()) == pytest.approx(40, rel=0.3)
    now["offset"] = -7200.0
    agent.sample_host()
    agent.report()
    assert agent.last.fingerprint.boot_id != first.boot_id
    assert agent.last.fingerprint.sequence == 0
    assert agent.all_counts()["clock_jumps"] == 1
    assert requests_known(agent) == {}


def test_records_that_wait_for_the_lake_are_counted_once(tmp_path):
    agent = followed(tmp_path, time.time)
    agent.sample_host()
    write_requests(tmp_path)
    agent.read()
    (tmp_path / "lake" / "inbox").write_text("in the way")
    for _ in range(3):
        assert not agent.report_or_keep()
    (tmp_path / "lake" / "inbox").unlink()
    assert agent.report_or_keep()
    assert sum(requests_known(agent).values()) == pytest.approx(40, rel=0.3)
    rows = lake_rows(tmp_path, "fingerprints")
    assert {row["sequence"] for row in rows} == {0, 1, 2, 3}
    assert all(refusal({**row, "time": 1}, FINGERPRINT, 0, 2**62) is None for row in rows)


def test_the_published_categories_are_taken_up_while_running(tmp_path):
    agent = followed(tmp_path, time.time)
    write_requests(tmp_path)
    agent.sample_host()
    agent.read()
    agent.report()
    published = tmp_path / "lake" / "categories" / "service=shop.json"
    published.parent.mkdir(parents=True)
    published.write_text(json.dumps({"keys": [["POST /work/hash"]], "routes": []}))
    agent.report()
    assert agent.last.fingerprint.categories == ("POST /work/hash", "other")
    assert requests_known(agent) == {"POST /work/hash": pytest.approx(40, rel=0.3)}


@pytest.mark.process
def test_the_door_serves_at_most_so_many_at_once(tmp_path, free_ports):
    (port,) = free_ports(1)
    import socket

    with running_agent(tmp_path, "--http-port", str(port)):
        wait_for(lambda: is_up(port))
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        time.sleep(0.3)
        for each in idle:
            each.close()
        wait_for(lambda: is_up(port))
        assert threading.active_count() < 100
