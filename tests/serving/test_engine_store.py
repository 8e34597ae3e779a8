"""The fingerprint store on both databases, and what it does when its file is locked, full or gone."""

import contextlib
import random
import resource
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fingerpost.announcement import DRAINING, REMOVED, SERVING, Announcement, Notice
from fingerpost.serving.members import Members
from fingerpost.serving.report_log import ReportLog, SavedState
from fingerpost.serving.store import Arrival, Limits, ReportStore, StoreError
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.process

LIMITS = Limits(hosts=50, services=3, ttl_us=60_000_000)


def arrival(host="h1", sequence=1, time_us=1_000, service="shop", received_us=None, **about):
    known = {"boot_id": "b1", "end_us": 0, "packed": b"x", "reporter": host, **about}
    received_us = time_us if received_us is None else received_us
    return Arrival(service=service, host=host, sequence=sequence, time_us=time_us, received_us=received_us, **known)


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_postgres(tmp_path_factory.mktemp("postgres"), port) as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    url = request.getfixturevalue("postgres_url")
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table if exists hosts, reports, states, landings, report_changes, members")
    return url


@pytest.fixture
def store(url):
    store = ReportStore(url, LIMITS)
    yield store
    store.close()


def test_only_what_is_newer_is_stored(store):
    assert store.put([arrival(sequence=5, time_us=500)]) == [None]
    replayed = arrival(sequence=5, time_us=600)
    out_of_order = arrival(sequence=4, time_us=700)
    another_life_but_older = arrival(sequence=0, time_us=500, boot_id="b2")
    assert store.put([replayed, out_of_order, another_life_but_older]) == ["stale"] * 3
    assert store.put([arrival(sequence=0, time_us=501, boot_id="b2")]) == [None]
    assert [row.time_us for row in store.changed("shop", 0)] == [500, 501]


def test_a_window_that_an_agent_reads_again_after_a_crash_is_not_taken_twice(store):
    assert store.put([arrival(sequence=5, time_us=500, end_us=400), arrival(sequence=6, time_us=600)]) == [None] * 2
    again = arrival(sequence=0, time_us=700, end_us=400, boot_id="b2")
    assert store.put([again, arrival(sequence=1, time_us=700, end_us=500, boot_id="b2")]) == ["stale", None]


def test_hosts_are_announced_listed_and_removed(store):
    members = Members(store, LIMITS, 3600_000_000, 0)
    about = Announcement("10.0.0.7:8000", "east", "big", 8, 3.5)
    assert store.put([arrival("h2", 1)]) == [None]
    assert members.take(Notice("shop", "h1", boot_id="b1", about=about), 1_000) == SERVING
    [change] = members.changed("shop", 1)
    assert (change.host, change.about) == ("h1", about)
    assert [each["host"] for each in members.listing("shop")] == ["h1", "h2"]
    members.take(Notice("shop", "h2", REMOVED), 2_000)
    members.take(Notice("shop", "h1", DRAINING), 2_000)
    assert [(each["host"], each["state"]) for each in members.listing("shop")] == [("h1", DRAINING)]
    assert members.purge(70_000_000) == 1
    assert members.listing("shop") == []


@pytest.mark.parametrize("back_us", [1, 2_000_000, 3600_000_000])
def test_a_clock_that_was_set_back_stops_nobody(store, back_us):
    """Ours and the agents' were ahead, and are right again: what is stored lies in the future."""
    ahead_us, now_us = 10**13 + back_us, 10**13
    assert store.put([arrival("h1", 5, ahead_us), arrival("h2", 5, ahead_us)]) == [None, None]
    # An agent that lives on counts on; one that begins anew is later than a time that cannot be.
    beyond = back_us > LIMITS.skew_us
    begun_anew = arrival("h2", 0, now_us, boot_id="b2")
    assert store.put([arrival("h1", 6, now_us), begun_anew]) == [None, None if beyond else "stale"]
    assert store.put([arrival("h1", 6, now_us + 1), arrival("h1", 5, now_us + 2)]) == ["stale"] * 2
    rows = {row.host: row for row in store.changed("shop", 0)}  # of each host its last
    assert (rows["h1"].time_us, rows["h1"].first_seen_us) == (now_us, now_us)
    assert rows["h2"].time_us == (now_us if beyond else ahead_us)


def test_silent_hosts_of_the_future_age_from_now_on(store):
    now_us = 10**13
    store.put([arrival("gone", time_us=now_us + 10**10), arrival("here", time_us=now_us)])
    store.bring_back(now_us)
    assert {host: times for _, host, _, *times in store.hosts()} == {"gone": [now_us] * 2, "here": [now_us] * 2}
    assert store.purge(now_us + 1) == 2


def test_a_batch_is_in_order_by_itself(store):
    answers = store.put(
        [arrival(sequence=1, time_us=1), arrival(sequence=3, time_us=3), arrival(sequence=2, time_us=2)]
    )
    assert answers == [None, None, "stale"]
    assert [row.time_us for row in store.changed("shop", 0)] == [1, 3]


def test_changes_are_pulled_once(store):
    store.put([arrival("h1"), arrival("h2")])
    mark = store.mark()
    assert {row.host for row in store.changed("shop", 0)} == {"h1", "h2"}
    assert store.changed("shop", mark.change) == []
    store.put([arrival("h2", sequence=2, time_us=2_000)])
    assert [row.host for row in store.changed("shop", mark.change)] == ["h2"]
    assert store.mark().epoch == mark.epoch


def test_hosts_and_services_are_bounded(store):
    answers = store.put([arrival(f"h{number}") for number in range(60)])
    assert answers == [None] * 50 + ["hosts:too_many"] * 10
    answers = store.put([arrival(service=f"s{number}") for number in range(4)])
    assert answers == [None, None, "services:too_many", "services:too_many"]
    assert store.services() == {"shop": 50, "s0": 1, "s1": 1}


def test_a_host_that_comes_back_is_new(store):
    store.put([arrival(time_us=1_000, sequence=1)])
    store.put([arrival(time_us=2_000, sequence=2)])
    store.put([arrival(time_us=100_000_000, sequence=3)])
    assert [row.first_seen_us for row in store.changed("shop", 0)] == [1_000, 1_000, 100_000_000]


def test_a_host_is_one_however_many_report_on_it(store):
    proxies = [arrival(reporter=f"edge-{number}", sequence=3) for number in range(70)]
    assert store.put([arrival(), *proxies]) == [None] * 64 + ["reporters:too_many"] * 7
    assert store.services() == {"shop": 1}
    # Each of them numbers its own reports.
    assert store.put([arrival(sequence=2, time_us=2_000), arrival(reporter="edge-1", sequence=2)]) == [None, "stale"]
    assert len(store.hosts()) == 1


def test_reports_go_once_they_are_landed_and_in_the_state_of_their_host(store):
    log = ReportLog(store, "one")
    store.put([arrival("h1", number, number + 1) for number in range(5)])
    store.put([arrival("h2", number, number + 1) for number in range(5)])

    def left():
        return [row.change for row in store.changed("shop", 0)]

    store.trim(0, 0)
    assert left() == list(range(1, 11))
    assert log.unlanded() == ["shop"]
    assert log.claim("shop", 10**13, 10**6) == 0
    log.note_landed("shop", 10)
    log.save("shop", [SavedState("h1", 3, b"state")])
    log.save("shop", [SavedState("h1", 2, b"older")])
    assert (log.states("shop"), log.unlanded()) == ([SavedState("h1", 3, b"state")], [])
    store.trim(0, 0)
    assert left() == list(range(4, 11))
    # Of a service that nobody asks for, nobody saves states: its reports go by age, but for the last of each host.
    store.trim(10, 0)
    assert left() == [5, 10]
    store.purge(10)
    assert (log.states("shop"), store.services()) == ([], {})
    store.trim(10, 0)
    assert left() == []


def test_one_process_at_a_time_lands_a_service(store):
    now_us, hold_us = 10**13, 10**6
    one, two = ReportLog(store, "one"), ReportLog(store, "two")
    assert one.claim("shop", now_us, hold_us) == 0
    assert two.claim("shop", now_us, hold_us) is None
    one.note_landed("shop", 7)
    assert one.claim("shop", now_us + 1, hold_us) == 7
    assert two.claim("shop", now_us + 2 * hold_us, hold_us) == 7
    assert one.claim("shop", now_us + 2 * hold_us, hold_us) is None
    # The clock was set back by an hour: nobody waits for it to return.
    assert one.claim("shop", now_us - 3600 * 10**6, hold_us) == 7


def test_silent_hosts_are_removed(store):
    store.put([arrival("h1", received_us=10), arrival("h2", received_us=20)])
    assert store.purge(15) == 1
    assert [host for _, host, *_ in store.hosts()] == ["h2"]


def test_writers_at_once_lose_nothing_and_number_in_order(url):
    stores = [ReportStore(url, LIMITS) for _ in range(3)]

    def write(store, name):
        for number in range(20):
            store.put([arrival(f"{name}-{number % 5}", sequence=number, time_us=number + 1)])

    threads = [threading.Thread(target=write, args=(store, f"w{place}")) for place, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = stores[0].changed("shop", 0)
    assert stores[0].mark().change == 60
    assert [row.change for row in rows] == list(range(1, 61))
    assert stores[0].services() == {"shop": 15}
    for store in stores:
        store.close()


def test_workers_that_make_the_file_at_once_all_open_it(tmp_path):
    for number in range(40):
        stores = [ReportStore(f"sqlite:///{tmp_path / f'{number}.db'}", LIMITS) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            marks = list(pool.map(ReportStore.mark, stores))
        assert len({mark.epoch for mark in marks}) == 1
        for store in stores:
            store.close()


@pytest.mark.process
def test_a_locked_database_is_an_error_and_then_is_not(tmp_path):
    path = tmp_path / "store.db"
    store = ReportStore(f"sqlite:///{path}", LIMITS)
    store.put([arrival()])
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        store.put([arrival("h2")])
    assert "locked" in store.problem
    blocker.execute("ROLLBACK")
    store.purge(0)
    store.bring_back(10**15)
    assert "locked" in store.problem  # they had nothing to write
    assert store.put([arrival("h2")]) == [None]
    assert store.problem is None


def test_a_deleted_database_is_made_anew(tmp_path):
    path = tmp_path / "store.db"
    store = ReportStore(f"sqlite:///{path}", LIMITS)
    store.put([arrival()])
    before = store.mark()
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    assert store.put([arrival()]) == [None]
    assert store.mark().epoch != before.epoch


def overwritten(path):
    with path.open("r+b") as file:
        file.write(b"\xff" * 4096)


def cut(path):
    path.with_name("store.db-wal").write_bytes(bytes(100_000))
    with path.open("r+b") as file:
        file.truncate(100)


def replaced_by_random_bytes(path):
    path.with_name("other").write_bytes(random.Random(1).randbytes(50_000))
    path.with_name("other").replace(path)


def damaged_inside(path):
    pages = bytearray(path.read_bytes())
    pages[100:] = random.Random(2).randbytes(len(pages) - 100)
    path.write_bytes(pages)


@pytest.mark.process
@pytest.mark.parametrize("damage", [overwritten, cut, replaced_by_random_bytes, damaged_inside])
@pytest.mark.parametrize("at_start", [True, False], ids=["at the start", "in use"])
def test_a_damaged_database_is_set_aside_once_and_made_anew(tmp_path, caplog, damage, at_start):
    path = tmp_path / "store.db"
    stores = [ReportStore(f"sqlite:///{path}", LIMITS) for _ in range(3)]
    stores[0].put([arrival(packed=bytes(20_000))])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for store in stores if at_start else ():
        store.close()
    damage(path)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda store: store.put([arrival("h2")]), stores))
    assert sorted(map(str, answers)) == sorted(map(str, [[None], ["stale"], ["stale"]]))
    assert [store.services() for store in stores] == [{"shop": 1}] * 3
    assert [store.problem for store in stores] == [None] * 3
    (aside,) = tmp_path.glob("store.db.damaged-*")
    assert [line for line in caplog.messages if "damaged" in line and aside.name in line] != []
    assert sum("damaged" in line for line in caplog.messages) == 1
    for store in stores:
        store.close()


def test_of_files_that_were_damaged_a_few_are_kept(tmp_path):
    path = tmp_path / "store.db"
    store = ReportStore(f"sqlite:///{path}", LIMITS)
    for _ in range(5):
        store.put([arrival()])
        store.close()
        path.write_bytes(b"\xff" * 5000)
    assert store.put([arrival()]) == [None]
    assert len(list(tmp_path.glob("store.db.damaged-*"))) == 3
    store.close()


def test_a_full_disk_is_an_error_and_then_is_not(tmp_path):
    store = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", LIMITS)
    store.put([arrival()])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(StoreError):
            for number in range(50):
                store.put([arrival(f"h{number}", sequence=2, time_us=2_000, packed=bytes(20_000))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, heard)
    assert store.put([arrival(sequence=9, time_us=9_000)]) == [None]


@pytest.mark.process
def test_an_unreachable_postgresql_is_an_error(free_ports):
    store = ReportStore(f"postgresql://fp@127.0.0.1:{free_ports(1)[0]}/none", LIMITS)
    with pytest.raises(StoreError):
        store.mark()
