"""OpenTelemetry spans as request records: hand-made, by the real instrumentation, damaged, and in all encodings."""

import base64
import gzip
import json
import os
import random
import subprocess
import sys
import time

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from fingerpost.agent.otlp import JSON, MAX_BODY_BYTES, PROTOBUF, export_response, messages_in, parse_traces
from fingerpost.clock import clock_us
from fingerpost.errors import RefusedError
from fingerpost.records import REQUEST_RECORD, refusal

SERVER, CLIENT = 2, 3
BEGAN_NS = time.time_ns() - 10**9
DICE = random.Random(1)
STABLE = {
    "http.request.method": "POST",
    "http.route": "/users/{user_id}/orders",
    "url.path": "/users/42/orders",
    "http.response.status_code": 201,
    "http.request.body.size": 300,
    "http.response.body.size": 20,
    "user_agent.original": "curl/8.5.0",
    "server.address": "shop.example",
    "client.address": "203.0.113.9",
}
OLD = {
    "http.method": "POST",
    "http.route": "/users/<int:user_id>/orders",
    "http.target": "/users/42/orders?token=SECRET",
    "http.status_code": 201,
    "http.request_content_length": 300,
    "http.response_content_length": 20,
    "http.user_agent": "curl/8.5.0",
    "net.host.name": "shop.example",
    "http.client_ip": "203.0.113.9",
}
RESOURCE = {"service.name": "shop", "host.name": "h1", "service.instance.id": "i1"}


def put(pairs, attributes):
    for key, value in attributes.items():
        target = pairs.add(key=key).value
        if isinstance(value, list):
            for each in value:
                target.array_value.values.add().string_value = each
        else:
            kinds = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
            setattr(target, kinds[type(value)], value)


def request(*spans, resource=RESOURCE):
    """A body with server spans of these attributes, or spans given as (kind, attributes)."""
    made = ExportTraceServiceRequest()
    group = made.resource_spans.add()
    put(group.resource.attributes, resource)
    scope = group.scope_spans.add()
    for each in spans:
        kind, attributes = each if isinstance(each, tuple) else (SERVER, each)
        ids = {"trace_id": DICE.randbytes(16), "span_id": DICE.randbytes(8)}
        span = scope.spans.add(kind=kind, start_time_unix_nano=BEGAN_NS, **ids)
        span.end_time_unix_nano = BEGAN_NS + 12_500_000
        put(span.attributes, attributes)
    return made


def parse(*spans, **options):
    return parse_traces(request(*spans).SerializeToString(), **options)


def the_record(*spans, **options):
    found = parse(*spans, **options)
    assert (found.refused, found.skipped) == ({}, {})
    (row,) = found.records
    return row


def as_json(made):
    """OTLP's JSON, by its own rules: ids are hexadecimal."""
    tree = json_format.MessageToDict(made)
    for group in tree["resourceSpans"]:
        for span in group["scopeSpans"][0]["spans"]:
            for name in ("traceId", "spanId"):
                span[name] = base64.b64decode(span[name]).hex()
            span["kind"] = {"SPAN_KIND_SERVER": SERVER, "SPAN_KIND_CLIENT": CLIENT}[span["kind"]]
    return json.dumps(tree).encode()


@pytest.mark.parametrize("attributes", [STABLE, OLD], ids=["stable", "old"])
def test_a_server_span_becomes_a_record(attributes):
    row = the_record(attributes)
    now = clock_us()
    assert refusal(row, REQUEST_RECORD, now - 86_400 * 10**6, now + 10**6) is None
    assert row["time"] == (BEGAN_NS + 12_500_000) // 1000
    assert (row["service"], row["host"], row["method"], row["status"]) == ("shop", "h1", "POST", 201)
    assert (row["route"], row["bytes_in"], row["bytes_out"]) == ("/users/*/orders", 300, 20)
    assert (row["user_agent_class"], row["auth"], row["client"]) == ("library", "none", "203.0.113.9")
    assert row["duration_s"] == row["service_time_s"] == 0.0125


def test_without_a_route_the_path_gives_one():
    assert the_record({**STABLE, "http.route": ""})["route"] == "/users/*/orders"
    bare = {"http.method": "GET", "http.status_code": 200}
    assert the_record({**bare, "http.url": "https://x.example/a/42?q=SECRET"})["route"] == "/a/*"
    assert the_record({**bare, "http.route": "users/:id"})["route"] == "/users/*"
    assert the_record({**bare, "http.route": "/a" * 300})["route"].endswith("/*")
    assert parse(bare).refused == {"route:missing": 1}
    assert parse({**bare, "http.url": "http://[broken"}).refused == {"route:malformed": 1}


@pytest.mark.parametrize(
    "template",
    [
        *("/users/:id(.:format)", "/users/:id(\\d+)", "^users/(?P<pk>[0-9]+)/$", "/users/*rest", "/users/[id]"),
        *("/users/{id:[0-9]{4}}", "/users/$id", "/users/{id}:cancel", "GET /users/{id}", "GET shop.example/users/{id}"),
    ],
)
def test_templates_of_any_framework_give_the_route_that_logs_have(template):
    assert the_record({**STABLE, "http.route": template})["route"] == "/users/*"


def test_whose_records_they_are():
    made = request(STABLE, resource={"service.instance.id": "i1"})
    (row,) = parse_traces(made.SerializeToString()).records
    assert (row["service"], row["host"]) == (None, "i1")
    (row,) = parse_traces(request(STABLE, resource={}).SerializeToString(), service="s", host="h9").records
    assert (row["service"], row["host"]) == ("s", "h9")


def test_other_spans_are_skipped_and_bad_ones_refused_by_reason():
    found = parse(
        STABLE,
        (CLIENT, STABLE),
        (0, {}),
        {"rpc.system": "grpc"},
        {**STABLE, "http.response.status_code": "fine"},
        {**STABLE, "http.request.method": 5},
        {"http.request.method": "GET", "url.path": "/"},
    )
    assert len(found.records) == 1
    assert found.skipped == {"not_server": 2, "not_http": 1}
    assert found.refused == {"status:type": 1, "method:type": 1, "status:missing": 1}
    made = request(STABLE, STABLE)
    spans = made.resource_spans[0].scope_spans[0].spans
    spans[0].end_time_unix_nano = 0
    spans[1].end_time_unix_nano = BEGAN_NS - 10**9
    found = parse_traces(made.SerializeToString())
    assert found.refused == {"time:missing": 1}
    (row,) = found.records
    assert refusal(row, REQUEST_RECORD, 0, 2**62) == "duration_s:negative"


def test_a_request_that_ended_in_an_exception_is_an_error():
    bare = {"http.request.method": "GET", "url.path": "/"}
    assert the_record({**bare, "error.type": "ValueError"})["status"] == 500
    assert the_record({**bare, "error.type": "503"})["status"] == 503
    assert the_record({**bare, "http.status_code": "404"})["status"] == 404
    assert the_record({**bare, "http.status_code": 404.0})["status"] == 404


def test_captured_headers_give_the_auth_method_and_never_their_secrets():
    def auth(**headers):
        row = the_record({**STABLE, **{f"http.request.header.{name}": value for name, value in headers.items()}})
        assert "SECRET" not in repr(row)
        return row["auth"]

    assert auth(authorization=["Bearer SECRET"]) == "bearer"
    assert auth(authorization="Basic SECRET") == "basic"
    assert auth(authorization=["[REDACTED]"]) == "other"
    assert auth(x_api_key=["SECRET"]) == auth(**{"x-api-key": ["SECRET"]}) == "api-key"
    assert auth(cookie=["SECRET"]) == "cookie"
    assert auth(authorization=[]) == "none"
    assert the_record({**STABLE, "http.request.header.cf-ipcountry": ["de"]})["region"] == "DE"


@pytest.mark.process
def test_all_encodings_tell_the_same():
    made = request(STABLE, (CLIENT, STABLE), OLD)
    binary, text = made.SerializeToString(), as_json(made)
    plain = parse_traces(binary)
    assert len(plain.records) == 2
    assert parse_traces(text, f"{JSON}; charset=utf-8") == plain
    assert parse_traces(gzip.compress(binary), PROTOBUF, "gzip") == plain
    assert parse_traces(gzip.compress(binary[:50]) + gzip.compress(binary[50:]), PROTOBUF, "GZIP") == plain
    assert parse_traces(gzip.compress(text), JSON, "gzip") == plain
    assert parse_traces(b"") == parse_traces(b"{}", JSON)


@pytest.mark.parametrize(
    ("body", "content_type", "encoding", "reason"),
    [
        (b"\xff\xff", PROTOBUF, "", "body:malformed"),
        (b"\xff\xff", JSON, "", "body:malformed"),
        (b"[1]", JSON, "", "body:malformed"),
        (b"null", JSON, "", "body:malformed"),
        (b'{"resourceSpans": 5}', JSON, "", "body:malformed"),
        (b"[" * 10**5, JSON, "", "body:malformed"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\\ud800"}]}]}]}', JSON, "", "body:malformed"),
        (b"{}", "text/plain", "", "body:content_type"),
        (b"{}", JSON, "br", "body:encoding"),
        (b"no gzip", JSON, "gzip", "body:malformed"),
        (gzip.compress(b"{}", mtime=0)[:-4], JSON, "gzip", "body:malformed"),
        (gzip.compress(b"{}", mtime=0) + b"x", JSON, "gzip", "body:malformed"),
        (b" " * (MAX_BODY_BYTES + 1), JSON, "", "body:too_large"),
        (gzip.compress(b"\0" * 10**8, mtime=0), PROTOBUF, "gzip", "body:too_large"),
        (gzip.compress(b"\0" * 10**6, mtime=0) * 9, PROTOBUF, "gzip", "body:too_large"),
    ],
)
def test_a_bad_body_is_refused(body, content_type, encoding, reason):
    with pytest.raises(RefusedError) as refused:
        parse_traces(body, content_type, encoding)
    assert refused.value.reason == reason


values = st.text(max_size=8) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans()


@given(st.dictionaries(st.sampled_from([*STABLE, *OLD, "error.type", "http.request.header.cookie"]), values))
def test_any_attributes_make_a_record_or_a_reason(attributes):
    found = parse({**STABLE, **attributes}, attributes)
    assert len(found.records) + found.refused.total() + found.skipped.total() == 2
    for row in found.records:
        reason = refusal(row, REQUEST_RECORD, 0, 2**62)
        assert reason is None or ":" in reason


@pytest.mark.process
@given(st.data(), st.booleans())
def test_a_damaged_body_is_read_or_refused(data, text):
    made = request(STABLE, OLD)
    damaged = bytearray(as_json(made) if text else made.SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_traces(bytes(damaged), JSON if text else PROTOBUF)
    except RefusedError as error:
        assert error.reason == "body:malformed"


def test_the_sender_is_told_what_was_refused():
    answer = ExportTraceServiceResponse.FromString(export_response(PROTOBUF, 3, {"b:type", "a:missing"}))
    assert (answer.partial_success.rejected_spans, answer.partial_success.error_message) == (3, "a:missing, b:type")
    assert export_response(PROTOBUF) == b""
    assert json.loads(export_response(JSON)) == {}
    assert json.loads(export_response(JSON, 3))["partialSuccess"]["rejectedSpans"] == "3"


INSTRUMENTED = """
import asyncio, base64, sys
import httpx
from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

app = FastAPI()

@app.get("/users/{user_id}")
def user(user_id: int):
    return {"id": user_id}

def attributes(span):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in span.attributes.items()}

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
wrapped = OpenTelemetryMiddleware(app, tracer_provider=provider)

async def ask():
    transport = httpx.ASGITransport(wrapped, client=("203.0.113.9", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        await client.get("/users/42", headers={"authorization": "Bearer SECRET"})

asyncio.run(ask())
import json
json.dump([[int(span.kind.value) + 1, attributes(span)] for span in kept.get_finished_spans()], sys.stdout)
"""


@pytest.mark.process
@pytest.mark.parametrize("names", ["http", "", "http/dup"])
def test_spans_of_the_real_instrumentation(names):
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    environment = {
        **os.environ,
        "OTEL_SEMCONV_STABILITY_OPT_IN": names,
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": "authorization",
    }
    told = subprocess.run(
        [sys.executable, "-c", INSTRUMENTED], env=environment, capture_output=True, text=True, check=True
    )
    found = parse(*[(kind, attributes) for kind, attributes in json.loads(told.stdout)])
    (row,) = found.records
    assert (row["method"], row["route"], row["status"], row["auth"]) == ("GET", "/users/*", 200, "bearer")
    assert (row["user_agent_class"], row["client"]) == ("library", "203.0.113.9")
    assert "SECRET" not in repr(row)


def field(number, body):
    """A field of a protobuf message that has a length."""
    size, text = len(body), bytearray([number << 3 | 2])
    while True:
        size, low = size >> 7, size & 127
        text.append(low | (128 if size else 0))
        if not size:
            return bytes(text) + body


def nested(*numbers, inner):
    for number in reversed(numbers):
        inner = field(number, inner)
    return inner


EMPTY = b"\x0a\x00" * 2_000_000


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (EMPTY, PROTOBUF, "too_many"),
        (nested(1, inner=b"\x12\x00" * 2_000_000), PROTOBUF, "too_many"),
        (nested(1, 2, inner=b"\x12\x00" * 2_000_000), PROTOBUF, "too_many"),
        (nested(1, 2, 2, inner=b"\x4a\x00" * 2_000_000), PROTOBUF, "too_large"),
        (nested(1, 1, inner=EMPTY), PROTOBUF, "too_large"),
        (nested(1, 2, 2, 9, 2, 5, inner=EMPTY), PROTOBUF, "too_large"),
        (b"[" + b"[]," * 1_300_000 + b"[]]", JSON, "too_many"),
        (b'{"resourceSpans":[' + b"{}," * 1_300_000 + b"{}]}", JSON, "too_many"),
        (b"[" + b"1," * 2_000_000 + b"1]", JSON, "too_many"),
    ],
    ids=["resources", "scopes", "spans", "attributes", "of a resource", "in a list", "lists", "objects", "numbers"],
)
def test_a_small_body_that_becomes_millions_of_objects_is_refused(body, kind, reason):
    import tracemalloc

    import psutil

    tracemalloc.start()
    before = psutil.Process().memory_info().rss
    try:
        with pytest.raises(RefusedError, match=f"body:{reason}"):
            parse_traces(gzip.compress(body, 1), kind, "gzip")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The body itself, a few times, and nothing for what is in it; protobuf's own memory is not traced.
    assert most < 8 * len(body)
    assert psutil.Process().memory_info().rss - before < 60 * 2**20


@given(st.binary(max_size=200))
def test_fields_are_found_as_protobuf_finds_them(data):
    """Any bytes are the fields that protobuf reads, or are refused; what it takes for good is never refused."""
    from google.protobuf.message import DecodeError

    made = ExportTraceServiceRequest()
    try:
        made.MergeFromString(data)
    except DecodeError:
        return
    try:
        groups = [bytes(part) for number, part in messages_in(memoryview(data)) if number == 1]
    except ValueError as error:
        assert "wire type" in str(error)  # groups, which nobody has written for twenty years
        return
    assert len(groups) == len(made.resource_spans)
