"""Endpoints' queues: how they are read, and what they do to choices of pickers that know nothing of each other."""

import asyncio
import contextlib
import os
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingerpost.category import OTHER
from fingerpost.cli import app
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.routing.endpoint_picker.choice import Chooser
from fingerpost.routing.endpoint_picker.endpoints import Endpoints, endpoint_of
from fingerpost.routing.endpoint_picker.metrics import EndpointPickerMetrics
from fingerpost.routing.endpoint_picker.queues import Queues, waiting
from fingerpost.routing.endpoint_picker.requests import Request
from fingerpost.routing.endpoint_picker.server import EndpointPickerServer
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.inflight import work_ahead
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings
from tests.support.picker_harness import made_table

METRIC = "vllm:num_requests_waiting"
PAGE = b"""# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a}\\"b"} 3.0
vllm:num_requests_waiting{engine="1",model_name="a"} 4 1700000000000
vllm:num_requests_waiting_by_reason{reason="capacity"} 50.0
vllm:num_requests_running{engine="0"} 9.0
"""
HOSTS = [Upstream(f"h{number}", f"10.0.0.{number}", 80) for number in range(2)]


def test_a_queue_is_the_sum_of_the_series_of_its_gauge_alone():
    assert waiting(PAGE, METRIC) == 7.0
    assert waiting(b"sglang:num_queue_reqs 0\n", "sglang:num_queue_reqs") == 0.0


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"+Inf", b"many", b"1e9"])
def test_what_is_no_count_tells_nothing(value):
    assert waiting(PAGE + METRIC.encode() + b'{engine="2"} ' + value + b"\n", METRIC) is None
    assert waiting(b"other 1\n", METRIC) is None


@given(st.binary(max_size=400))
def test_no_page_does_harm(page):
    found = waiting(page, METRIC)
    assert found is None or found >= 0


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.floats(0.001, 10), st.floats(0.001, 10))
def test_work_ahead_counts_every_request_once(own, queued, since, own_each, each):
    told = [np.array([float(value)]) for value in (own, own * own_each, queued, since, each)]
    count = max(own, queued + since)
    assert work_ahead(*told)[0] == pytest.approx(own * own_each + (count - own) * (own_each if own else each))


def chooser(queues=True, slope=(0.1, 0.11)):
    made = Chooser(Endpoints(HOSTS), 0.5, random.Random(1), queues)
    cells = np.array([[[*slope, 1.0], [*slope, 1.0]]], dtype=np.float32)
    made.use(made_table(["h0", "h1"], ["GET /x", OTHER], settings=PickerSettings(exploration=0.0), slope=cells))
    return made


def test_what_others_have_sent_counts_until_it_is_too_old():
    made, now_s = chooser(), time.monotonic()
    first = endpoint_of(HOSTS[0])
    assert made.choose(Request("GET", "/x")).endpoints[0] == first
    made.endpoints.queue(first, 5.0, now_s + 1000.0)
    told = made.choose(Request("GET", "/x"))
    assert told.endpoints[0] == endpoint_of(HOSTS[1])
    assert told.work_s == pytest.approx(0.11)
    # Its own requests are among those that wait.
    for _ in range(5):
        made.endpoints.begin(endpoint_of(HOSTS[1]), 0.11)
    assert made.choose(Request("GET", "/x")).predicted_cost == pytest.approx(0.6)
    made.endpoints.queue(first, 5.0, now_s - 1.0)
    assert made.choose(Request("GET", "/x")).endpoints[0] == first


def test_own_requests_count_by_the_time_that_each_is_predicted_to_take():
    made = chooser()
    first, second = (endpoint_of(each) for each in HOSTS)
    made.endpoints.begin(first, 2.0)
    for _ in range(3):
        made.endpoints.begin(second, 0.1)
    assert made.choose(Request("GET", "/x")).endpoints[0] == second
    assert chooser(queues=False).choose(Request("GET", "/x")).endpoints[0] == first
    made.endpoints.end(first, 2.0)
    assert made.endpoints.work_s.tolist() == [0.0, pytest.approx(0.3)]


PAGES = {
    "told": (200, PAGE),
    "closed": (404, b""),
    "other": (200, b"up 1\n"),
    "endless": (200, b"x" * (5 * 2**20)),
}


class Page(BaseHTTPRequestHandler):
    """Answers by the address that it is asked at: 127.0.0.1 is the first of PAGES."""

    def do_GET(self):
        last = int(self.headers["host"].partition(":")[0].rpartition(".")[2])
        status, body = list(PAGES.values())[last - 1]
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = ThreadingHTTPServer(("", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.process
def test_queues_are_followed_and_what_an_endpoint_does_not_tell_is_said_once(port, tmp_path, caplog):
    upstreams = [Upstream(name, f"127.0.0.{place}", port) for place, name in enumerate(PAGES, 1)]
    upstreams.append(Upstream("away", "127.0.0.9", 1))

    async def run():
        made = Chooser(Endpoints(upstreams), queues=True)
        queues = Queues(made.endpoints, METRIC, 0.05)
        server = EndpointPickerServer(made, tmp_path / "table", queues=queues)
        following = asyncio.create_task(queues.follow())
        async with asyncio.timeout(60):
            while made.endpoints.queued_until[0] == 0 or len(queues.failed) < 4 or min(queues.failed.values()) < 2:
                await asyncio.sleep(0.02)
        found = {metric.name: metric.samples for metric in EndpointPickerMetrics(server).collect()}
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return made.endpoints.queued.tolist(), set(queues.failed), found

    queued, failed, found = asyncio.run(run())
    assert queued == [7.0, 0.0, 0.0, 0.0, 0.0]
    assert failed == {"status", "no_metric", "too_large", "unreachable"}
    assert [each.value for each in found["fingerpost_endpoint_waiting"]] == [7.0]
    assert {each.labels["reason"] for each in found["fingerpost_endpoint_queue_failures"]} == failed
    assert len([record for record in caplog.records if "queue of" in record.message]) == 4


def test_the_age_of_the_table_is_a_metric(tmp_path):
    path = tmp_path / "table"
    server = EndpointPickerServer(Chooser(Endpoints([Upstream("a", "127.0.0.1", 1)])), path)

    def values():
        asyncio.run(server.refresh())
        found = {
            each.name: [sample.value for sample in each.samples] for each in EndpointPickerMetrics(server).collect()
        }
        return [found.get(f"fingerpost_endpoint_table_{what}_seconds") for what in ("age", "remaining")]

    assert values() == [None, None]
    now_s = time.time()
    write_table(path, made_table(["a"], [OTHER], expires_us=round((now_s + 20) * US)))
    os.utime(path, (now_s - 10, now_s - 10))
    [age_s], [remaining_s] = values()
    passed_s = time.time() - now_s
    assert 10 <= age_s <= 10 + passed_s
    assert 20 - passed_s <= remaining_s <= 20


def test_a_name_that_is_none_is_refused():
    with pytest.raises(FingerpostError, match="'no metric'"):
        Queues(Endpoints(HOSTS), "no metric", 1.0)
    options = ["endpoint-picker", "--host", "a=127.0.0.1:1", "--queue-metric", METRIC]
    with pytest.raises(FingerpostError, match="--streamed"):
        CliRunner().invoke(app, options, catch_exceptions=False)
