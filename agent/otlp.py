"""OpenTelemetry spans as request records: the body of OTLP/HTTP's `POST /v1/traces`, as protobuf or JSON.

By the OTLP specification 1.x and the semantic conventions for HTTP server spans, both the stable names (1.23 and later)
and those before. Protobuf is loaded at the first body: an agent without traces does not pay for it.
"""

import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fingerpost.agent.otlp_spans import record_of
from fingerpost.errors import RefusedError

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

logger = logging.getLogger(__name__)
PROTOBUF, JSON = "application/x-protobuf", "application/json"
MAX_BODY_BYTES = 4 * 2**20
MAX_DECODED_BYTES = 8 * 2**20
# What is in a body becomes tens to hundreds of bytes for each of its own: so many spans, scopes and resources, each of
# so many bytes; in JSON so many objects and lists, and so many values.
_MAX_PARTS = 50_000
_MAX_PART_BYTES = 256 * 2**10
_MAX_JSON_CONTAINERS, _MAX_JSON_VALUES = 400_000, 1_000_000
# Numbers of the fields of an ExportTraceServiceRequest, a ResourceSpans and a ScopeSpans, and protobuf's wire types.
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = 1, 1, 2, 2
_VARINT, _LENGTH, _FIXED, _MAX_VARINT = 0, 2, {1: 8, 5: 4}, 10
_SPAN_KIND_SERVER = 2
# Ids are hexadecimal in OTLP's JSON and base64 in protobuf's; events and links tell nothing of cost. None is read.
_UNREAD = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id", "links", "events")


@dataclass
class Spans:
    """What a body held.

    Args:
        records: request records, their values not yet checked against their bounds; `client` holds the client's address
            as text, to look the region up, never to be stored.
        refused: HTTP server spans that make no record, by reason.
        skipped: other spans: `not_server`, `not_http`.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


def parse_traces(
    body: bytes,
    content_type: str = PROTOBUF,
    content_encoding: str = "",
    service: str | None = None,
    host: str | None = None,
) -> Spans:
    """The request records of one export.

    Of traces that are sampled only the sampled part is seen: rates are then too low by that part.

    Args:
        content_type, content_encoding: the headers of the request; the encoding is none, `identity` or `gzip`.
        service, host: whose records they are; None: whose the spans say they are (`service.name`; `host.name`, else
            `service.instance.id`, else `server.address`).

    Raises:
        RefusedError: `body:too_large`, `body:too_many`, `body:encoding`, `body:content_type`, or `body:malformed`.
    """
    found = Spans()
    for resource, span in _spans(_unpacked(body, content_encoding), content_type):
        if span.kind != _SPAN_KIND_SERVER:
            found.skipped["not_server"] += 1
            continue
        try:
            record = record_of(span, _attributes(span.attributes), resource, service, host)
        except RefusedError as error:
            found.refused[error.reason] += 1
            continue
        if record is None:
            found.skipped["not_http"] += 1
        else:
            found.records.append(record)
    return found


def export_response(content_type: str, rejected: int = 0, reasons: Iterable[str] = ()) -> bytes:
    """The body that answers an export, in the encoding of the request.

    Args:
        rejected: spans that were refused; the sender is told, and does not send them again.
        reasons: why.
    """
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response = ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = ", ".join(sorted(reasons))
    if _media_type(content_type) == JSON:
        return json_format.MessageToJson(response, indent=None).encode()
    return response.SerializeToString()


def _unpacked(body: bytes, encoding: str) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise RefusedError("body:too_large")
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise RefusedError("body:encoding")
    unpacked = bytearray()
    try:
        while body:  # a gzip file may have several members
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            unpacked += member.decompress(body, MAX_DECODED_BYTES + 1 - len(unpacked))
            if len(unpacked) > MAX_DECODED_BYTES:
                raise RefusedError("body:too_large")
            if not member.eof:
                raise RefusedError("body:malformed")
            body = member.unused_data
    except zlib.error as error:
        raise RefusedError("body:malformed") from error
    return bytes(unpacked)


def _spans(body: bytes, content_type: str) -> Iterator[tuple[Mapping[str, Any], "Span"]]:
    """All spans of an export, each with the attributes of its resource."""
    media_type = _media_type(content_type)
    if media_type == JSON:
        return _each(_from_json(body))
    if media_type != PROTOBUF:
        raise RefusedError("body:content_type")
    return _from_protobuf(memoryview(body))


def _from_protobuf(body: memoryview) -> Iterator[tuple[Mapping[str, Any], "Span"]]:
    """One span after the other: an empty message is two bytes here, and a hundred in memory."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    left = _MAX_PARTS

    def parts(of: memoryview) -> Iterator[tuple[int, memoryview]]:
        nonlocal left
        for part in messages_in(of):
            left -= 1
            if left < 0:
                raise RefusedError("body:too_many")
            yield part

    try:
        for number, group in parts(body):
            if number != _RESOURCE_SPANS:
                continue
            resource: Mapping[str, Any] = {}
            scopes = []
            for inner, part in parts(group):
                if inner == _RESOURCE:
                    resource = _attributes(Resource.FromString(_small(part)).attributes)
                elif inner == _SCOPE_SPANS:
                    scopes.append(part)
            for scope in scopes:
                for inner, part in parts(scope):
                    if inner == _SPANS:
                        yield resource, Span.FromString(_small(part))
    except (DecodeError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError("body:malformed") from None


def _small(part: memoryview) -> bytes:
    if len(part) > _MAX_PART_BYTES:
        raise RefusedError("body:too_large")
    return bytes(part)


def messages_in(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message that have a length, each with its number; the others are passed over.

    Raises:
        ValueError: it is none.
    """
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == _LENGTH:
            size, place = _varint(data, place)
            if size > end - place:
                raise ValueError("it ends too early")
            yield tag >> 3, data[place : place + size]
            place += size
        elif kind == _VARINT:
            _, place = _varint(data, place)
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            raise ValueError(f"there is no wire type {kind}")
    if place > end:
        raise ValueError("it ends too early")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(data[place : place + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError("a number does not end")


def _from_json(body: bytes) -> "ExportTraceServiceRequest":
    import json

    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    if body.count(b"{") + body.count(b"[") > _MAX_JSON_CONTAINERS or body.count(b",") > _MAX_JSON_VALUES:
        raise RefusedError("body:too_many")
    try:
        tree = json.loads(body.decode(), object_hook=_without_unread)
        return json_format.ParseDict(tree, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (ValueError, RecursionError, json_format.ParseError, LookupError, TypeError, AttributeError) as error:
        logger.debug("an export is not OTLP's JSON: %s", type(error).__name__)
    # Not from in there: the error would hold on to all that was read.
    raise RefusedError("body:malformed")


def _without_unread(entry: dict[str, Any]) -> dict[str, Any]:
    for name in _UNREAD:
        entry.pop(name, None)
    return entry


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _each(request: "ExportTraceServiceRequest") -> Iterator[tuple[Mapping[str, Any], "Span"]]:
    """All spans, each with the attributes of its resource."""
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield resource, span


def _attributes(pairs: "Iterable[KeyValue]") -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: "AnyValue") -> Any:
    """Text, number, truth, or a list of them; None for what no convention for HTTP uses."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values if each.WhichOneof("value") != "array_value"]
    return getattr(value, kind) if kind in ("string_value", "int_value", "double_value", "bool_value") else None
