"""The agent's HTTP port: for scrapers and exporters, not for web pages; for others than this machine with a token."""

import os
import subprocess
import sys
from collections import Counter

import httpx
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fingerpost.agent.http import AgentHTTPServer
from fingerpost.agent.otlp import PROTOBUF
from fingerpost.agent.otlp_queue import OtlpQueue
from fingerpost.origins import own_names
from tests.support.agent_harness import is_up, running_agent
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

TOKEN = "one-of-our-own"  # noqa: S105
EMPTY = ExportTraceServiceRequest().SerializeToString()


@pytest.fixture
def door():
    """A door with and one without a token, at `urls`, and what they refused."""
    doors, counts = {}, Counter()
    for token in ("", TOKEN):
        queue = OtlpQueue("shop", "h1")
        names = own_names("127.0.0.1", ["h1", "*.fleet.example"])
        made = AgentHTTPServer(
            "127.0.0.1", 0, lambda: b"x 1\n", lambda: (True, {}), queue.take, names=names, token=token, counts=counts
        )
        made.start()
        doors[token] = made
    yield {token: f"http://127.0.0.1:{each.port}" for token, each in doors.items()}, counts
    for each in doors.values():
        each.stop()


def traces(url, **headers):
    headers = {"content-type": PROTOBUF, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return httpx.post(f"{url}/v1/traces", content=EMPTY, headers=headers, trust_env=False)


def test_web_pages_neither_read_nor_send(door):
    urls, counts = door
    for host in ("evil.example", "127.0.0.1.evil.example:9464"):
        for path in ("/metrics", "/healthz"):
            assert httpx.get(f"{urls['']}{path}", headers={"host": host}, trust_env=False).status_code == 403
        assert traces(urls[""], host=host).status_code == 403
    assert traces(urls[""], origin="http://evil.example").status_code == 403
    assert traces(urls[""], sec_fetch_site="cross-site").status_code == 403
    assert traces(urls[""], content_type="text/plain").status_code == 403
    assert +counts == {"refused host:unknown": 6, "refused origin:foreign": 2, "refused content_type:form": 1}


def test_scrapers_and_exporters_go_on(door):
    urls, _ = door
    for host in ("localhost:9464", "10.0.0.1", "h1:9464", "web-1.fleet.example"):
        assert httpx.get(f"{urls['']}/metrics", headers={"host": host}, trust_env=False).text == "x 1\n"
    assert traces(urls[""]).status_code == 200


def test_traces_take_the_token_where_there_is_one(door):
    urls, counts = door
    for authorization in ("", "Bearer wrong", f"Basic {TOKEN}"):
        assert traces(urls[TOKEN], authorization=authorization).status_code == 401
    assert counts["refused token:missing"] == 3
    assert traces(urls[TOKEN], authorization=f"Bearer {TOKEN}", host="anything.example").status_code == 200
    assert httpx.get(f"{urls[TOKEN]}/metrics", trust_env=False).status_code == 200


def test_spans_are_not_taken_from_anybody_beyond_this_machine(tmp_path, free_ports):
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "fingerpost", "agent", "--host", "h1", "--otlp", "--http-port", str(port)]
    env = {**os.environ, "FINGERPOST_HOME": str(tmp_path), "FINGERPOST_BIND_HOST": "0.0.0.0"}  # noqa: S104
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "FINGERPOST_OTLP_TOKEN" in done.stderr


def test_secrets_of_an_agent_are_not_among_its_arguments(tmp_path, free_ports):
    (port,) = free_ports(1)
    variables = {
        "FINGERPOST_ENGINE_URL": "http://me:hunter2@127.0.0.1:9",
        "FINGERPOST_OTLP_TOKEN": TOKEN,
        "FINGERPOST_ENGINE_TOKEN": TOKEN,
    }
    with running_agent(tmp_path, "--otlp", "--http-port", str(port), **variables) as agent:
        wait_for(lambda: is_up(port))
        shown = " ".join(psutil.Process(agent.pid).cmdline())
        assert "fingerpost.agent.main h1" in shown
        assert "hunter2" not in shown
        assert TOKEN not in shown
        assert traces(f"http://127.0.0.1:{port}").status_code == 401
        assert traces(f"http://127.0.0.1:{port}", authorization=f"Bearer {TOKEN}").status_code == 200
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert 'fingerpost_agent_refused_total{reason="token:missing"} 1.0' in text
