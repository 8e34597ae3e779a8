"""Spans are sent to a real receiver of OTLP where an endpoint is set, and nothing is imported where none is."""

import os
import subprocess
import sys

import pytest

from fingerpost.tracing import span
from tests.support.otlp_receiver import receiving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PROGRAM = f"""
from fingerpost.tracing import flush, span
with span("GET", {{"traceparent": "00-{TRACE}-00f067aa0ba902b7-01"}}, http_response_status__code=200) as present:
    present.name("GET /v1/page")
    with span("step one"):
        pass
try:
    with span("flow train", fingerpost_service="shop"):
        raise RuntimeError("postgresql://me:secret@db/x does not answer")
except RuntimeError:
    pass
flush()
"""


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def run(program, **env):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", program], env={**kept, **env}, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.process
def test_spans_come_to_the_collector_within_the_traces_they_belong_to(receiver):
    run(PROGRAM, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    spans = receiver.spans
    assert set(spans) == {"GET /v1/page", "step one", "flow train"}
    answered = spans["GET /v1/page"]
    assert answered.trace_id.hex() == TRACE
    assert answered.kind == 2, "a server's"
    assert {each.key: each.value.int_value for each in answered.attributes} == {"http.response.status_code": 200}
    assert spans["step one"].parent_span_id == answered.span_id
    failed = spans["flow train"]
    assert failed.parent_span_id == b""
    assert failed.status.code == 2
    assert "RuntimeError" in failed.status.message
    assert "secret" not in failed.status.message
    assert receiver.resources[0]["service.name"] == "fingerpost"


@pytest.mark.process
def test_nothing_is_sent_or_imported_without_an_endpoint_or_when_switched_off(receiver):
    said = f"{PROGRAM}\nimport sys\nprint('opentelemetry.sdk' in sys.modules)"
    assert run(said).stdout == "False\n"
    assert run(said, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_SDK_DISABLED="true").stdout == "False\n"
    assert receiver.spans == {}


@pytest.mark.process
def test_a_collector_that_is_away_ends_nothing():
    run(PROGRAM, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")


def test_a_span_without_an_endpoint_lets_errors_through(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    with pytest.raises(ValueError, match="so"), span("x") as present:
        present.note(fingerpost_hosts=3)
        raise ValueError("so")
