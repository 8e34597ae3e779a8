"""gRPC behind Envoy: what a call is called, and a host that fails its calls within a millisecond, with status 200."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import httpx
import pytest

from fingerpost.accesslog.envoy import decision_parts, parse_line
from fingerpost.clock import clock_us
from fingerpost.request_status import failed
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.envoy.transport import HostSide
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.picker_table import predictions_from_json, table_of
from fingerpost.routing.router import write_table
from fingerpost.routing.trust import TrustKeeper
from fingerpost.settings import Settings
from tests.support.running import running_envoy
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.skipif(compiler() is None, reason="there is no C compiler")]
METHOD = "/shop.v1.Catalogue/ListRecommendationsForUser"
# As windows have it: the size is what was received.
CATEGORY = f"POST {METHOD}|1K|none|service|none"
HOSTS = ("good", "fine", "bad")


class Service(grpc.GenericRpcHandler):
    """Answers after 2 ms, or fails at once.

    Args:
        fails: `headers`: the answer is nothing but the status, in its headers; `trailers`: it begins well.
    """

    def __init__(self, fails=""):
        self.fails = fails

    def service(self, handler_call_details):  # noqa: ARG002 - grpc's signature
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        context.set_trailing_metadata((("endpoint-load-metrics", "TEXT named_metrics.inflight=1"),))
        if self.fails == "trailers":
            context.send_initial_metadata(())
        if self.fails:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        time.sleep(0.002)
        return request


@contextmanager
def grpc_host(service):
    server = grpc.server(ThreadPoolExecutor(8), handlers=(service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(5)


def predictions():
    """All hosts are alike, says the engine."""
    return predictions_from_json(
        {
            "version": "v1",
            "model_version": "1",
            "expires_at": time.time() + 600,
            "hosts": [{"name": name, "weight": 1.0, "slots": 8} for name in HOSTS],
            "categories": [CATEGORY, "other"],
            "routes": [],
            "throughput_rps": [[1000.0] * 3, [None] * 3],
            "latency_p50_s": [[0.002] * 3, [None] * 3],
            "success_rate": [[1.0] * 3, [None] * 3],
        }
    )


def call_many(port, count, threads=6):
    """The status codes of as many calls, some at once."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(threads) as pool:
        method = channel.unary_unary(METHOD)

        def one(_):
            try:
                return method.with_call(b"x" * 20, timeout=20)[1].code()
            except grpc.RpcError as error:
                return error.code()

        return Counter(pool.map(one, range(count)))


def stat(admin, name):
    return int(httpx.get(f"http://127.0.0.1:{admin}/stats?filter=^{name}$", trust_env=False).text.rpartition(": ")[2])


def test_a_host_that_fails_its_calls_with_status_200_attracts_none(tmp_path, free_ports):
    port, admin = free_ports(2)
    log, table = tmp_path / "access.log", tmp_path / "shop.table"
    bad, settings, told = Service("trailers"), Settings(exploration=0.0), predictions()
    with ExitStack() as stack:
        services = (Service(), Service(), bad)
        hosts = [
            Upstream(name, "127.0.0.1", stack.enter_context(grpc_host(each)))
            for name, each in zip(HOSTS, services, strict=True)
        ]
        config = envoy_config(
            hosts, log, "127.0.0.1", port, admin, "fingerpost", table=table, hosts=HostSide("http2"),
            admin_socket=tmp_path / "admin.sock",
        )  # fmt: skip
        write_table(table, table_of(told, settings, clock_us()))
        stack.enter_context(running_envoy(config, tmp_path, admin))
        log.touch()
        keeper = TrustKeeper(log, "shop", 1.0)
        first = call_many(port, 300)
        # It is idle whenever one looks.
        assert first[grpc.StatusCode.UNAVAILABLE] > 100

        def rows(least):
            lines = wait_for(lambda: (found := log.read_bytes().splitlines()) and len(found) >= least and found)
            return [parse_line(line, "shop") | {"line": json.loads(line)} for line in lines]

        begun = rows(300)
        assert {decision_parts(row["line"]["decision"])["category"] for row in begun} == {CATEGORY}
        assert {row["policy"] for row in begun} == {"fingerpost"}
        assert {row["line"]["status"] for row in begun} == {200}
        assert {row["route"] for row in begun} == {METHOD}
        assert {(row["host"] == "bad", bool(failed(row["status"]))) for row in begun} == {(True, True), (False, False)}
        # The guard hears of it from the log, and the table is corrected.
        assert keeper.update(told)
        write_table(table, table_of(told, settings, clock_us(), keeper.correction))
        assert keeper.state()["hosts"]["bad"]["success"] < 0.5
        wait_for(lambda: call_many(port, 1) and stat(admin, "fingerpost.tables_loaded") == 2)
        count = stat(admin, "cluster.hosts.upstream_rq_total")
        second = call_many(port, 200)
        assert second[grpc.StatusCode.UNAVAILABLE] < 4
        assert all(not failed(row["status"]) or row["host"] == "bad" for row in rows(count + 200))
        # Where the status comes in the headers, Envoy itself sees a 503 and leaves the host out.
        bad.fails = "headers"
        write_table(table, table_of(told, settings, clock_us()))
        wait_for(lambda: call_many(port, 20, 1) and stat(admin, "cluster.hosts.outlier_detection.ejections_active"))
        keeper.close()
