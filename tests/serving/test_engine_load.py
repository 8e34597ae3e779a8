"""What the engine does when much comes at once: bounded memory, plain refusals, and a loop that is watched."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from fingerpost.packed_message import message
from fingerpost.serving import ingest as door
from fingerpost.serving.bento_compat import keep_in_memory
from fingerpost.serving.health import RefusalRate
from fingerpost.serving.ingest import BusyError, Ingest
from fingerpost.serving.metrics import LoopLag
from fingerpost.serving.store import Limits, ReportStore
from fingerpost.settings import Settings
from tests.support.made_fleet import MadeFleet

LIMITS = Limits(hosts=5000, services=3, ttl_us=60_000_000)


class Held(ReportStore):
    """A store that answers only when it is let, and notes how much it was given at once."""

    def __init__(self, url):
        super().__init__(url, LIMITS)
        self.let, self.groups = threading.Event(), []

    def put(self, arrivals):
        self.let.wait(30)
        self.groups.append(sum(len(arrival.packed) for arrival in arrivals))
        return super().put(arrivals)


@pytest.fixture
def store(tmp_path):
    store = Held(f"sqlite:///{tmp_path / 'store.db'}")
    yield store
    store.let.set()
    store.close()


@pytest.fixture
def ingest(store):
    counts = SimpleNamespace(refused=lambda *_: None, received=lambda *_: None, store_failed=lambda: None)
    ingest = Ingest(store, Settings(), counts, RefusalRate())
    ingest.start()
    yield ingest
    store.let.set()
    ingest.stop()


@pytest.mark.process
def test_what_waits_is_bounded_by_its_bytes(store, ingest, monkeypatch):
    bodies = MadeFleet.make(30, 20).packed_messages(1)
    monkeypatch.setattr(door, "_MAX_WAITING_BYTES", 10 * len(bodies[0]))

    async def send():
        waiting = [asyncio.create_task(ingest.accept(body)) for body in bodies]
        await asyncio.sleep(0.3)
        refused = [each for each in waiting if each.done()]
        store.let.set()
        receipts = await asyncio.gather(*waiting, return_exceptions=True)
        after = await ingest.accept(bodies[-1])
        return refused, receipts, after

    refused, receipts, after = asyncio.run(send())
    assert len(refused) >= 18
    assert all(isinstance(each.exception(), BusyError) for each in refused)
    assert sum(each.accepted for each in receipts if not isinstance(each, BusyError)) == 30 - len(refused)
    assert (after.accepted, ingest._waiting_bytes) == (1, 0)


@pytest.mark.process
def test_what_is_stored_at_once_is_bounded_by_its_bytes(store, ingest, monkeypatch):
    fleet = MadeFleet.make(40, 20)
    packed = fleet.packed(1)
    monkeypatch.setattr(door, "_MAX_GROUP_BYTES", 5 * len(packed[0]))

    async def send():
        waiting = [asyncio.create_task(ingest.accept(message([each]))) for each in packed]
        await asyncio.sleep(0.2)
        store.let.set()
        return await asyncio.gather(*waiting)

    assert sum(receipt.accepted for receipt in asyncio.run(send())) == 40
    assert len(store.groups) >= 6
    assert max(store.groups) <= 7 * max(map(len, packed))


@pytest.mark.process
def test_a_caller_who_goes_away_is_no_longer_counted(store, ingest):
    (body,) = MadeFleet.make(1, 5).packed_messages(1)

    async def send():
        waiting = asyncio.create_task(ingest.accept(body))
        await asyncio.sleep(0.1)
        waiting.cancel()
        store.let.set()
        while ingest._waiting_bytes:
            await asyncio.sleep(0.01)
        return await ingest.accept(body)

    assert asyncio.run(send()).stale == 1


def test_a_loop_that_is_held_up_is_told():
    told = []

    async def hold_up():
        lag = LoopLag(told.append)
        lag.start()
        lag.start()
        await asyncio.sleep(0.12)
        time.sleep(0.4)
        await asyncio.sleep(0.12)

    asyncio.run(hold_up())
    assert max(told) > 0.3
    assert told[-1] == max(told)


@pytest.mark.process
def test_metrics_of_an_earlier_life_are_forgotten_and_those_of_other_workers_kept(tmp_path, monkeypatch):
    memory, given = tmp_path / "memory", tmp_path / "given"
    memory.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def worker():
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(given))
        keep_in_memory(memory)
        (folder,) = memory.iterdir()
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
        return folder

    given.mkdir()
    folder = worker()
    ours, theirs = folder / f"counter_{os.getpid()}.db", folder / f"counter_{gone.pid}.db"
    ours.touch()
    theirs.touch()
    # Another worker of the same life: a colleague that died has counted what it has.
    worker()
    assert ours.exists()
    assert theirs.exists()
    # The engine is started anew: BentoML has emptied the folder.
    for path in given.iterdir():
        path.unlink()
    worker()
    assert ours.exists()
    assert not theirs.exists()


def test_without_such_a_place_metrics_stay_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    keep_in_memory(tmp_path / "nowhere")
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path)
