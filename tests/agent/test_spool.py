"""The spool and the sender, against a real HTTP server that comes and goes."""

import pytest

from fingerpost.agent.sender import Sender, Target
from fingerpost.agent.spool import Spool
from fingerpost.tokens import TokenFile
from tests.support.agent_harness import Engine, packet
from tests.support.waiting import wait_for


@pytest.fixture
def engine():
    made = Engine()
    yield made
    made.stop()


def test_a_spool_keeps_order_over_restarts(tmp_path):
    spool = Spool(tmp_path, 10**6)
    for number in range(3):
        spool.put(bytes([number]))
    spool.remove([0])
    again = Spool(tmp_path, 10**6)
    again.put(b"\3")
    assert again.oldest(10, 10**6) == [(1, b"\1"), (2, b"\2"), (3, b"\3")]
    assert again.oldest(10, 2) == [(1, b"\1"), (2, b"\2")]
    assert len(again.oldest(10, 0)) == 1


def test_a_full_spool_drops_the_oldest_and_counts(tmp_path):
    spool = Spool(tmp_path, 10)
    for number in range(5):
        spool.put(bytes([number]) * 4)
    assert [content[0] for _, content in spool.oldest(10, 100)] == [3, 4]
    assert (spool.dropped, spool.size) == (3, 8)


def test_what_a_person_removed_from_the_spool_is_no_error(tmp_path):
    spool = Spool(tmp_path, 100)
    spool.put(b"a")
    spool.put(b"b")
    next(iter(sorted(tmp_path.iterdir()))).unlink()
    assert [content for _, content in spool.oldest(10, 100)] == [b"b"]
    assert len(spool) == 1


@pytest.mark.process
def test_reports_arrive_in_order_with_the_token(tmp_path, engine):
    sender = Sender(Spool(tmp_path, 10**6), Target(f"http://127.0.0.1:{engine.port}/base/", "secret"))
    sender.start()
    for number in range(5):
        sender.put(packet(number))
    wait_for(lambda: len(engine.sequences) == 5)
    sender.stop()
    assert engine.sequences == [0, 1, 2, 3, 4]
    path, headers = engine.headers[0]
    assert path == "/base/v1/reports"
    assert headers["Authorization"] == "Bearer secret"
    assert sender.counts["accepted"] == 5
    assert sender.state()["waiting"] == 0


@pytest.mark.process
def test_an_engine_that_is_away_or_ill_loses_nothing(tmp_path):
    first = Engine()
    sender = Sender(Spool(tmp_path, 10**6), Target(f"http://127.0.0.1:{first.port}"))
    first.status = 503
    sender.start()
    sender.put(packet(0))
    wait_for(lambda: sender.counts["failures"] >= 1)
    first.stop()
    for number in range(1, 4):
        sender.put(packet(number))
    assert sender.state()["waiting"] == 4
    assert sender.problem
    second = Engine(first.port)
    wait_for(lambda: second.sequences == [0, 1, 2, 3])
    wait_for(lambda: sender.problem is None)
    sender.stop()
    second.stop()


@pytest.mark.process
@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_keeps_everything_until_the_file_of_the_token_is_right(tmp_path, engine, status):
    (path := tmp_path / "token").write_text("the-old-one\n")
    engine.status = status
    sender = Sender(Spool(tmp_path / "spool", 10**6), Target(f"http://127.0.0.1:{engine.port}", TokenFile(path)))
    sender.start()
    sender.put(packet(0))
    wait_for(lambda: sender.counts["failures"] >= 1)
    assert sender.state()["waiting"] == 1
    path.write_text("the-new-one\n")
    engine.status = 200
    wait_for(lambda: engine.sequences == [0])
    sender.stop()
    sent = [headers["Authorization"] for _, headers in engine.headers]
    assert (sent[0], sent[-1]) == ("Bearer the-old-one", "Bearer the-new-one")


@pytest.mark.process
def test_what_was_not_sent_is_sent_by_the_next_life(tmp_path, engine):
    away = Sender(Spool(tmp_path, 10**6), Target("http://127.0.0.1:9"))
    away.start()
    away.put(packet(7))
    away.stop()
    later = Sender(Spool(tmp_path, 10**6), Target(f"http://127.0.0.1:{engine.port}"))
    later.start()
    later.put(packet(8))
    wait_for(lambda: engine.sequences == [7, 8])
    later.stop()


@pytest.mark.process
def test_what_the_engine_refuses_does_not_block_the_rest(tmp_path, engine):
    engine.status = 400
    sender = Sender(Spool(tmp_path, 10**6), Target(f"http://127.0.0.1:{engine.port}"))
    sender.start()
    sender.put(packet(0))
    wait_for(lambda: sender.counts["refused"] == 1)
    engine.status = 200
    sender.put(packet(1))
    wait_for(lambda: engine.sequences == [1])
    sender.stop()
