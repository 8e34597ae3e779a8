"""What fails or is refused fast makes no host look fast, wherever its requests are known from."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from fingerpost.accesslog.formats import LOG_FORMATS
from fingerpost.agent.host_history import HostHistory
from fingerpost.agent.otlp import parse_traces
from fingerpost.category import CategoryTable
from fingerpost.clock import US
from fingerpost.routing.picker_table import picker_cells
from fingerpost.settings import Settings
from fingerpost.telemetry.history import HISTORY_COLUMNS
from tests.agent.test_otlp import request
from tests.support.records import sample

BEGIN_S, WINDOW_S, GOOD_S, FAST_S = 1_795_678_000, 10.0, 0.02, 0.001
THROUGHPUT = HISTORY_COLUMNS.index("throughput_rps_ewma")
AGENT = '"Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0.0.0"'


def envoy(status, took_s, end_s):
    line = {"host": "h1", "start": f"{end_s - took_s:.6f}", "method": "GET", "path": "/a", "status": status}
    line |= {"bytes_in": 0, "bytes_out": 1, "duration_us": round(took_s * US), "service_time_us": round(took_s * US)}
    return LOG_FORMATS["envoy"].parse(json.dumps(line).encode(), "shop", None)


def nginx(status, took_s, end_s):
    at = datetime.fromtimestamp(end_s, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    line = (
        f'10.0.0.1 - - [{at}] "GET /a HTTP/1.1" {status} 1 "-" {AGENT} rt={took_s:.3f} urt={took_s:.3f} end={end_s:.3f}'
    )
    return LOG_FORMATS["combined"].parse(line.encode(), "shop", "h1")


def haproxy(status, took_s, end_s):
    at = datetime.fromtimestamp(end_s - took_s).astimezone().strftime("%d/%b/%Y:%H:%M:%S.%f")[:-3]
    took_ms = round(took_s * 1000)
    line = (
        f"10.0.1.2:33317 [{at}] in static/h1 0/0/0/{took_ms}/{took_ms} {status} 27 - - ---- 1/1/1/1/0 0/0 "
        '"GET /a HTTP/1.1"'
    )
    return LOG_FORMATS["haproxy"].parse(line.encode(), "shop", None)


def spans(status, took_s, end_s):
    made = request({"http.request.method": "GET", "url.path": "/a", "http.response.status_code": status})
    (span,) = made.resource_spans[0].scope_spans[0].spans
    span.start_time_unix_nano, span.end_time_unix_nano = (round(at * 1e9) for at in (end_s - took_s, end_s))
    (row,) = parse_traces(made.SerializeToString()).records
    return row


def throughput(reader, rows):
    """Requests a second that the host is taken to serve, by the baseline's forecast, and the picker's slope of it."""
    history = HostHistory(CategoryTable(), WINDOW_S, 60.0)
    history.add_requests([reader(status, took_s, BEGIN_S + 1 + number / 100) for number, (status, took_s) in rows])
    history.add_sample(sample(time=BEGIN_S * US + 5 * US, cores=4.0, slots=4, cpu_util=0.1, inflight=1))
    history.close((BEGIN_S + 30) * US)
    return float(np.exp(history.history.columns()[0, 0, THROUGHPUT]))


@pytest.mark.parametrize("reader", [envoy, nginx, haproxy, spans])
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_reader_measures_nothing_of_what_fails_or_is_refused_fast(reader, status):
    good = [(200, GOOD_S)] * 40
    fast = [(status, FAST_S)] * 200
    assert throughput(reader, enumerate(good + fast)) == pytest.approx(throughput(reader, enumerate(good)))


def test_what_is_not_measured_gets_the_categorys_median_and_no_more():
    """A host that only refuses has no throughput of its own."""
    rate = np.array([[np.nan, 50.0, 100.0, 200.0]])
    slope, _ = picker_cells(rate, np.zeros(rate.shape), np.ones(rate.shape), np.ones(4), Settings())
    assert slope[0, 0] == pytest.approx(1 / 100.0)
