"""The guard in the router: bad predictions lose their weight by what the access log says, good ones keep it."""

import json
import logging
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest

from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.metrics_port import GuardMetrics, serve_metrics
from fingerpost.routing.outcomes import MAX_LINES, OutcomeLog
from fingerpost.routing.picker_table import predictions_from_json
from fingerpost.routing.router import Router
from fingerpost.routing.table_file import decode
from fingerpost.routing.trust import TrustKeeper, kept_trusts
from fingerpost.settings import Settings
from tests.support.running import make_sick, running_envoy, running_fleet
from tests.support.sleeping_hosts import Sickness
from tests.support.sleeping_scenario import Scenario as SleepingScenario

HOSTS, CATEGORIES, SLOTS = 12, 6, 4
NAMES = [f"h{number}" for number in range(HOSTS)]


def service_s(seed=1):
    """True service times, shape (categories, hosts): hosts differ by category."""
    return 0.05 * np.random.default_rng(seed).lognormal(0, 0.4, (CATEGORIES, HOSTS))


def table_json(times, model="1", slots=SLOTS):
    categories = [f"GET /c{number}" for number in range(CATEGORIES)]
    shape = times.shape
    return {
        "version": f"v{model}",
        "model_version": model,
        "expires_at": time.time() + 60,
        "hosts": [{"name": name, "weight": 1.0, "slots": slots} for name in NAMES],
        "categories": [*categories, "other"],
        "routes": [],
        "throughput_rps": [*(SLOTS / times).tolist(), [None] * HOSTS],
        "latency_p50_s": [*times.tolist(), [None] * HOSTS],
        "success_rate": [*np.ones(shape).tolist(), [None] * HOSTS],
    }


def shuffled(times, seed=3):
    """The same times at other hosts: as wrong as can be, without looking it."""
    rng = np.random.default_rng(seed)
    return np.stack([row[rng.permutation(HOSTS)] for row in times])


def log_lines(times, count, rng, busy=0.3, names=NAMES, **changes):
    """Lines of requests sent at random; a part waited in line first, and took longer."""
    lines = []
    for _ in range(count):
        category, host = int(rng.integers(CATEGORIES)), int(rng.integers(len(names)))
        waits = rng.random() < busy
        took = times[category, host] * rng.lognormal(-0.045, 0.3) * ((SLOTS + 3) / SLOTS if waits else 1)
        line = {
            "start": f"{time.time():.6f}",
            "host": names[host],
            "method": "GET",
            "path": f"/c{category}",
            "status": 200,
            "bytes_in": 0,
            "bytes_out": 1,
            "duration_us": round(took * 1e6),
            "service_time_us": round(took * 1e6),
            "inflight": SLOTS + 2 if waits else 1,
            **changes,
        }
        lines.append(json.dumps(line))
    return "".join(f"{line}\n" for line in lines)


def run(keeper, log, predictions, times, rounds, seed=5, **changes):
    """The trust after each round of 100 requests."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(rounds):
        with log.open("a") as file:
            file.write(log_lines(times, 100, rng, **changes))
        keeper.update(predictions)
        found.append(keeper.trust)
    return found


def lines_of(caplog, message):
    return [record for record in caplog.records if record.message == message]


def test_shuffled_predictions_lose_all_trust_and_good_ones_none(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    times = service_s()
    for seed in range(3):
        log = tmp_path / f"log{seed}"
        log.write_text("a line from before\n")
        good, bad = (predictions_from_json(table_json(each)) for each in (times, shuffled(times, seed)))
        assert set(run(TrustKeeper(log, "shop", 1.0), log, good, times, 40, seed)) == {1.0}
        assert not caplog.records
        keeper = TrustKeeper(log, "shop", 1.0)
        assert run(keeper, log, bad, times, 20, seed)[-1] < 0.2  # within 2,000 requests
        said = lines_of(caplog, "prediction trust")[0]
        assert (said.levelname, said.model_version) == ("WARNING", "1")
        # Another model begins anew, and what is known of the one before is not lost.
        new = predictions_from_json(table_json(times, "2"))
        assert set(run(keeper, log, new, times, 20, seed)) == {1.0}
        keeper.update(bad)
        assert keeper.trust < 0.2
        assert keeper.state()["trusts"] == {"1": pytest.approx(keeper.trust, abs=1e-4), "2": 1.0}
        caplog.clear()


def test_requests_that_were_not_predicted_are_counted_by_reason(tmp_path):
    times, log = service_s(), tmp_path / "log"
    predictions = predictions_from_json(table_json(times))
    keeper = TrustKeeper(log, "shop", 1.0)
    log.touch()
    keeper.update(predictions)
    entries = [json.loads(line) for line in log_lines(times, 12, np.random.default_rng(1)).splitlines()]
    reasons = ["expired"] * 3 + ["no_category"] * 2 + [""] * (len(entries) - 5)
    with log.open("a") as file:
        for entry, reason in zip(entries, reasons, strict=True):
            policy = "least_request" if reason else "fingerpost"
            file.write(json.dumps({**entry, "decision": f"{policy};{reason};0;;1;t;0.9;1.0;other"}) + "\n")
    keeper.update(predictions)
    assert keeper.state()["fallbacks"] == {"expired": 3, "no_category": 2}


def test_a_request_counts_for_the_version_that_sent_it(tmp_path):
    """What the old version sent ends while the new one is in force already."""
    times, log = service_s(), tmp_path / "log"
    old, new = (predictions_from_json(table_json(shuffled(times), version)) for version in "12")
    keeper = TrustKeeper(log, "shop", 1.0)
    keeper.update(old)
    run(keeper, log, new, times, 20, model_version="1")
    assert keeper.trust == 1.0
    run(keeper, log, new, times, 20, model_version="unknown")
    assert keeper.state()["trusts"]["2"] == 1.0
    run(keeper, log, old, times, 1, model_version="1")
    assert keeper.trust < 0.2


def test_the_setting_is_the_most_there_is(tmp_path):
    times, log = service_s(), tmp_path / "log"
    keeper = TrustKeeper(log, "shop", 0.5)
    assert set(run(keeper, log, predictions_from_json(table_json(times)), times, 10)) == {0.5}
    assert run(keeper, log, predictions_from_json(table_json(shuffled(times), "2")), times, 20)[-1] < 0.2


@pytest.mark.parametrize("slots", [SLOTS, None], ids=["told", "untold"])
def test_one_absurd_host_is_corrected_told_and_takes_nothing_from_the_others(tmp_path, caplog, slots):
    """It is predicted ten times too fast, and its queue grows."""
    caplog.set_level(logging.INFO)
    times, log = service_s(), tmp_path / "log"
    log.write_text("")
    spoiled = times.copy()
    spoiled[:, 0] /= 10
    predictions, rng = predictions_from_json(table_json(spoiled, slots=slots)), np.random.default_rng(1)
    keeper = TrustKeeper(log, "shop", 1.0)
    for queue in range(0, 60, 3):
        # At the host each request waits for those before it; there are few other requests than those.
        waits = {"host": NAMES[0], "inflight": queue}
        took = (times[:, 0].mean() * rng.gamma(queue + 1, size=10) / SLOTS * 1e6).tolist()
        lines = [log_lines(times, 1, rng, 0.0, **waits, service_time_us=round(each) + 1) for each in took]
        with log.open("a") as file:
            file.write("".join(lines) + log_lines(times[:, 1:], 100, rng, 0.0, names=NAMES[1:]))
        keeper.update(predictions)
    cost = keeper.correction.cost_factor
    assert keeper.trust == 1.0
    assert cost[0].mean() > 4
    assert np.abs(np.log(cost[1:])).max() < 0.4
    said = lines_of(caplog, "corrected hosts")[-1]
    assert said.levelname == "WARNING"
    assert list(json.loads(said.hosts)) == [NAMES[0]]
    assert keeper.state()["hosts"][NAMES[0]]["cost"] > 4


def test_failures_cost_and_what_is_no_fault_of_the_host_does_not(tmp_path):
    times, predictions = service_s(), predictions_from_json(table_json(service_s()))
    for number, (changes, blamed) in enumerate(
        (
            ({"status": 503}, True),
            ({"status": 0, "response_flags": "UC"}, True),
            ({"status": 200, "response_flags": "UR"}, True),
            ({"status": 504, "response_flags": "UT"}, True),
            ({"status": 404}, False),
            ({"status": 200, "response_flags": "DC"}, False),
            ({"status": 200}, False),
        )
    ):
        log, rng = tmp_path / f"log{number}", np.random.default_rng(1)
        log.write_text("")
        keeper = TrustKeeper(log, "shop", 1.0)
        with log.open("a") as file:
            file.write(log_lines(times, 300, rng, 0.0))
            file.write(log_lines(times, 30, rng, 0.0, host=NAMES[0], service_time_us=100, **changes))
        keeper.update(predictions)
        cost = keeper.correction.cost_factor
        assert (cost[0].mean() > 4) == blamed, changes
        assert cost[1:].max() < 2


def test_predictions_that_are_followed_are_not_judged_by_chance(tmp_path):
    """Requests go to the best hosts of their category alone, which hardly differ, and scatter much."""
    times, log = service_s(), tmp_path / "log"
    best = np.argsort(times, axis=1)[:, :3]
    predictions, rng = predictions_from_json(table_json(times)), np.random.default_rng(7)
    keeper = TrustKeeper(log, "shop", 1.0)
    for _ in range(60):
        with log.open("a") as file:
            for _ in range(100):
                category = int(rng.integers(CATEGORIES))
                host = int(best[category, rng.integers(3)])
                took = times[category, host] * rng.exponential()
                line = {"path": f"/c{category}", "host": NAMES[host], "service_time_us": 1 + round(took * 1e6)}
                file.write(log_lines(times, 1, rng, busy=0.0, **line))
        keeper.update(predictions)
        assert keeper.trust == 1.0


@pytest.mark.parametrize("changes", [{"status": 404}, {"host": "h99"}, {"service_time_us": None}])
def test_what_tells_nothing_changes_nothing(tmp_path, changes):
    times, log = service_s(), tmp_path / "log"
    bad = predictions_from_json(table_json(shuffled(times)))
    keeper = TrustKeeper(log, "shop", 1.0)
    assert set(run(keeper, log, bad, times, 8, **changes)) == {1.0}
    assert set(keeper.correction.cost_factor.ravel()) == {1.0}


def test_a_log_that_outgrows_its_reader_is_passed_over(tmp_path):
    times, log = service_s(), tmp_path / "log"
    predictions = predictions_from_json(table_json(times))
    follower = OutcomeLog(log, "shop")
    line = log_lines(times, 1, np.random.default_rng(1), busy=0.0)
    log.write_text(line * (MAX_LINES + 5000) + "no line\n" + '{"host": "h1"}\n')
    assert len(follower.ended(predictions, ["1"]).host) == MAX_LINES
    assert len(follower.ended(predictions, ["1"]).host) == 0
    with log.open("a") as file:
        file.write(line * 3)
    assert len(follower.ended(predictions, ["1"]).host) == 3
    follower.close()


@contextmanager
def engine_with(table):
    """An engine that has one table, and holds who has it already for a moment."""
    body = json.dumps(table).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            same = self.headers.get("if-none-match") == '"1"'
            self.send_response(304 if same else 200)
            self.send_header("etag", '"1"')
            self.send_header("x-fingerpost-expires-at", f"{time.time() + 99:.3f}")
            self.end_headers()
            if same:
                time.sleep(0.05)
            else:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def following(router):
    """A router at work."""
    stop = threading.Event()
    thread = threading.Thread(target=router.follow, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        router.close()


@pytest.mark.process
def test_the_router_writes_what_is_still_trusted(tmp_path, free_ports):
    """The engine's table is shuffled: the file's costs come near the measured ones, without another table."""
    times, log, path = service_s(), tmp_path / "log", tmp_path / "table"

    def off():
        """How far the costs are from the true ones, whatever a category's scale: standard deviation of the log."""
        left = np.log(decode(path.read_bytes()).slope[0, :CATEGORIES, :-1]) - np.log(times)
        return (left - left.mean(axis=1, keepdims=True)).std()

    with engine_with(table_json(shuffled(times))) as url:
        router = Router(url, path, Settings(), log)
        router.sync()
        begun, rng, deadline = off(), np.random.default_rng(1), time.monotonic() + 20
        with following(router):
            while off() > begun / 1.5:
                assert time.monotonic() < deadline
                with log.open("a") as file:
                    file.write(log_lines(times, 1000, rng))
                time.sleep(0.1)
    assert decode(path.read_bytes()).expires_us > (time.time() + 50) * 1e6
    state = json.loads(path.with_name("table.guard.json").read_text())
    assert state["trust"] < 0.2
    assert state["requests"] >= 1000
    assert kept_trusts(path) == {"1": state["trusts"]["1"]}
    (port,) = free_ports(1)
    serve_metrics("127.0.0.1", port, GuardMetrics({"shop": lambda: router.guard_state}))
    told = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert f'fingerpost_guard_trust{{service="shop",version="1"}} {state["trust"]}' in told
    assert re.search(r'fingerpost_guard_host_cost\{host="h\d+",service="shop"\} \d', told)
    assert re.search(r'fingerpost_guard_requests_total\{service="shop"\} \d{4,}', told)
    elsewhere = {"host": "attacker.example"}
    assert httpx.get(f"http://127.0.0.1:{port}/metrics", headers=elsewhere, trust_env=False).status_code == 403


@pytest.mark.parametrize("found", ["", "[]", "{}", '{"trusts": 3}', '{"trusts": {"1": "much"}}'])
def test_trust_that_cannot_be_read_is_none(tmp_path, found):
    assert kept_trusts(tmp_path / "table") == {}
    (tmp_path / "table.guard.json").write_text(found)
    assert kept_trusts(tmp_path / "table") == {}


@pytest.mark.process
def test_a_table_is_corrected_where_what_the_guard_found_cannot_be_written(tmp_path):
    times, log, path = service_s(), tmp_path / "log", tmp_path / "table"
    path.with_name("table.guard.json").mkdir()
    with engine_with(table_json(shuffled(times))) as url:
        router = Router(url, path, Settings(), log)
        router.sync()
        before, rng = path.read_bytes(), np.random.default_rng(1)
        log.write_text("")
        router.judge()
        log.write_text(log_lines(times, 3000, rng))
        assert router.judge()
    assert path.read_bytes() != before


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_in_envoy_requests_leave_a_host_that_is_slower_than_predicted(tmp_path, free_ports):
    """One host of three is ten times slower than the others, and predicted to be ten times faster."""
    times, log, path = np.array([[0.02, 0.02, 0.2]]), tmp_path / "log", tmp_path / "table"
    names = ["h00", "h01", "h02"]
    table = {
        **table_json(times),
        "hosts": [{"name": name, "weight": 1.0, "slots": 2} for name in names],
        "categories": ["GET /c0", "other"],
        "throughput_rps": [[100.0, 100.0, 1000.0], [None] * 3],
        "latency_p50_s": [[0.02, 0.02, 0.002], [None] * 3],
        "success_rate": [[1.0] * 3, [None] * 3],
    }
    port, admin = free_ports(2)
    with running_fleet(SleepingScenario(times, np.array([1.0]), 2, 1.0)) as hosts, engine_with(table) as url:
        router = Router(url, path, Settings(), log)
        router.sync()
        config = envoy_config(hosts, log, "127.0.0.1", port, admin, "fingerpost", table=path)
        with running_envoy(config, tmp_path, admin), following(router), ThreadPoolExecutor(4) as pool:
            deadline, last = time.monotonic() + 60, ["h02"]
            while last.count("h02") > 0.1 * len(last):
                assert time.monotonic() < deadline, Counter(last)
                list(pool.map(lambda _: httpx.get(f"http://127.0.0.1:{port}/c0", trust_env=False), range(20)))
                last = [json.loads(line)["host"] for line in log.read_bytes().splitlines()[-40:]] or last
    state = json.loads(path.with_name("table.guard.json").read_text())
    assert max(state["hosts"], key=lambda name: state["hosts"][name]["cost"]) == "h02"


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_in_envoy_requests_leave_a_class_that_becomes_slower_and_come_back(tmp_path, free_ports):
    """A third of the hosts takes five times as long for a while; predictions never know of it, nor of any slots."""
    names, log, path = [f"h{number:02}" for number in range(6)], tmp_path / "log", tmp_path / "table"
    times, slow, none = np.full((1, 6), 0.02), {"h00", "h03"}, [None] * 6
    table = {
        **table_json(times),
        "hosts": [{"name": name, "weight": 1.0, "slots": None} for name in names],
        "categories": ["GET /c0", "other"],
        "throughput_rps": [[200.0] * 6, none],
        "latency_p50_s": [[0.02] * 6, none],
        "success_rate": [[1.0] * 6, none],
    }
    port, admin = free_ports(2)
    fleet = SleepingScenario(times, np.array([1.0]), 4, 1.0)
    with running_fleet(fleet, tells=False) as hosts, engine_with(table) as url:
        router = Router(url, path, Settings(), log)
        router.sync()
        config = envoy_config(hosts, log, "127.0.0.1", port, admin, "fingerpost", table=path)
        with (
            running_envoy(config, tmp_path, admin),
            following(router),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
            ThreadPoolExecutor(16) as pool,
        ):

            def until(fits):
                deadline, share = time.monotonic() + 90, None
                while share is None or not fits(share):
                    assert time.monotonic() < deadline, share
                    list(pool.map(lambda _: client.get("/c0"), range(100)))
                    last = [json.loads(line)["host"] for line in log.read_bytes().splitlines()[-100:]]
                    share = sum(name in slow for name in last) / max(len(last), 1)

            until(lambda share: share > 0.25)
            for host in hosts:
                if host.name in slow:
                    make_sick(host, Sickness(1.0, 0.1, status=200))
            until(lambda share: share < 0.12)
            for host in hosts:
                make_sick(host, Sickness())
            until(lambda share: share > 0.25)
