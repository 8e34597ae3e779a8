"""Tables are kept for services that are asked for, and only for those."""

import time

import pytest
from prometheus_client import REGISTRY

from bench.engine_fleet import MadeFleet
from fingerpost.fingerprint import pack
from fingerpost.settings import Settings
from serving import refresh
from serving.categories import Categories
from serving.metrics import engine_metrics
from serving.refresh import Refresher
from serving.store import Arrival, FingerprintStore, Limits


def said(name):
    return REGISTRY.get_sample_value(f"fingerpost_engine_{name}", {"service": "forgotten"})


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def refresher(tmp_path):
    settings = Settings(home=tmp_path, table_refresh_s=0.1)
    store = FingerprintStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(100, 3, 60_000_000))
    now_us = time.time_ns() // 1000
    made = MadeFleet.make(4, 3, "forgotten")
    told = [made.fingerprint(host, 1, now_us) for host in range(4)]
    store.put(
        [Arrival(each.service, each.host, each.boot_id, each.sequence, now_us, now_us, pack(each)) for each in told]
    )
    refresher = Refresher(store, settings, engine_metrics(), Categories(settings.lake))
    refresher.start()
    yield refresher
    refresher.stop()
    store.close()


def test_of_a_service_that_is_no_longer_asked_for_metrics_say_nothing(refresher, monkeypatch):
    wait_for(lambda: refresher.view("forgotten"))
    wait_for(lambda: said("hosts") == 4.0 and said("prediction_age_seconds") > 0)
    monkeypatch.setattr(refresh, "_IDLE_S", 0.0)
    wait_for(lambda: said("hosts") == 0.0)
    assert refresher.services() == []
    assert (said("table_age_seconds"), said("prediction_age_seconds")) == (0.0, 0.0)
