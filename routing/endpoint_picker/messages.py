"""The messages of Envoy's external processing that the endpoint picker reads and writes.

Described here rather than taken from a package of all Envoy's messages: the official one (xds-protos) overwrites files
of opentelemetry-proto, and another (envoy-data-plane) takes a millisecond to parse a request. Numbers and types are
those of Envoy's `envoy/service/ext_proc/v3/external_processor.proto` and `envoy/config/core/v3/base.proto`; fields that
are not listed are skipped, as protobuf has it.
"""

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
OVERWRITE = 2  # of a header, or it is added
FULL_DUPLEX_STREAMED = 4  # bodies go through the processor
_PACKAGE = "fingerpost.ext_proc"
_SCALARS = {"string": 9, "bytes": 12, "bool": 8, "int32": 5}
_STRUCT = "google.protobuf.Struct"
_ENTRY = "FilterMetadataEntry"
# Field: (name, number, type); `*` repeated, `{` a map from text.
_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "HeaderValue": (("key", 1, "string"), ("value", 2, "string"), ("raw_value", 3, "bytes")),
    "HeaderValueOption": (("header", 1, "HeaderValue"), ("append_action", 3, "int32")),
    "HeaderMap": (("headers", 1, "*HeaderValue"),),
    "Metadata": (("filter_metadata", 1, "{" + _STRUCT),),
    "HttpHeaders": (("headers", 1, "HeaderMap"), ("end_of_stream", 3, "bool")),
    "HttpBody": (("body", 1, "bytes"), ("end_of_stream", 2, "bool")),
    "HttpTrailers": (("trailers", 1, "HeaderMap"),),
    "ProtocolConfiguration": (("request_body_mode", 1, "int32"), ("response_body_mode", 2, "int32")),
    "HeaderMutation": (("set_headers", 1, "*HeaderValueOption"), ("remove_headers", 2, "*string")),
    "StreamedBodyResponse": (("body", 1, "bytes"), ("end_of_stream", 2, "bool")),
    "BodyMutation": (("streamed_response", 3, "StreamedBodyResponse"),),
    "CommonResponse": (("header_mutation", 2, "HeaderMutation"), ("body_mutation", 3, "BodyMutation")),
    "HeadersResponse": (("response", 1, "CommonResponse"),),
    "BodyResponse": (("response", 1, "CommonResponse"),),
    "TrailersResponse": (("header_mutation", 1, "HeaderMutation"),),
    "HttpStatus": (("code", 1, "int32"),),
    "ImmediateResponse": (("status", 1, "HttpStatus"), ("body", 3, "bytes"), ("details", 5, "string")),
    "ProcessingRequest": (
        *(("request_headers", 2, "HttpHeaders"), ("response_headers", 3, "HttpHeaders")),
        *(("request_body", 4, "HttpBody"), ("response_body", 5, "HttpBody")),
        *(("request_trailers", 6, "HttpTrailers"), ("response_trailers", 7, "HttpTrailers")),
        *(("metadata_context", 8, "Metadata"), ("protocol_config", 11, "ProtocolConfiguration")),
    ),
    "ProcessingResponse": (
        *(("request_headers", 1, "HeadersResponse"), ("response_headers", 2, "HeadersResponse")),
        *(("request_body", 3, "BodyResponse"), ("response_body", 4, "BodyResponse")),
        *(("request_trailers", 5, "TrailersResponse"), ("response_trailers", 6, "TrailersResponse")),
        *(("immediate_response", 7, "ImmediateResponse"), ("dynamic_metadata", 8, _STRUCT)),
    ),
}
_ONEOF = {"ProcessingRequest": ("request", 7), "ProcessingResponse": ("response", 7)}  # fields below or at this number


@lru_cache(maxsize=1)
def messages() -> SimpleNamespace:
    """The message classes by their names."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

    file = descriptor_pb2.FileDescriptorProto(name="fingerpost/ext_proc.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        oneof, last = _ONEOF.get(name, ("", 0))
        if oneof:
            message.oneof_decl.add(name=oneof)
        for field, number, kind in fields:
            made = message.field.add(name=field, number=number, label=3 if kind[0] in "*{" else 1)
            if kind[0] == "{":
                entry = message.nested_type.add(name=_ENTRY)
                entry.options.map_entry = True
                _typed(entry.field.add(name="key", number=1, label=1), "string")
                _typed(entry.field.add(name="value", number=2, label=1), kind[1:])
            _typed(made, f"{name}.{_ENTRY}" if kind[0] == "{" else kind.removeprefix("*"))
            if oneof and number <= last:
                made.oneof_index = 0
    found = descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return SimpleNamespace(
        **{name: message_factory.GetMessageClass(found.message_types_by_name[name]) for name in _FIELDS}
    )


def _typed(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = 11
    field.type_name = f".{kind}" if kind == _STRUCT else f".{_PACKAGE}.{kind}"
