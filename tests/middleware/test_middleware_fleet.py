"""The middleware among the others: real Envoy reading its load reports, forked workers, the demo's hosts, the lake."""

import asyncio
import base64
import contextlib
import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import uvicorn

from fingerpost.agent.batches import write_batch
from fingerpost.features.build import FeatureSettings, build_features
from fingerpost.features.ingest import ingest
from fingerpost.lake import parquet_files
from fingerpost.middleware import FingerpostMiddleware, MiddlewareReceiver
from fingerpost.middleware.load import HostLoad, Load
from fingerpost.middleware.orca import HEADER, load_report
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from tests.support.records import record, sample

ENVOY = str(Path(sys.executable).parent / "envoy")
_TYPE = "type.googleapis.com/envoy.extensions."
_MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"
_POLICY = "load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"


def reported(value: str) -> dict[str, float]:
    """The load report of a header, in any encoding, without the named metrics."""
    encoding, _, text = value.partition(" ")
    if encoding == "TEXT":
        return {name: float(number) for name, _, number in (pair.partition("=") for pair in text.split(","))}
    if encoding == "JSON":
        return json.loads(text)
    names = {1: "cpu_utilization", 2: "mem_utilization", 6: "rps_fractional", 7: "eps", 9: "application_utilization"}
    data, found = base64.b64decode(text), {}
    while data and data[0] >> 3 in names:
        found[names[data[0] >> 3]] = struct.unpack("<d", data[1:9])[0]
        data = data[9:]
    return found


def envoy_config(port: int, admin: int, hosts: list[int]) -> dict[str, Any]:
    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    route = {"match": {"prefix": "/"}, "route": {"cluster": "hosts"}}
    manager = {
        "@type": _TYPE + _MANAGER,
        "stat_prefix": "clients",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": _TYPE + "filters.http.router.v3.Router"}}],
    }
    policy = {"@type": _TYPE + _POLICY, "blackout_period": "0.1s", "weight_update_period": "0.1s"}
    endpoints = [{"endpoint": {"address": address(number)}} for number in hosts]
    return {
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [
                {"address": address(port), "filter_chains": [{"filters": [{"name": "m", "typed_config": manager}]}]}
            ],
            "clusters": [
                {
                    "name": "hosts",
                    "type": "STATIC",
                    "load_balancing_policy": {
                        "policies": [{"typed_extension_config": {"name": "orca", "typed_config": policy}}]
                    },
                    "load_assignment": {
                        "cluster_name": "hosts",
                        "endpoints": [{"locality": {"region": "here"}, "lb_endpoints": endpoints}],
                    },
                }
            ],
        },
    }


@contextlib.contextmanager
def orca_hosts(encodings: dict[str, float]) -> Iterator[dict[str, int]]:
    """Hosts that report in each encoding and take so many seconds a request; their ports by encoding."""
    servers = {}
    for encoding, seconds in encodings.items():

        async def app(_scope, _receive, send, encoding=encoding, seconds=seconds):
            await asyncio.sleep(seconds)
            headers = [(b"x-encoding", encoding.encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        wrapped = FingerpostMiddleware(app, service="shop", host=encoding, orca=encoding, slots=2)
        servers[encoding] = uvicorn.Server(uvicorn.Config(wrapped, port=0, log_level="error", lifespan="off"))
    threads = [threading.Thread(target=server.run, daemon=True) for server in servers.values()]
    for thread in threads:
        thread.start()
    while not all(server.started for server in servers.values()):
        time.sleep(0.01)
    yield {name: server.servers[0].sockets[0].getsockname()[1] for name, server in servers.items()}
    for server in servers.values():
        server.should_exit = True
    for thread in threads:
        thread.join(10)


@pytest.mark.process
def test_envoy_weighs_hosts_by_the_load_reports(tmp_path, free_ports):
    port, admin = free_ports(2)
    with orca_hosts({"text": 0.001, "json": 0.005, "bin": 0.02}) as hosts:
        (tmp_path / "envoy.json").write_text(json.dumps(envoy_config(port, admin, list(hosts.values()))))
        command = [ENVOY, "-c", str(tmp_path / "envoy.json"), "--base-id", str(admin), "--concurrency", "1"]
        with (tmp_path / "log").open("wb") as log:
            envoy = subprocess.Popen([*command, "-l", "error", "--component-log-level", "router:trace"], stderr=log)
        try:
            last, weights = drive(port, admin, hosts)
        finally:
            envoy.terminate()
            envoy.wait(20)
    log_lines = (tmp_path / "log").read_text().splitlines()
    assert any("orca_load_report for" in line for line in log_lines)
    assert not [line for line in log_lines if "unsupported" in line or "parse" in line or "must be positive" in line]
    for encoding, weight in weights.items():
        report = reported(last[encoding])
        assert weight == pytest.approx(report["rps_fractional"] / report["application_utilization"], rel=0.01, abs=1)
    assert weights["text"] > weights["json"] > weights["bin"]


def drive(port: int, admin: int, hosts: dict[str, int]) -> tuple[dict[str, str], dict[str, int]]:
    """Sends requests for two seconds; the last report of each host, and the weights Envoy has given them."""
    last: dict[str, str] = {}
    with httpx.Client(trust_env=False) as client:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"http://127.0.0.1:{admin}/ready").status_code == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        end = time.monotonic() + 2
        while time.monotonic() < end or len(last) < len(hosts):
            answer = client.get(f"http://127.0.0.1:{port}/")
            if HEADER in answer.headers:
                last[answer.headers["x-encoding"]] = answer.headers[HEADER]
        time.sleep(0.4)
        lines = client.get(f"http://127.0.0.1:{admin}/clusters").text.splitlines()
    found = dict(line.split("::weight::") for line in lines if "::weight::" in line)
    return last, {name: int(found[f"hosts::127.0.0.1:{number}"]) for name, number in hosts.items()}


def test_every_encoding_says_the_same():
    load = Load(0.25, 0.1, 0.5, 500.0, 2.5)
    expected = {"cpu_utilization": 0.25, "mem_utilization": 0.1, "rps_fractional": 500.0, "eps": 2.5}
    for encoding in ("text", "json", "bin"):
        found = reported(load_report(load, {"inflight": 3}, encoding))
        assert {name: found[name] for name in expected} == expected
    assert "mem_utilization" not in load_report(Load(0.25, None, None, 1.0, 0.0), {}, "text")
    with pytest.raises(ValueError, match="'xml'"):
        load_report(load, {}, "xml")


def test_load_is_what_happened_lately():
    load = HostLoad(cores=1.0, slots=4)
    assert load.respond(200) is None
    load.arrive()
    load.arrive()
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        time.sleep(0.01)
        seen = load.respond(503)
    assert seen.application == pytest.approx(0.5, abs=0.05)
    assert seen.eps > 0.9 * seen.rps > 10
    assert 0 <= seen.cpu < 1
    assert 0 < seen.memory < 1
    load.leave()
    assert load.inflight == 1


FLASK_APP = """
import os
from flask import Flask
from fingerpost.middleware import FingerpostWsgiMiddleware

app = Flask("shop")
app.wsgi_app = FingerpostWsgiMiddleware(app.wsgi_app, service="shop", host="h1", socket=os.environ["SOCKET"])


@app.get("/<name>")
def pid(name):
    return str(os.getpid())


app.test_client().get("/preload").close()
"""


@pytest.mark.process
def test_forked_workers_report_until_their_end(tmp_path, free_ports):
    pytest.importorskip("gunicorn")
    (port,) = free_ports(1)
    (tmp_path / "shop.py").write_text(FLASK_APP)
    receiver = MiddlewareReceiver(tmp_path / "s")
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}", "shop:app"],
        cwd=tmp_path,
        env={"SOCKET": str(tmp_path / "s"), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.DEVNULL,
    )
    pids, sent, deadline, records = set(), 0, time.monotonic() + 30, []
    try:
        while len(pids) < 2 or sent < 20:
            assert time.monotonic() < deadline
            try:
                pids.add(httpx.get(f"http://127.0.0.1:{port}/any", trust_env=False).text)
                sent += 1
                records += receiver.records()
            except httpx.HTTPError:
                time.sleep(0.05)
    finally:
        gunicorn.send_signal(signal.SIGTERM)
        gunicorn.wait(30)
    # What was reported in the last fifth of a second was flushed when the workers ended.
    records += receiver.records()
    receiver.close()
    assert len(records) == sent + 1
    assert {each["route"] for each in records} == {"/*"}


@pytest.mark.process
def test_the_demo_host_measures_itself_by_the_middleware(tmp_path, free_ports):
    (port,) = free_ports(1)
    receiver = MiddlewareReceiver(tmp_path / "s")
    command = [sys.executable, "-m", "examples.demo", "host", "--class", "compute", "--port", str(port)]
    host = subprocess.Popen([*command, "--name", "compute-1", "--middleware-socket", str(tmp_path / "s")])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/healthz").status_code == 200:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.1)
            answers = [client.post("/work/hash", content=b"x" * 2000) for _ in range(5)]
            assert client.get("/work/nothing").status_code == 404
            stats = client.get("/fingerpost/stats").json()
            for bad in ([1], {"hash": -1}, {"hash": "much"}, {"nothing": 2}, {"hash": 1e9}):
                assert client.put("/fingerpost/times", json=bad).status_code == 400
            assert client.put("/fingerpost/times", json={"hash": 20.0}).json() == {"hash": 20.0}
            slow = client.post("/work/hash", content=b"x" * 2000)
    finally:
        host.terminate()
        host.wait(20)
    records = receiver.records()
    receiver.close()
    assert stats["inflight"] == 0
    assert all(float(answer.headers["x-fingerpost-cpu-s"]) > 0.001 for answer in answers)
    usual = min(float(answer.headers["x-fingerpost-cpu-s"]) for answer in answers)
    assert float(slow.headers["x-fingerpost-cpu-s"]) > 8 * usual
    assert all(answer.headers["x-fingerpost-inflight"] == "0" for answer in answers)
    assert [each["route"] for each in records] == ["/work/hash"] * 5 + ["/work/nothing", "/work/hash"]
    assert {(each["service"], each["host"]) for each in records} == {("shop", "compute-1")}
    for answer, each in zip(answers, records, strict=False):
        assert each["cpu_s"] >= float(answer.headers["x-fingerpost-cpu-s"])
        assert each["duration_s"] > 0.5 * each["cpu_s"]


def test_a_lake_from_before_memory_was_recorded_is_read(tmp_path):
    rows = [record(time=record()["time"] - number * 100_000) for number in range(100)]
    write_batch(tmp_path, "samples", HOST_SAMPLE, [sample()], "h1-1")
    before = tuple(column for column in REQUEST_RECORD if column.name != "mem_bytes")
    write_batch(tmp_path, "requests", before, rows, "h1-1")
    write_batch(tmp_path, "requests", REQUEST_RECORD, [record(mem_bytes=4096)], "h1-2")
    assert ingest(tmp_path, "shop", 5, 86400).request_records == 101
    (old, *_) = sorted(parquet_files(tmp_path / "requests"))
    pq.write_table(pq.ParquetFile(old).read().drop_columns(["mem_bytes"]), old)
    assert build_features(tmp_path, "shop", FeatureSettings(5, 30, 16, 10)).request_records == 101
