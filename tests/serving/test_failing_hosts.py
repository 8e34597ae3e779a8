"""A host that fails fast, from its spans to the answer of the engine: it never draws traffic to itself."""

import json
import random
from pathlib import Path

import pytest

from fingerpost.agent.ended_windows import Numbering
from fingerpost.agent.host_history import HostHistory
from fingerpost.agent.options import AgentOptions
from fingerpost.agent.otlp import JSON, parse_traces
from fingerpost.category import category_key, fit_categories
from fingerpost.clock import US, clock_us
from fingerpost.serving.answers import route
from fingerpost.serving.api_models import RouteRequest
from fingerpost.serving.store import Limits, ReportStore
from fingerpost.settings import Settings
from tests.serving.test_refresh import arrival, made_refresher
from tests.support.records import sample
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process
WINDOW_S, HALFLIFE_S, SPANS = 5.0, 20.0, 1200
SERVES_S, FAILS_S = 0.02, 0.001
TABLE = fit_categories([(category_key("GET", "/work", "0", "none", "other", "none"), 100)], 10, 1)


def span(end_ns, seconds, status):
    told = {"http.request.method": {"stringValue": "GET"}, "url.path": {"stringValue": "/work"}}
    told["http.response.status_code"] = {"intValue": str(status)}
    attributes = [{"key": key, "value": value} for key, value in told.items()]
    begin_ns = end_ns - round(seconds * 1e9)
    return {"kind": 2, "startTimeUnixNano": str(begin_ns), "endTimeUnixNano": str(end_ns), "attributes": attributes}


def reports_of(host, share, status, now_us):
    """What a host's agent sends after a minute of 20 requests a second, of which that share fails at once."""
    rng, spans = random.Random(host), []
    for number in range(SPANS):
        bad = rng.random() < share
        seconds = (FAILS_S if bad else SERVES_S) * rng.uniform(0.9, 1.1)
        spans.append(span((now_us - number * 50_000) * 1000, seconds, status if bad else 200))
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()
    found = parse_traces(body, JSON, service="bh", host=host)
    assert len(found.records) == SPANS
    own = HostHistory(TABLE, WINDOW_S, HALFLIFE_S)
    own.add_requests(found.records)
    for second in range(60):
        own.add_sample(sample(time=now_us - second * US, service="bh", host=host, inflight=None, slots=4))
    own.close(now_us)
    options = AgentOptions(Path(), "bh", host, window_s=WINDOW_S, deliver="engine")
    return Numbering(options, "b").reports(own.ended, TABLE.version, None, now_us)


@pytest.mark.parametrize(("share", "status"), [(0.2, 500), (0.6, 500), (0.6, 404), (0.95, 503), (1.0, 500)])
def test_a_host_that_fails_fast_is_never_cheaper_than_its_healthy_neighbour(tmp_path, share, status):
    settings = Settings(home=tmp_path, table_refresh_s=0.1, window_s=WINDOW_S, halflife_s=HALFLIFE_S)
    store = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(100, 3, 600 * US))
    now_us = clock_us()
    for host, fails in (("well", 0.0), ("failing", share)):
        store.put([arrival(each) for each in reports_of(host, fails, status, now_us)])
    refresher = made_refresher(store, settings)
    refresher.start()
    try:
        wait_for(lambda: (view := refresher.view("bh")) and view.published and len(view.published.table.hosts) == 2)
        asked = RouteRequest(service="bh", request={"method": "GET", "path": "/work"})
        answer = route(refresher.view("bh").published.table, asked, settings.latency_weight)
    finally:
        refresher.stop()
        store.close()
    cost = answer["costs"]
    if status >= 500:
        assert answer["host"] == "well"
        assert cost["failing"] is None or cost["failing"] > 1.2 * cost["well"]
    else:  # the client's fault: neither dearer for it, nor cheaper
        assert cost["failing"] == pytest.approx(cost["well"], rel=0.05)
