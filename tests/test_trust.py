"""The guard in the router: bad predictions lose their weight by what the access log says, good ones keep it."""

import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fingerpost.settings import Settings
from routing.guard import compare, follow_trust, remember
from routing.outcomes import MOST_LINES, OutcomeLog
from routing.picker_table import predictions_from_json
from routing.router import Router
from routing.table_file import decode
from routing.trust import WINDOW_REQUESTS, TrustKeeper

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
    dice = np.random.default_rng(seed)
    return np.stack([row[dice.permutation(HOSTS)] for row in times])


def log_lines(times, count, dice, busy=0.3, **changes):
    """Lines of requests sent at random; of busy hosts they waited in line first, and took longer."""
    lines = []
    for _ in range(count):
        category, host = int(dice.integers(CATEGORIES)), int(dice.integers(HOSTS))
        waits = dice.random() < busy
        took = times[category, host] * dice.lognormal(-0.045, 0.3) * (dice.uniform(2, 6) if waits else 1)
        line = {
            "start": f"{time.time():.6f}",
            "host": NAMES[host],
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
    dice, found = np.random.default_rng(seed), []
    for _ in range(rounds):
        with log.open("a") as file:
            file.write(log_lines(times, 100, dice, **changes))
        keeper.look(predictions)
        found.append(keeper.trust)
    return found


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
        assert run(keeper, log, bad, times, 20, seed)[-1] == 0.0  # within 2,000 requests
        said = caplog.records[-1]
        assert (said.levelname, said.trust, said.model_version) == ("WARNING", 0.0, "1")
        # Another model is trusted when it has proven itself, and not before.
        new = predictions_from_json(table_json(times, "2"))
        assert not keeper.look(new)
        assert keeper.trust == 0.0
        assert run(keeper, log, new, times, 20, seed)[-1] == 1.0
        caplog.clear()


def test_the_setting_is_the_most_there_is(tmp_path):
    times, log = service_s(), tmp_path / "log"
    keeper = TrustKeeper(log, "shop", 0.5)
    assert set(run(keeper, log, predictions_from_json(table_json(times)), times, 10)) == {0.5}
    assert run(keeper, log, predictions_from_json(table_json(shuffled(times), "2")), times, 20)[-1] == 0.0


def test_predictions_that_are_followed_are_not_judged_by_chance(tmp_path):
    """Requests go to the best hosts of their category alone, which hardly differ, and scatter much."""
    times, log = service_s(), tmp_path / "log"
    best = np.argsort(times, axis=1)[:, :3]
    predictions, dice = predictions_from_json(table_json(times)), np.random.default_rng(7)
    keeper = TrustKeeper(log, "shop", 1.0)
    for _ in range(60):
        with log.open("a") as file:
            for _ in range(100):
                category = int(dice.integers(CATEGORIES))
                host = int(best[category, dice.integers(3)])
                took = times[category, host] * dice.exponential()
                line = {"path": f"/c{category}", "host": NAMES[host], "service_time_us": 1 + round(took * 1e6)}
                file.write(log_lines(times, 1, dice, busy=0.0, **line))
        keeper.look(predictions)
        assert keeper.trust == 1.0


@pytest.mark.parametrize("changes", [{"status": 503}, {"host": "h99"}, {"service_time_us": None}, {"inflight": 9}])
def test_what_tells_nothing_changes_nothing(tmp_path, changes):
    times, log = service_s(), tmp_path / "log"
    bad = predictions_from_json(table_json(shuffled(times)))
    assert set(run(TrustKeeper(log, "shop", 1.0), log, bad, times, 8, **changes)) == {1.0}


def test_hosts_that_do_not_tell_their_slots_are_not_judged(tmp_path):
    times, log = service_s(), tmp_path / "log"
    bad = predictions_from_json(table_json(shuffled(times), slots=None))
    assert set(run(TrustKeeper(log, "shop", 1.0), log, bad, times, 8, inflight=None)) == {1.0}


def test_a_log_that_outgrows_its_reader_is_passed_over(tmp_path):
    times, log = service_s(), tmp_path / "log"
    predictions = predictions_from_json(table_json(times))
    follower = OutcomeLog(log, "shop")
    line = log_lines(times, 1, np.random.default_rng(1), busy=0.0)
    log.write_text(line * (MOST_LINES + 5000) + "no line\n" + '{"host": "h1"}\n')
    assert follower.sums(predictions)[1].sum() == MOST_LINES
    assert follower.sums(predictions)[1].sum() == 0
    with log.open("a") as file:
        file.write(line * 3)
    assert follower.sums(predictions)[1].sum() == 3
    follower.close()


def test_trust_changes_only_where_the_evidence_says_so():
    dice = np.random.default_rng(1)
    x = dice.normal(0, 0.4, (12, 6))
    counts = np.full(x.shape, 30.0)

    def evidence(slope):
        measured = counts * np.exp(slope * x + dice.normal(0, 0.05, x.shape))
        return remember(None, compare(np.exp(x), measured, counts), 1)

    assert follow_trust(None, 0.7) == 0.7
    assert follow_trust(evidence(1.0), 0.3) == 1.0
    assert follow_trust(evidence(-1.0), 1.0) == 0.0
    assert 0.3 < follow_trust(evidence(0.5), 1.0) < 0.6
    few = remember(None, compare(np.exp(x[:1]), counts[:1], counts[:1]), 1)
    assert follow_trust(few, 0.7) == 0.7


def test_the_router_writes_what_is_still_trusted(tmp_path):
    """The engine's table is shuffled: the file's costs end up alike for all hosts, without another table."""
    times, log, path = service_s(), tmp_path / "log", tmp_path / "table"
    body = json.dumps(table_json(shuffled(times))).encode()

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
    stop = threading.Event()
    router = Router(f"http://127.0.0.1:{server.server_port}", path, Settings(), log)
    router.sync()
    assert np.ptp(decode(path.read_bytes()).slope[0, 0]) > 0.001
    thread = threading.Thread(target=router.follow, args=(stop,))
    thread.start()
    dice, deadline = np.random.default_rng(1), time.monotonic() + 20
    try:
        while np.ptp(decode(path.read_bytes()).slope[0, 0]) > 1e-9:
            assert time.monotonic() < deadline
            with log.open("a") as file:
                file.write(log_lines(times, WINDOW_REQUESTS, dice))
            time.sleep(0.1)
        table = decode(path.read_bytes())
        assert np.ptp(table.slope[0, :-1], axis=1).max() < 1e-9
        assert table.expires_us > (time.time() + 50) * 1e6
    finally:
        stop.set()
        thread.join(10)
        router.close()
        server.shutdown()
        server.server_close()
